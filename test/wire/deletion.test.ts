import assert from "node:assert/strict";
import type { MessageInitShape } from "@bufbuild/protobuf";
import { Code } from "@connectrpc/connect";
import { Reason } from "../../gen/runlog/v1/error_pb.js";
import type { EventFilterSchema } from "../../gen/runlog/v1/record_pb.js";
import { StopPolicy } from "../../gen/runlog/v1/subscribe_pb.js";
import { spec } from "../support/producer.ts";
import { collect, describeService, refusalOf } from "../support/wire.ts";
import { RunLife, refuses, succeeded } from "./run-life.ts";

type Scope = NonNullable<MessageInitShape<typeof EventFilterSchema>["scope"]>;

describeService("deleting a run", (wire, startServer) => {
  let life: RunLife;

  beforeEach(async () => {
    life = await RunLife.start(wire, startServer);
  });

  afterEach(() => life.close());

  it("is deleted with its whole tree once that has ended, and its id is free again", async () => {
    await life.write("root", ["a", "b"]);
    const child = { create: { ...spec, parentRunId: "root" } };
    await life.write("child", ["c"], { ...child, finish: succeeded });
    const tree = { rootRunId: "root" };
    await refuses(life.client.admin.deleteTree(tree), Code.FailedPrecondition, Reason.TREE_IN_USE);
    await life.write("root", [], { finish: succeeded });
    const notRoot = life.client.admin.deleteTree({ rootRunId: "child" });
    assert.equal(
      (await refuses(notRoot, Code.InvalidArgument, Reason.INVALID_FIELD)).field,
      "root_run_id",
    );
    await life.client.runs.forkRun({ sourceRunId: "child", runSeq: 1n, runId: "fork" });
    await refuses(life.client.admin.deleteTree(tree), Code.FailedPrecondition, Reason.TREE_IN_USE);
    await life.write("fork", [], { create: undefined, finish: succeeded });
    await life.client.admin.deleteTree({ rootRunId: "fork" });

    const before = (await life.client.admin.listNamespaces({})).namespaces[0]!;
    const deleted = await life.client.admin.deleteTree(tree);
    assert.deepEqual([deleted.runCount, deleted.recordCount], [2, 7n]);
    const after = (await life.client.admin.listNamespaces({})).namespaces[0]!;
    assert.deepEqual(
      [before.runCount, before.eventBytes > 0n, after.runCount, after.eventBytes],
      [2n, true, 0n, 0n],
    );
    assert.equal(after.latestSeq, before.latestSeq, "seqs are not used again");
    assert.equal(after.earliestSeq, after.latestSeq + 1n);
    for (const runId of ["root", "child"]) {
      await refuses(life.client.runs.getRun({ runId }), Code.NotFound, Reason.RUN_NOT_FOUND);
    }
    assert.deepEqual((await life.client.runs.listRuns({})).runs, []);
    await refuses(life.client.admin.deleteTree(tree), Code.NotFound, Reason.RUN_NOT_FOUND);
    const again = await life.write("root", ["z"], { finish: succeeded });
    assert.equal(again.seq, after.latestSeq + 2n);
    assert.deepEqual(await life.factsOf("root"), ["runStarted", "event", "runFinished"]);
  });

  it("is kept for as long as its namespace says, counted from the end of its tree", async () => {
    await life.write("old", ["a"], { finish: succeeded });
    await life.write("running", ["a"]);
    const gone = collect(
      life.client.subscribe.subscribe({
        filter: { scope: { case: "runIds", value: { runIds: ["old"] } } },
      }),
    );
    const { namespace } = await life.client.admin.setRetention({
      namespace: "default",
      retention: { seconds: 1n, nanos: 0 },
    });
    assert.equal(namespace?.retention?.seconds, 1n);
    await refuses(gone, Code.NotFound, Reason.RUN_NOT_FOUND);
    const { runs } = await life.client.runs.listRuns({});
    assert.deepEqual(
      runs.map((run) => run.runId),
      ["running"],
    );
    const unset = await life.client.admin.setRetention({ namespace: "default" });
    assert.equal(unset.namespace?.retention, undefined);
    const short = life.client.admin.setRetention({
      namespace: "n",
      retention: { seconds: 0n, nanos: 5 },
    });
    const detail = await refuses(short, Code.InvalidArgument, Reason.INVALID_FIELD);
    assert.equal(detail.field, "retention");
  });

  it("ends the subscriptions to it when its tree is deleted, and leaves the others alone", async () => {
    await life.write("gone", ["a"], { finish: succeeded });
    await life.write("stays", ["b"]);
    const scopes: Record<"run" | "family" | "other" | "all", Scope> = {
      run: { case: "runIds", value: { runIds: ["gone"] } },
      family: { case: "ancestor", value: { ancestorRunId: "gone", includeSelf: true } },
      other: { case: "ancestor", value: { ancestorRunId: "stays", includeSelf: true } },
      all: { case: "all", value: {} },
    };
    const abort = new AbortController();
    const follow = async (scope: Scope) => {
      const frames = life.client.subscribe
        .subscribe({ filter: { scope } }, { signal: abort.signal })
        [Symbol.asyncIterator]();
      for (const expected of ["subscribed", "events", "caughtUp"]) {
        assert.equal((await frames.next()).value?.frame.case, expected);
      }
      return frames;
    };
    const [run, family, other, all] = await Promise.all([
      follow(scopes.run),
      follow(scopes.family),
      follow(scopes.other),
      follow(scopes.all),
    ]);
    await life.client.admin.deleteTree({ rootRunId: "gone" });
    await refuses(run!.next(), Code.NotFound, Reason.RUN_NOT_FOUND);
    await refuses(family!.next(), Code.NotFound, Reason.RUN_NOT_FOUND);
    // These had everything that was deleted, or never wanted it.
    await life.write("stays", ["b", "c"], { create: undefined });
    for (const frames of [other!, all!]) {
      const { value } = await frames.next();
      assert.equal(value?.frame.case === "events" && value.frame.value.events.at(-1)?.runSeq, 2n);
    }
    abort.abort();
    await Promise.all([refusalOf(other!.next()), refusalOf(all!.next())]);

    // A reader in the middle of it learns from which seq the journal is whole again.
    const resumed = (afterSeq: bigint) =>
      collect(
        life.client.subscribe.subscribe({
          filter: { scope: scopes.all },
          start: { case: "afterSeq", value: afterSeq },
          stop: StopPolicy.CAUGHT_UP,
        }),
      );
    const trimmed = await refuses(resumed(1n), Code.OutOfRange, Reason.CURSOR_TRIMMED);
    assert.equal(trimmed.earliestSeq, 4n);
    const page = life.client.subscribe.readEvents({ filter: { scope: scopes.all }, seq: 1n });
    await refuses(page, Code.OutOfRange, Reason.CURSOR_TRIMMED);
    for (const afterSeq of [0n, trimmed.earliestSeq - 1n]) {
      const frames = await resumed(afterSeq);
      const [first] = frames;
      assert.ok(first?.frame.case === "subscribed");
      assert.equal(first.frame.value.earliestSeq, 4n);
      const records = frames.flatMap(({ frame }) =>
        frame.case === "events" ? frame.value.events : [],
      );
      assert.deepEqual(
        records.map((record) => record.seq),
        [4n, 5n, 6n],
      );
    }
  });
});
