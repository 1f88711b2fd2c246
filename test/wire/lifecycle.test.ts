import assert from "node:assert/strict";
import { Code } from "@connectrpc/connect";
import { Reason } from "../../gen/runlog/v1/error_pb.js";
import type { SequencedEvent } from "../../gen/runlog/v1/record_pb.js";
import { RunState } from "../../gen/runlog/v1/run_pb.js";
import { StopPolicy } from "../../gen/runlog/v1/subscribe_pb.js";
import { append, finish, open, Stream, spec } from "../support/producer.ts";
import { collect, describeService } from "../support/wire.ts";
import { RunLife, refuses, succeeded } from "./run-life.ts";

describeService("the life of a run", (wire, startServer) => {
  let life: RunLife;

  beforeEach(async () => {
    life = await RunLife.start(wire, startServer);
  });

  afterEach(() => life.close());

  it("can begin as a fork of another, once, and never beyond its end", async () => {
    await life.write("source", ["a", "b"]);
    const asked = { sourceRunId: "source", runSeq: 1n, runId: "fork", spec };
    const { run } = await life.client.runs.forkRun(asked);
    assert.deepEqual([run?.fork?.runId, run?.fork?.runSeq], ["source", 1n]);
    assert.equal(run?.lastRunSeq, 0n);
    assert.deepEqual(
      (await life.client.runs.forkRun(asked)).run,
      run,
      "an equal call is answered alike",
    );
    assert.deepEqual((await life.client.runs.getRun({ runId: "fork" })).run, run);
    const minted = await life.client.runs.forkRun({ sourceRunId: "source", runSeq: 2n });
    assert.match(minted.run?.runId ?? "", /^[0-9a-f-]{36}$/);

    await refuses(
      life.client.runs.forkRun({ ...asked, runSeq: 2n }),
      Code.AlreadyExists,
      Reason.RUN_EXISTS,
    );
    await refuses(
      life.client.runs.createRun({ runId: "fork", spec }),
      Code.AlreadyExists,
      Reason.RUN_EXISTS,
    );
    const beyond = life.client.runs.forkRun({ sourceRunId: "source", runSeq: 3n });
    const { expectedRunSeq } = await refuses(beyond, Code.OutOfRange, Reason.SEQ_GAP);
    assert.equal(expectedRunSeq, 3n);
    const missing = life.client.runs.forkRun({ sourceRunId: "missing" });
    await refuses(missing, Code.NotFound, Reason.RUN_NOT_FOUND);

    // Its own order begins at 1, and its end tells the fork again.
    const window = await life.write("fork", ["c"], { finish: succeeded });
    assert.equal(window.lastRunSeq, 1n);
    const [started] = await life.recordsOf("fork");
    assert.ok(started?.record.case === "runStarted");
    assert.deepEqual(
      [started.record.value.fork?.runId, started.record.value.fork?.runSeq],
      ["source", 1n],
    );
    assert.equal((await life.client.runs.getRun({ runId: "fork" })).run?.fork?.runSeq, 1n);
  });

  it("is asked to stop, and every window hears of it, also one that begins later", async () => {
    const { epoch } = await life.write("parent", []);
    await life.write("child", ["x"], { create: { ...spec, parentRunId: "parent" } });
    await life.write("ended", [], {
      create: { ...spec, parentRunId: "parent" },
      finish: succeeded,
    });
    const { runCount } = await life.client.runs.cancelRun({
      runId: "parent",
      includeDescendants: true,
      reason: "enough",
    });
    assert.equal(runCount, 2);
    const late = await life.write("late", [], { create: { ...spec, parentRunId: "child" } });
    assert.equal(late.cancelRequested, true);
    assert.equal((await life.write("child", [], { create: undefined })).cancelRequested, true);
    const window = await life.client.ingest.appendEvents({ runId: "parent", epoch });
    assert.equal(window.cancelRequested, true);
    const other = await life.write("other", []);
    assert.equal(other.cancelRequested, false);
    const { runCount: again } = await life.client.runs.cancelRun({ runId: "ended" });
    assert.equal(again, 0);
    await refuses(
      life.client.runs.cancelRun({ runId: "missing" }),
      Code.NotFound,
      Reason.RUN_NOT_FOUND,
    );
    const chatty = life.client.runs.cancelRun({ runId: "parent", reason: "x".repeat(1_025) });
    const detail = await refuses(chatty, Code.InvalidArgument, Reason.INVALID_FIELD);
    assert.deepEqual([detail.field, detail.limit], ["reason", 1_024n]);
  });

  it("is asked to stop, and its producer's stream hears of it at once, or when it opens the run", async () => {
    if (!wire.isBidirectional) return;
    const stream = new Stream(life.client);
    stream.send(open("r"));
    await stream.expect("opened");
    await life.client.runs.cancelRun({ runId: "r", reason: "enough" });
    const told = await stream.expect("cancelRequested");
    assert.deepEqual([told.runId, told.reason], ["r", "enough"]);
    const next = new Stream(life.client);
    next.send(open("r"));
    await next.expect("opened");
    assert.equal((await next.expect("cancelRequested")).reason, "enough");
    // It still takes what the producer has to say, and ends as that says.
    next.send(append("r", 1, "last words"));
    await next.expect("ack");
    next.send(finish("r", 1, { state: RunState.CANCELLED }));
    assert.equal((await next.expect("ended")).run?.state, RunState.CANCELLED);
    next.send(open("r"));
    await next.expect("opened");
    next.halfClose();
    assert.equal(await next.next(), undefined, "what has ended is not asked to stop");
    stream.halfClose();
  });

  it("can start under a parent that has ended, and then its tree goes on", async () => {
    const underRoot = { ...spec, parentRunId: "root" };
    const family = {
      scope: {
        case: "ancestor" as const,
        value: { ancestorRunId: "root", includeSelf: true },
      },
    };
    const readFamily = async (afterSeq: bigint): Promise<SequencedEvent[]> => {
      const start = { case: "afterSeq" as const, value: afterSeq };
      const frames = await collect(
        life.client.subscribe.subscribe({ filter: family, start, stop: StopPolicy.FINISHED }),
      );
      return frames.flatMap(({ frame }) => (frame.case === "events" ? frame.value.events : []));
    };
    await life.write("root", ["a"], { finish: succeeded });
    await life.client.runs.cancelRun({ runId: "root", includeDescendants: true });
    const before = await readFamily(0n);
    const cursor = before.at(-1)!.seq;

    const { run } = await life.client.runs.createRun({ runId: "late", spec: underRoot });
    assert.deepEqual([run?.rootRunId, run?.depth], ["root", 1]);
    const root = await life.client.runs.getRun({ runId: "root" });
    assert.equal(root.run?.state, RunState.SUCCEEDED, "the parent stays as it ended");
    const tree = { rootRunId: "root" };
    await refuses(life.client.admin.deleteTree(tree), Code.FailedPrecondition, Reason.TREE_IN_USE);
    const window = await life.write("late", ["b"], { create: underRoot });
    assert.equal(window.cancelRequested, true, "an ended parent passes a request to stop on");

    // The family goes on: who comes back with its cursor gets what came since, and waits for its end.
    const since = readFamily(cursor);
    await life.client.ingest.appendEvents({
      runId: "late",
      epoch: window.epoch,
      finish: succeeded,
    });
    assert.deepEqual(
      (await since).map(({ runId, record }) => [runId, record.case]),
      [
        ["late", "runStarted"],
        ["late", "event"],
        ["late", "runFinished"],
      ],
    );
    assert.equal((await life.client.admin.deleteTree(tree)).runCount, 2);
    const orphan = life.client.runs.createRun({ runId: "orphan", spec: underRoot });
    await refuses(orphan, Code.NotFound, Reason.PARENT_NOT_FOUND);
  });

  it("is counted in its namespace, and namespaces are listed by name, by pages", async () => {
    for (const namespace of ["b", "a", "c"]) {
      await life.write("one", ["x", "y"], { namespace });
      await life.write("two", [], { namespace, finish: succeeded });
    }
    const first = await life.client.admin.listNamespaces({ pageSize: 2 });
    const second = await life.client.admin.listNamespaces({
      pageSize: 2,
      pageToken: first.nextPageToken,
    });
    assert.equal(second.nextPageToken, "");
    const all = [...first.namespaces, ...second.namespaces];
    assert.deepEqual(
      all.map((one) => one.name),
      ["a", "b", "c"],
    );
    for (const one of all) {
      assert.deepEqual(
        [one.runCount, one.runningCount, one.earliestSeq, one.latestSeq],
        [2n, 1n, 1n, 5n],
      );
      const { run } = await life.client.runs.getRun({ namespace: one.name, runId: "one" });
      assert.equal(one.eventBytes, run?.eventBytes);
      assert.ok(one.createTime !== undefined);
    }
    const tooMany = life.client.admin.listNamespaces({ pageSize: 1_001 });
    assert.equal(
      (await refuses(tooMany, Code.InvalidArgument, Reason.INVALID_FIELD)).limit,
      1_000n,
    );
  });
});
