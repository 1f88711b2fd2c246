import assert from "node:assert/strict";
import { Code, ConnectError } from "@connectrpc/connect";
import { type ErrorDetail, Reason } from "../../gen/runlog/v1/error_pb.js";
import type { SequencedEvent } from "../../gen/runlog/v1/record_pb.js";
import { RunState } from "../../gen/runlog/v1/run_pb.js";
import { StopPolicy } from "../../gen/runlog/v1/subscribe_pb.js";
import { eventsOf, spec } from "../support/producer.ts";
import type { TestServer } from "../support/server.ts";
import { collect, describeService, refusalOf, type WireClient } from "../support/wire.ts";

/** Limits that make bad input cheap; the rest is as in production. */
const limits = { maxEventBytes: 2_000, maxAppendBytes: 6_000, maxMessageBytes: 20_000 };

describeService("a producer with windows", (wire, startServer) => {
  let server: TestServer;
  let client: WireClient;

  beforeEach(async () => {
    server = await startServer({ limits });
    client = await wire.connect(server.url);
  });

  afterEach(async () => {
    client.close();
    await server.remove();
    assert.deepEqual(server.errors, []);
  });

  const recordsOf = async (...runIds: string[]): Promise<SequencedEvent[]> => {
    const filter = { scope: { case: "runIds" as const, value: { runIds } } };
    const frames = await collect(
      client.subscribe.subscribe({ filter, stop: StopPolicy.CAUGHT_UP }),
    );
    return frames.flatMap(({ frame }) => (frame.case === "events" ? frame.value.events : []));
  };
  const textsOf = async (runId: string): Promise<string[]> =>
    (await recordsOf(runId)).flatMap(({ record }) =>
      record.case === "event" ? [Buffer.from(record.value.data).toString()] : [],
    );

  const refuses = async (request: object, code: Code, reason: Reason): Promise<ErrorDetail> => {
    const refused = await refusalOf(client.ingest.appendEvents(request));
    assert.equal(Code[refused.code], Code[code]);
    assert.equal(Reason[refused.detail?.reason ?? 0], Reason[reason]);
    return refused.detail!;
  };

  it("appends, repeats, finishes, and is refused with what to do", async () => {
    const first = await client.ingest.appendEvents({
      runId: "r",
      create: spec,
      firstRunSeq: 1n,
      events: eventsOf("a", "b"),
    });
    assert.deepEqual([first.epoch, first.lastRunSeq, first.seq], [1n, 2n, 3n]);
    assert.equal(first.limits?.maxEventBytes, 2_000n);
    const { epoch } = first;
    const window = { runId: "r", epoch };
    const again = await client.ingest.appendEvents({
      ...window,
      firstRunSeq: 2n,
      events: eventsOf("b", "c"),
    });
    assert.deepEqual([again.lastRunSeq, again.seq], [3n, 4n]);
    const asked = await client.ingest.appendEvents(window);
    assert.deepEqual([asked.epoch, asked.lastRunSeq, asked.seq], [1n, 3n, 4n]);

    const conflict = { ...window, firstRunSeq: 3n, events: eventsOf("other") };
    const differs = await refuses(conflict, Code.FailedPrecondition, Reason.CONFLICT);
    assert.equal(differs.expectedRunSeq, 4n);
    const gap = { ...window, firstRunSeq: 9n, events: eventsOf("x") };
    assert.equal((await refuses(gap, Code.OutOfRange, Reason.SEQ_GAP)).expectedRunSeq, 4n);

    const taken = await client.ingest.appendEvents({ runId: "r" });
    assert.equal(taken.epoch, 2n);
    const stale = { ...window, firstRunSeq: 4n, events: eventsOf("stale") };
    assert.equal((await refuses(stale, Code.FailedPrecondition, Reason.FENCED)).epoch, 2n);
    assert.equal((await refuses(window, Code.FailedPrecondition, Reason.FENCED)).epoch, 2n);

    const result = { state: RunState.FAILED, failure: { code: "c" }, suppressed: [{ code: "s" }] };
    await client.ingest.appendEvents({ runId: "r", epoch: 2n, finish: result });
    await client.ingest.appendEvents({ runId: "r", epoch: 2n, finish: result });
    const another = { runId: "r", epoch: 2n, finish: { state: RunState.SUCCEEDED } };
    await refuses(another, Code.FailedPrecondition, Reason.RUN_FINISHED);
    const more = { runId: "r", epoch: 2n, firstRunSeq: 4n, events: eventsOf("late") };
    await refuses(more, Code.FailedPrecondition, Reason.RUN_FINISHED);

    const records = await recordsOf("r");
    assert.deepEqual(await textsOf("r"), ["a", "b", "c"]);
    assert.deepEqual(
      records.map(({ record }) => record.case),
      ["runStarted", "event", "event", "event", "runFinished"],
    );
    const { run } = await client.runs.getRun({ runId: "r" });
    assert.equal(run?.state, RunState.FAILED);
    assert.deepEqual(
      run.result?.suppressed.map(({ code }) => code),
      ["s"],
    );
  });

  it("that names itself is answered alike again, and keeps the run from its older attempts", async () => {
    const take = (attempt: bigint, producerId = "p") =>
      client.ingest.appendEvents({ runId: "r", create: spec, producerId, attempt });
    const first = { runId: "r", create: spec, producerId: "p", attempt: 1n };
    const window = { ...first, firstRunSeq: 1n, events: eventsOf("a") };
    assert.equal((await client.ingest.appendEvents(window)).epoch, 1n);
    const again = await client.ingest.appendEvents(window);
    assert.deepEqual([again.epoch, again.lastRunSeq], [1n, 1n]);
    assert.equal((await take(3n)).epoch, 2n);
    const older = { ...first, attempt: 2n };
    const superseded = await refuses(older, Code.FailedPrecondition, Reason.SUPERSEDED);
    assert.equal(superseded.epoch, 2n);
    const stale = { ...first, epoch: 1n, firstRunSeq: 2n, events: eventsOf("stale") };
    await refuses(stale, Code.FailedPrecondition, Reason.SUPERSEDED);
    assert.equal((await take(1n, "another")).epoch, 3n);
    const fenced = { ...first, epoch: 2n, attempt: 3n };
    assert.equal((await refuses(fenced, Code.FailedPrecondition, Reason.FENCED)).epoch, 3n);
    assert.equal((await client.ingest.appendEvents({ runId: "r" })).epoch, 4n);
    assert.equal((await take(1n, "another")).epoch, 5n);
    assert.deepEqual(await textsOf("r"), ["a"]);
    for (const producerId of ["x".repeat(129), "ä", "a b", "a\0"]) {
      const detail = await refuses(
        { runId: "r", producerId },
        Code.InvalidArgument,
        Reason.INVALID_FIELD,
      );
      assert.equal(detail.field, "producer_id");
    }
    const beyond = { runId: "r", producerId: "p", attempt: 1n << 53n };
    const { field } = await refuses(beyond, Code.InvalidArgument, Reason.INVALID_FIELD);
    assert.equal(field, "attempt");
  });

  it("creates runs once, and is refused an unknown run, another spec and an unknown parent", async () => {
    const unknown = await refusalOf(client.runs.getRun({ runId: "r" }));
    assert.deepEqual([unknown.code, unknown.detail?.reason], [Code.NotFound, Reason.RUN_NOT_FOUND]);
    await refuses({ runId: "r" }, Code.NotFound, Reason.RUN_NOT_FOUND);
    const first = await client.runs.createRun({ runId: "r", spec });
    assert.deepEqual((await client.runs.createRun({ runId: "r", spec })).run, first.run);
    const other = await refusalOf(client.runs.createRun({ runId: "r", spec: { agentId: "b" } }));
    assert.deepEqual([other.code, other.detail?.reason], [Code.AlreadyExists, Reason.RUN_EXISTS]);
    await refuses({ runId: "r", create: {} }, Code.AlreadyExists, Reason.RUN_EXISTS);
    const orphan = await refusalOf(client.runs.createRun({ spec: { parentRunId: "nobody" } }));
    assert.deepEqual(
      [orphan.code, orphan.detail?.reason],
      [Code.NotFound, Reason.PARENT_NOT_FOUND],
    );
    const { run } = await client.runs.createRun({ spec: { parentRunId: "r" } });
    assert.match(run?.runId ?? "", /^[0-9a-f]{8}-[0-9a-f]{4}-7/);
    assert.deepEqual([run?.rootRunId, run?.depth], ["r", 1]);
  });

  it("hears which field is wrong, and the server goes on", async () => {
    const base = { runId: "r", create: spec };
    const bad: readonly [object, string, Reason][] = [
      [{ ...base, runId: "x".repeat(129) }, "run_id", Reason.INVALID_FIELD],
      [{ ...base, runId: "" }, "run_id", Reason.INVALID_FIELD],
      [{ ...base, namespace: "a b" }, "namespace", Reason.INVALID_FIELD],
      [{ ...base, namespace: "x".repeat(64) }, "namespace", Reason.INVALID_FIELD],
      [{ ...base, events: eventsOf("a") }, "first_run_seq", Reason.INVALID_FIELD],
      [{ ...base, firstRunSeq: 1n }, "first_run_seq", Reason.INVALID_FIELD],
      [
        { ...base, firstRunSeq: 1n, events: [{ type: "" }] },
        "events[0].type",
        Reason.INVALID_FIELD,
      ],
      [
        { ...base, firstRunSeq: 1n, events: [{ type: "a" }, { type: "x".repeat(129) }] },
        "events[1].type",
        Reason.INVALID_FIELD,
      ],
      [
        {
          ...base,
          firstRunSeq: 1n,
          events: [
            {
              type: "a",
              attributes: Object.fromEntries(Array.from({ length: 17 }, (_, i) => [`k${i}`, ""])),
            },
          ],
        },
        "events[0].attributes",
        Reason.INVALID_FIELD,
      ],
      [
        { ...base, firstRunSeq: 1n, events: eventsOf("x".repeat(2_001)) },
        "events[0]",
        Reason.TOO_LARGE,
      ],
      [
        {
          ...base,
          firstRunSeq: 1n,
          events: eventsOf(..."abcd".split("").map((c) => c.repeat(1_900))),
        },
        "events",
        Reason.TOO_LARGE,
      ],
      [{ ...base, finish: { state: RunState.RUNNING } }, "finish.state", Reason.INVALID_FIELD],
      [{ ...base, create: { labels: { "": "v" } } }, "create.labels", Reason.INVALID_FIELD],
      [{ ...base, create: { agentId: "x".repeat(257) } }, "create.agent_id", Reason.INVALID_FIELD],
      [
        { ...base, create: { lease: { seconds: 0n, nanos: 1 } } },
        "create.lease",
        Reason.INVALID_FIELD,
      ],
    ];
    for (const [request, field, reason] of bad) {
      const detail = await refuses(request, Code.InvalidArgument, reason);
      assert.equal(detail.field, field);
      if (reason === Reason.TOO_LARGE) assert.ok(detail.limit > 0n);
    }
    const none = await refusalOf(collect(client.subscribe.subscribe({})));
    assert.deepEqual([none.code, none.detail?.field], [Code.InvalidArgument, "filter.scope"]);
    const empty = { scope: { case: "runIds" as const, value: { runIds: [] } } };
    const noIds = await refusalOf(collect(client.subscribe.subscribe({ filter: empty })));
    assert.deepEqual(
      [noIds.code, noIds.detail?.field],
      [Code.InvalidArgument, "filter.run_ids.run_ids"],
    );
    const pages = await refusalOf(client.runs.listRuns({ pageSize: 1_001 }));
    assert.deepEqual([pages.detail?.field, pages.detail?.limit], ["page_size", 1_000n]);
    assert.equal(
      (await refusalOf(client.runs.listRuns({ pageToken: "x" }))).detail?.field,
      "page_token",
    );
    // Over the limit of a message, which the transport itself cuts.
    const huge = { ...base, firstRunSeq: 1n, events: eventsOf("x".repeat(20_000)) };
    const { code, detail } = await refusalOf(client.ingest.appendEvents(huge));
    assert.deepEqual([code, detail?.reason], [Code.InvalidArgument, Reason.TOO_LARGE]);
    // Nothing of all that has left a trace.
    await client.ingest.appendEvents({ ...base, firstRunSeq: 1n, events: eventsOf("good") });
    assert.deepEqual(await textsOf("r"), ["good"]);
    assert.equal((await client.runs.listRuns({})).runs.length, 1);
  });

  it("lists runs, newest first, by pages and by what they are", async () => {
    for (let i = 0; i < 25; i++) {
      const parentRunId = i === 0 ? "" : i % 2 === 0 ? "run-0" : `run-${i - 1}`;
      const labels = { parity: i % 2 === 0 ? "even" : "odd", third: String(i % 3 === 0) };
      await client.runs.createRun({
        runId: `run-${i}`,
        spec: { parentRunId, conversationId: `c${i % 5}`, labels },
      });
    }
    const list = async (request: object): Promise<string[]> => {
      const ids: string[] = [];
      for (let pageToken = ""; ; ) {
        const page = await client.runs.listRuns({ ...request, pageSize: 10, pageToken });
        ids.push(...page.runs.map((run) => run.runId));
        pageToken = page.nextPageToken;
        if (pageToken === "") return ids;
      }
    };
    const numbers = Array.from({ length: 25 }, (_, i) => 24 - i);
    const where = (holds: (i: number) => boolean) => numbers.filter(holds).map((i) => `run-${i}`);
    assert.deepEqual(
      await list({}),
      where(() => true),
    );
    assert.deepEqual(
      await list({ parentRunId: "run-0" }),
      where((i) => i === 1 || (i > 0 && i % 2 === 0)),
    );
    assert.deepEqual(await list({ ancestorRunId: "run-4" }), ["run-5"]);
    assert.deepEqual(
      await list({ ancestorRunId: "run-0" }),
      where((i) => i > 0),
    );
    assert.deepEqual(
      await list({ conversationId: "c2" }),
      where((i) => i % 5 === 2),
    );
    assert.deepEqual(
      await list({ labels: { parity: "odd", third: "true" } }),
      where((i) => i % 2 === 1 && i % 3 === 0),
    );
    await client.ingest.appendEvents({ runId: "run-7", finish: { state: RunState.CANCELLED } });
    assert.deepEqual(await list({ states: [RunState.CANCELLED, RunState.FAILED] }), ["run-7"]);
    const missing = await refusalOf(client.runs.listRuns({ ancestorRunId: "nobody" }));
    assert.equal(missing.detail?.reason, Reason.RUN_NOT_FOUND);
  });

  it("gets the mistake in plain words, whatever the input contains", async () => {
    const runId = "a:b,c;d/e%3A?&=+$#";
    const refused = await client.runs.getRun({ runId }).catch((error: unknown) => error);
    assert.ok(refused instanceof ConnectError);
    assert.equal(
      refused.rawMessage,
      `run ${JSON.stringify(runId)} does not exist in this namespace: check its id, or create it first`,
    );
    const parents = { parentRunId: "x".repeat(129), displayName: "ü" };
    const other = await client.runs.createRun({ spec: parents }).catch((error: unknown) => error);
    assert.ok(other instanceof ConnectError);
    assert.match(other.rawMessage, /^spec\.parent_run_id: is longer than 128 bytes$/);
  });

  it("of another namespace sees nothing of this one", async () => {
    const one = { namespace: "one", runId: "r", create: spec, firstRunSeq: 1n };
    await client.ingest.appendEvents({ ...one, events: eventsOf("1") });
    await client.ingest.appendEvents({ ...one, namespace: "two", events: eventsOf("2") });
    const frames = await collect(
      client.subscribe.subscribe({
        namespace: "two",
        filter: { scope: { case: "all", value: {} } },
        stop: StopPolicy.CAUGHT_UP,
      }),
    );
    const records = frames.flatMap(({ frame }) =>
      frame.case === "events" ? frame.value.events : [],
    );
    assert.deepEqual(
      records.map((record) => record.seq),
      [1n, 2n],
    );
    assert.equal(
      (await refusalOf(client.runs.getRun({ runId: "r" }))).detail?.reason,
      Reason.RUN_NOT_FOUND,
    );
  });
});
