import assert from "node:assert/strict";
import { Reason } from "../../gen/runlog/v1/error_pb.js";
import { StopPolicy, type SubscribeResponse } from "../../gen/runlog/v1/subscribe_pb.js";
import {
  AccessFile,
  allPermissions,
  type GrantJson,
  tokenEntry,
  tokenOf,
} from "../support/access.ts";
import { journalKinds, type TestServer } from "../support/server.ts";
import { collect, refusalOf, type WireClient, wires } from "../support/wire.ts";

const wire = wires.find(({ name }) => name === "gRPC (connect-node)")!;
const event = { type: "test", data: new Uint8Array(1) };

for (const [kind, startServer] of Object.entries(journalKinds)) {
  describe(`a token that is narrowed to a subtree, on ${kind}`, () => {
    let file: AccessFile;
    let server: TestServer;
    let owner: WireClient;
    let narrowed: WireClient;
    let reader: WireClient;
    let seqs: Map<string, bigint>;

    const create = async (runId: string, parentRunId = "", labels = {}) => {
      const { run } = await owner.runs.createRun({ runId, spec: { parentRunId, labels } });
      seqs.set(runId, run!.startSeq);
      await owner.ingest.appendEvents({ runId, firstRunSeq: 1n, events: [event] });
    };

    beforeEach(async () => {
      const ownerEntry = tokenEntry("owner", [{ namespace: "*", permissions: allPermissions }]);
      file = await AccessFile.make({ tokens: [ownerEntry] });
      server = await startServer({ accessFile: file.path });
      owner = await wire.connect(server.url, tokenOf("owner"));
      seqs = new Map();
      await create("root", "", { side: "both" });
      await create("left", "root", { side: "both" });
      await create("left-1", "left", { side: "both" });
      await create("left-1-1", "left-1");
      await create("right", "root", { side: "both" });
      await create("right-1", "right");
      await create("alone");
      const grant = (runId: string, permissions: readonly string[]): GrantJson => ({
        namespace: "default",
        ancestor: { run_id: runId, start_seq: Number(seqs.get(runId)) },
        permissions,
      });
      await file.write({
        tokens: [
          ownerEntry,
          tokenEntry("narrowed", [grant("left", allPermissions), grant("alone", allPermissions)]),
          tokenEntry("reader", [
            grant("left", ["ingest"]),
            { namespace: "default", permissions: ["read"] },
          ]),
        ],
      });
      owner.close();
      server = await server.restart();
      owner = await wire.connect(server.url, tokenOf("owner"));
      narrowed = await wire.connect(server.url, tokenOf("narrowed"));
      reader = await wire.connect(server.url, tokenOf("reader"));
    });

    afterEach(async () => {
      for (const client of [owner, narrowed, reader]) client.close();
      await server.remove();
      await file.remove();
      assert.deepEqual(server.errors, []);
    });

    const reasonOf = async (call: Promise<unknown>) =>
      Reason[(await refusalOf(call)).detail?.reason ?? 0];
    const idsOf = async (client: WireClient, request: object = {}): Promise<string[]> => {
      const { runs } = await client.runs.listRuns(request);
      return runs.map(({ runId }) => runId).toSorted();
    };

    it("lists the runs of its subtrees, whatever the condition", async () => {
      const all = ["alone", "left", "left-1", "left-1-1"];
      assert.deepEqual(await idsOf(narrowed), all);
      assert.equal((await idsOf(owner)).length, 7);
      assert.deepEqual(await idsOf(narrowed, { labels: { side: "both" } }), ["left", "left-1"]);
      assert.deepEqual(await idsOf(narrowed, { ancestorRunId: "left" }), ["left-1", "left-1-1"]);
      assert.deepEqual(await idsOf(narrowed, { parentRunId: "left" }), ["left-1"]);
      for (const relative of [{ ancestorRunId: "root" }, { parentRunId: "right" }]) {
        assert.equal(await reasonOf(narrowed.runs.listRuns(relative)), "RUN_NOT_FOUND");
      }
      const paged: string[] = [];
      for (let pageToken = ""; ; ) {
        const page = await narrowed.runs.listRuns({ pageSize: 1, pageToken });
        paged.push(...page.runs.map(({ runId }) => runId));
        pageToken = page.nextPageToken;
        if (pageToken === "") break;
      }
      assert.deepEqual(paged.toSorted(), all);
    });

    it("starts no root and nothing outside, and learns only that an id is taken", async () => {
      const start = (runId: string, parentRunId: string) =>
        narrowed.runs.createRun({ runId, spec: { parentRunId } });
      assert.equal(await reasonOf(start("new", "")), "PERMISSION");
      assert.equal(await reasonOf(start("new", "right")), "PARENT_NOT_FOUND");
      assert.equal(await reasonOf(start("new", "nowhere")), "PARENT_NOT_FOUND");
      assert.equal(await reasonOf(start("right", "")), "PERMISSION");
      assert.equal(await reasonOf(start("right", "root")), "PARENT_NOT_FOUND");
      assert.equal(await reasonOf(start("right", "left")), "RUN_EXISTS");
      assert.equal((await start("left-2", "left")).run?.rootRunId, "root");
      // Its own head is there, with whatever spec it was started.
      const head = { runId: "left", spec: { parentRunId: "root", labels: { side: "both" } } };
      assert.equal((await narrowed.runs.createRun(head)).run?.runId, "left");
    });

    it("writes nothing outside, by an epoch that it has heard of either", async () => {
      const { epoch } = await owner.ingest.appendEvents({ runId: "right" });
      const window = { runId: "right", firstRunSeq: 2n, events: [event] };
      for (const asked of [{ ...window, epoch }, window, { runId: "right", epoch }]) {
        assert.equal(await reasonOf(narrowed.ingest.appendEvents(asked)), "RUN_NOT_FOUND");
      }
      const taken = { ...window, create: { parentRunId: "left" } };
      assert.equal(await reasonOf(narrowed.ingest.appendEvents(taken)), "RUN_EXISTS");
      assert.equal((await owner.runs.getRun({ runId: "right" })).run?.lastRunSeq, 1n);
      const own = await narrowed.ingest.appendEvents({ ...window, runId: "left-1" });
      assert.equal(own.lastRunSeq, 2n);
    });

    it("forks what it may read, into its subtree", async () => {
      const fork = (client: WireClient, sourceRunId: string, runId: string) =>
        client.runs.forkRun({ sourceRunId, runSeq: 1n, runId, spec: { parentRunId: "left" } });
      assert.equal(await reasonOf(fork(narrowed, "right", "fork-1")), "RUN_NOT_FOUND");
      assert.equal(await reasonOf(fork(narrowed, "nothing", "fork-1")), "RUN_NOT_FOUND");
      assert.equal((await fork(narrowed, "alone", "fork-1")).run?.fork?.runId, "alone");
      assert.equal((await fork(reader, "right", "fork-2")).run?.fork?.runId, "right");
    });

    it("signals inside alone, and under its own name", async () => {
      for (const runId of ["root", "right", "nothing"]) {
        const refused = narrowed.runs.signalRun({ runId, event });
        assert.equal(await reasonOf(refused), "RUN_NOT_FOUND");
      }
      await narrowed.runs.signalRun({ runId: "left-1", event });
      const filter = { scope: { case: "runIds" as const, value: { runIds: ["left-1"] } } };
      const { events } = await narrowed.subscribe.readEvents({ filter });
      const senders = events.map(({ record }) =>
        record.case === "signal" ? record.value.sender : undefined,
      );
      assert.equal(senders.at(-1), "narrowed");
    });

    it("cancels and deletes inside alone", async () => {
      const cancel = { includeDescendants: true, reason: "enough" };
      for (const runId of ["root", "right"]) {
        assert.equal(
          await reasonOf(narrowed.runs.cancelRun({ ...cancel, runId })),
          "RUN_NOT_FOUND",
        );
      }
      assert.equal((await narrowed.runs.cancelRun({ ...cancel, runId: "left" })).runCount, 3);
      assert.equal(
        await reasonOf(narrowed.admin.deleteTree({ rootRunId: "root" })),
        "RUN_NOT_FOUND",
      );
      await narrowed.ingest.appendEvents({ runId: "alone", finish: { state: 2 } });
      assert.equal((await narrowed.admin.deleteTree({ rootRunId: "alone" })).runCount, 1);
    });

    it("is not told which run elsewhere is a fork of its own", async () => {
      const spec = { parentRunId: "right" };
      await owner.runs.forkRun({ sourceRunId: "alone", runSeq: 1n, runId: "secret", spec });
      await owner.ingest.appendEvents({ runId: "alone", finish: { state: 2 } });
      for (const [client, expected] of [
        [narrowed, /\ba run of another tree/],
        [owner, /run "secret" of another tree/],
      ] as const) {
        await assert.rejects(client.admin.deleteTree({ rootRunId: "alone" }), expected);
      }
    });

    it("means the run that it was made for, and no other with its id", async () => {
      await owner.ingest.appendEvents({ runId: "alone", finish: { state: 2 } });
      const scope = { case: "runIds" as const, value: { runIds: ["alone"] } };
      const answers = narrowed.subscribe.subscribe({ filter: { scope } })[Symbol.asyncIterator]();
      await answers.next();
      await owner.admin.deleteTree({ rootRunId: "alone" });
      await owner.runs.createRun({ runId: "alone" });
      assert.equal(await reasonOf(narrowed.runs.getRun({ runId: "alone" })), "RUN_NOT_FOUND");
      assert.equal(
        await reasonOf(narrowed.ingest.appendEvents({ runId: "alone" })),
        "RUN_NOT_FOUND",
      );
      assert.deepEqual(await idsOf(narrowed), ["left", "left-1", "left-1-1"]);
      const rest = async () => {
        for (;;) if ((await answers.next()).done === true) return;
      };
      assert.equal(await reasonOf(rest()), "RUN_NOT_FOUND");
    });

    const subscribe = (client: WireClient, scope: object, more: object = {}) =>
      collect<SubscribeResponse>(
        client.subscribe.subscribe({
          filter: { scope: scope as never },
          stop: StopPolicy.CAUGHT_UP,
          ...more,
        }),
      );
    const runIds = (...ids: string[]) => ({ case: "runIds", value: { runIds: ids } });
    const ancestor = (ancestorRunId: string) => ({ case: "ancestor", value: { ancestorRunId } });
    const runsIn = (frames: readonly SubscribeResponse[]) =>
      new Set(
        frames.flatMap(({ frame }) =>
          frame.case === "events" ? frame.value.events.map(({ runId }) => runId) : [],
        ),
      );

    it("subscribes inside alone, and waits for nothing that may be outside", async () => {
      const all = { case: "all", value: {} };
      assert.equal(await reasonOf(subscribe(narrowed, all)), "PERMISSION");
      const page = narrowed.subscribe.readEvents({ filter: { scope: all as never } });
      assert.equal(await reasonOf(page), "PERMISSION");
      for (const allowMissing of [false, true]) {
        for (const scope of [
          ancestor("root"),
          ancestor("nothing"),
          runIds("left", "right"),
          runIds("left", "nothing"),
        ]) {
          const refused = subscribe(narrowed, scope, { allowMissing });
          assert.equal(await reasonOf(refused), "RUN_NOT_FOUND");
        }
      }
      const family = await subscribe(narrowed, ancestor("left"), { allowMissing: true });
      assert.deepEqual([...runsIn(family)], ["left-1", "left-1-1"]);
      const some = await subscribe(narrowed, runIds("left", "left-1-1", "alone"));
      assert.deepEqual([...runsIn(some)].toSorted(), ["alone", "left", "left-1-1"]);
    });

    it("finds one run outside among a hundred", async () => {
      const inside = Array.from({ length: 99 }, (_, index) => `many-${index}`);
      for (const runId of inside)
        await owner.runs.createRun({ runId, spec: { parentRunId: "left" } });
      assert.equal(runsIn(await subscribe(narrowed, runIds(...inside))).size, 99);
      const refused = subscribe(narrowed, runIds(...inside, "right"));
      assert.equal(await reasonOf(refused), "RUN_NOT_FOUND");
    });

    it("changes no filter of a watch to the outside", async () => {
      for (const runId of ["right", "nothing"]) {
        const { promise: hasAnswer, resolve: answered } = Promise.withResolvers<void>();
        async function* requests() {
          const request = { filter: { scope: runIds("left") as never } };
          yield { subscriptionId: 1, frame: { case: "start" as const, value: { request } } };
          await hasAnswer;
          const filter = { scope: runIds(runId) as never };
          yield { subscriptionId: 1, frame: { case: "changeFilter" as const, value: filter } };
        }
        let reason: Reason | undefined;
        for await (const { frame } of narrowed.subscribe.watch(requests())) {
          answered();
          if (frame.case === "ended") reason = frame.value.detail?.reason;
        }
        assert.equal(Reason[reason ?? 0], "RUN_NOT_FOUND");
      }
    });
  });
}

describe("the namespaces that are listed", () => {
  it("are those in which the caller has the permission, on every page", async () => {
    const grant = (namespace: string) => ({ namespace, permissions: ["admin"] });
    const file = await AccessFile.make({
      tokens: [
        tokenEntry("owner", [{ namespace: "*", permissions: allPermissions }]),
        tokenEntry("some", [grant("b"), grant("d"), grant("not-there")]),
      ],
    });
    const server = await journalKinds["SQLite"]!({ accessFile: file.path });
    const owner = await wire.connect(server.url, tokenOf("owner"));
    for (const namespace of ["a", "b", "c", "d", "e"]) await owner.runs.createRun({ namespace });
    const some = await wire.connect(server.url, tokenOf("some"));
    const names: string[] = [];
    for (let pageToken = ""; ; ) {
      const page = await some.admin.listNamespaces({ pageSize: 1, pageToken });
      names.push(...page.namespaces.map(({ name }) => name));
      pageToken = page.nextPageToken;
      if (pageToken === "") break;
    }
    assert.deepEqual(names, ["b", "d"]);
    owner.close();
    some.close();
    await server.remove();
    await file.remove();
  });
});
