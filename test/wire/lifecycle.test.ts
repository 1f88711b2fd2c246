import assert from "node:assert/strict";
import type { MessageInitShape } from "@bufbuild/protobuf";
import { timestampMs } from "@bufbuild/protobuf/wkt";
import { Code } from "@connectrpc/connect";
import { type ErrorDetail, Reason } from "../../gen/runlog/v1/error_pb.js";
import type { EventFilterSchema, SequencedEvent } from "../../gen/runlog/v1/record_pb.js";
import { RunState } from "../../gen/runlog/v1/run_pb.js";
import { StopPolicy } from "../../gen/runlog/v1/subscribe_pb.js";
import { append, eventsOf, finish, open, release, Stream, spec } from "../support/producer.ts";
import type { TestServer } from "../support/server.ts";
import { collect, describeService, refusalOf, type WireClient } from "../support/wire.ts";

type Scope = NonNullable<MessageInitShape<typeof EventFilterSchema>["scope"]>;

/** The shortest lease there is; a test waits for the record, never for the time. */
const shortLease = { seconds: 1n, nanos: 0 };
const succeeded = { state: RunState.SUCCEEDED };

describeService("the life of a run", (wire, startServer) => {
  let server: TestServer;
  let client: WireClient;

  beforeEach(async () => {
    server = await startServer({ limits: { retentionIntervalMs: 100 } });
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
      client.subscribe.subscribe({ filter, stop: StopPolicy.FINISHED, allowMissing: true }),
    );
    return frames.flatMap(({ frame }) => (frame.case === "events" ? frame.value.events : []));
  };
  const factsOf = async (runId: string): Promise<(string | undefined)[]> =>
    (await recordsOf(runId)).map(({ record }) => record.case);
  const write = (runId: string, texts: readonly string[], rest: object = {}) =>
    client.ingest.appendEvents({
      runId,
      create: spec,
      firstRunSeq: texts.length === 0 ? 0n : 1n,
      events: eventsOf(...texts),
      ...rest,
    });
  const refuses = async (
    call: Promise<unknown>,
    code: Code,
    reason: Reason,
  ): Promise<ErrorDetail> => {
    const refused = await refusalOf(call);
    assert.equal(Code[refused.code], Code[code]);
    assert.equal(Reason[refused.detail?.reason ?? 0], Reason[reason]);
    return refused.detail!;
  };

  it("can begin as a fork of another, once, and never beyond its end", async () => {
    await write("source", ["a", "b"]);
    const asked = { sourceRunId: "source", runSeq: 1n, runId: "fork", spec };
    const { run } = await client.runs.forkRun(asked);
    assert.deepEqual([run?.fork?.runId, run?.fork?.runSeq], ["source", 1n]);
    assert.equal(run?.lastRunSeq, 0n);
    assert.deepEqual(
      (await client.runs.forkRun(asked)).run,
      run,
      "an equal call is answered alike",
    );
    assert.deepEqual((await client.runs.getRun({ runId: "fork" })).run, run);
    const minted = await client.runs.forkRun({ sourceRunId: "source", runSeq: 2n });
    assert.match(minted.run?.runId ?? "", /^[0-9a-f-]{36}$/);

    await refuses(
      client.runs.forkRun({ ...asked, runSeq: 2n }),
      Code.AlreadyExists,
      Reason.RUN_EXISTS,
    );
    await refuses(
      client.runs.createRun({ runId: "fork", spec }),
      Code.AlreadyExists,
      Reason.RUN_EXISTS,
    );
    const beyond = client.runs.forkRun({ sourceRunId: "source", runSeq: 3n });
    const { expectedRunSeq } = await refuses(beyond, Code.OutOfRange, Reason.SEQ_GAP);
    assert.equal(expectedRunSeq, 3n);
    const missing = client.runs.forkRun({ sourceRunId: "missing" });
    await refuses(missing, Code.NotFound, Reason.RUN_NOT_FOUND);

    // Its own order begins at 1, and its end tells the fork again.
    const window = await write("fork", ["c"], { finish: succeeded });
    assert.equal(window.lastRunSeq, 1n);
    const [started] = await recordsOf("fork");
    assert.ok(started?.record.case === "runStarted");
    assert.deepEqual(
      [started.record.value.fork?.runId, started.record.value.fork?.runSeq],
      ["source", 1n],
    );
    assert.equal((await client.runs.getRun({ runId: "fork" })).run?.fork?.runSeq, 1n);
  });

  it("goes on without a producer that leaves it, whose stream goes on too", async () => {
    if (!wire.isBidirectional) return;
    const stream = new Stream(client);
    stream.send(open("left", { ...spec, lease: shortLease }), open("kept"));
    await stream.expect("opened");
    await stream.expect("opened");
    // What was sent before is decided first, and what comes after is nobody's.
    stream.send(append("left", 1, "a"), release("left"));
    assert.equal((await stream.expect("ack")).runSeq, 1n);
    assert.equal((await stream.expect("released")).runId, "left");
    stream.send(append("left", 2, "b"));
    await stream.expectRejected(Reason.RUN_NOT_OPEN);
    assert.deepEqual(await factsOf("left"), ["runStarted", "event", "runFinished"]);
    const { run } = await client.runs.getRun({ runId: "left" });
    assert.equal(RunState[run?.state ?? 0], "LOST");
    // It can be taken again, and a run that is not the stream's is left already.
    stream.send(open("left", null), append("left", 2, "b"), release("left"), release("left"));
    assert.equal((await stream.expect("opened")).lastRunSeq, 1n);
    assert.equal((await stream.expect("ack")).runSeq, 2n);
    for (let i = 0; i < 2; i++) assert.equal((await stream.expect("released")).runId, "left");
    stream.send(release("never"), append("kept", 1, "x"), finish("kept", 1), release("kept"));
    assert.equal((await stream.expect("released")).runId, "never");
    await stream.expect("ack");
    await stream.expect("ended");
    assert.equal((await stream.expect("released")).runId, "kept");
    // Whoever has taken it meanwhile keeps it.
    stream.send(open("r"));
    await stream.expect("opened");
    const second = new Stream(client);
    second.send(open("r"));
    await second.expect("opened");
    await stream.expectRejected(Reason.FENCED);
    stream.send(release("r"));
    await stream.expect("released");
    second.send(append("r", 1, "mine"));
    await second.expect("ack");
    for (const one of [stream, second]) {
      one.halfClose();
      assert.equal(await one.next(), undefined);
    }
  });

  it("is asked to stop, and every window hears of it, also one that begins later", async () => {
    const { epoch } = await write("parent", []);
    await write("child", ["x"], { create: { ...spec, parentRunId: "parent" } });
    await write("ended", [], { create: { ...spec, parentRunId: "parent" }, finish: succeeded });
    const { runCount } = await client.runs.cancelRun({
      runId: "parent",
      includeDescendants: true,
      reason: "enough",
    });
    assert.equal(runCount, 2);
    const late = await write("late", [], { create: { ...spec, parentRunId: "child" } });
    assert.equal(late.cancelRequested, true);
    assert.equal((await write("child", [], { create: undefined })).cancelRequested, true);
    const window = await client.ingest.appendEvents({ runId: "parent", epoch });
    assert.equal(window.cancelRequested, true);
    const other = await write("other", []);
    assert.equal(other.cancelRequested, false);
    const { runCount: again } = await client.runs.cancelRun({ runId: "ended" });
    assert.equal(again, 0);
    await refuses(client.runs.cancelRun({ runId: "missing" }), Code.NotFound, Reason.RUN_NOT_FOUND);
    const chatty = client.runs.cancelRun({ runId: "parent", reason: "x".repeat(1_025) });
    const detail = await refuses(chatty, Code.InvalidArgument, Reason.INVALID_FIELD);
    assert.deepEqual([detail.field, detail.limit], ["reason", 1_024n]);
  });

  it("is asked to stop, and its producer's stream hears of it at once, or when it opens the run", async () => {
    if (!wire.isBidirectional) return;
    const stream = new Stream(client);
    stream.send(open("r"));
    await stream.expect("opened");
    await client.runs.cancelRun({ runId: "r", reason: "enough" });
    const told = await stream.expect("cancelRequested");
    assert.deepEqual([told.runId, told.reason], ["r", "enough"]);
    const next = new Stream(client);
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

  it("is LOST once when its producer does not come back in time, and goes on when it does", async () => {
    const { epoch } = await write("r", ["a", "b"], { create: { ...spec, lease: shortLease } });
    await client.runs.createRun({ runId: "never-opened", spec: { lease: shortLease } });
    assert.deepEqual(await factsOf("never-opened"), ["runStarted", "runFinished"]);
    // The subscription ends because the run has.
    const records = await recordsOf("r");
    const last = records.at(-1)?.record;
    assert.ok(last?.case === "runFinished");
    assert.equal(last.value.result?.state, RunState.LOST);
    assert.equal(last.value.lastRunSeq, 2n);
    const { run } = await client.runs.getRun({ runId: "r" });
    assert.equal(run?.state, RunState.LOST);
    assert.ok(run.endTime !== undefined);

    const window = { runId: "r", epoch, firstRunSeq: 3n, events: eventsOf("c") };
    await refuses(client.ingest.appendEvents(window), Code.FailedPrecondition, Reason.RUN_NOT_OPEN);
    const opened = await client.ingest.appendEvents({ ...window, epoch: 0n });
    assert.deepEqual([opened.epoch, opened.lastRunSeq], [2n, 3n]);
    const resumed = await client.runs.getRun({ runId: "r" });
    assert.equal(resumed.run?.state, RunState.RUNNING);
    assert.equal(resumed.run.endTime, undefined);
    const finished = { runId: "r", epoch: 2n, finish: succeeded };
    await client.ingest.appendEvents(finished);
    assert.deepEqual(await factsOf("r"), [
      "runStarted",
      ...["event", "event"],
      "runFinished",
      "runResumed",
      "event",
      "runFinished",
    ]);
  });

  it("is not LOST while a stream holds it, and is after the stream has ended", async () => {
    if (!wire.isBidirectional) return;
    const lease = { lease: shortLease };
    const holding = new Stream(client);
    holding.send(open("held", lease));
    await holding.expect("opened");
    const leaving = new Stream(client);
    leaving.send(open("left", lease));
    await leaving.expect("opened");
    leaving.halfClose();
    assert.equal(await leaving.next(), undefined);
    // Of two that began together, the one that was left is lost and the held one is not.
    assert.deepEqual(await factsOf("left"), ["runStarted", "runFinished"]);
    assert.equal((await client.runs.getRun({ runId: "held" })).run?.state, RunState.RUNNING);
    holding.halfClose();
    assert.equal(await holding.next(), undefined);
    assert.deepEqual(await factsOf("held"), ["runStarted", "runFinished"]);
  });

  it("begins its lease anew when the server comes back, whoever was RUNNING", async () => {
    await write("r", ["a"], { create: { ...spec, lease: shortLease } });
    client.close();
    await server.drain();
    const startedMs = Date.now();
    server = await server.restart();
    client = await wire.connect(server.url);
    const records = await recordsOf("r");
    assert.deepEqual(
      records.map(({ record }) => record.case),
      ["runStarted", "event", "runFinished"],
    );
    assert.equal((await client.runs.getRun({ runId: "r" })).run?.state, RunState.LOST);
    // The whole lease has passed since the start, however long that took.
    const lostMs = timestampMs(records.at(-1)!.recordTime!);
    assert.ok(lostMs >= startedMs + 1_000, `lost ${lostMs - startedMs} ms after the start`);
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
        client.subscribe.subscribe({ filter: family, start, stop: StopPolicy.FINISHED }),
      );
      return frames.flatMap(({ frame }) => (frame.case === "events" ? frame.value.events : []));
    };
    await write("root", ["a"], { finish: succeeded });
    await client.runs.cancelRun({ runId: "root", includeDescendants: true });
    const before = await readFamily(0n);
    const cursor = before.at(-1)!.seq;

    const { run } = await client.runs.createRun({ runId: "late", spec: underRoot });
    assert.deepEqual([run?.rootRunId, run?.depth], ["root", 1]);
    const root = await client.runs.getRun({ runId: "root" });
    assert.equal(root.run?.state, RunState.SUCCEEDED, "the parent stays as it ended");
    const tree = { rootRunId: "root" };
    await refuses(client.admin.deleteTree(tree), Code.FailedPrecondition, Reason.TREE_IN_USE);
    const window = await write("late", ["b"], { create: underRoot });
    assert.equal(window.cancelRequested, true, "an ended parent passes a request to stop on");

    // The family goes on: who comes back with its cursor gets what came since, and waits for its end.
    const since = readFamily(cursor);
    await client.ingest.appendEvents({ runId: "late", epoch: window.epoch, finish: succeeded });
    assert.deepEqual(
      (await since).map(({ runId, record }) => [runId, record.case]),
      [
        ["late", "runStarted"],
        ["late", "event"],
        ["late", "runFinished"],
      ],
    );
    assert.equal((await client.admin.deleteTree(tree)).runCount, 2);
    const orphan = client.runs.createRun({ runId: "orphan", spec: underRoot });
    await refuses(orphan, Code.NotFound, Reason.PARENT_NOT_FOUND);
  });

  it("is deleted with its whole tree once that has ended, and its id is free again", async () => {
    await write("root", ["a", "b"]);
    const child = { create: { ...spec, parentRunId: "root" } };
    await write("child", ["c"], { ...child, finish: succeeded });
    const tree = { rootRunId: "root" };
    await refuses(client.admin.deleteTree(tree), Code.FailedPrecondition, Reason.TREE_IN_USE);
    await write("root", [], { finish: succeeded });
    const notRoot = client.admin.deleteTree({ rootRunId: "child" });
    assert.equal(
      (await refuses(notRoot, Code.InvalidArgument, Reason.INVALID_FIELD)).field,
      "root_run_id",
    );
    await client.runs.forkRun({ sourceRunId: "child", runSeq: 1n, runId: "fork" });
    await refuses(client.admin.deleteTree(tree), Code.FailedPrecondition, Reason.TREE_IN_USE);
    await write("fork", [], { create: undefined, finish: succeeded });
    await client.admin.deleteTree({ rootRunId: "fork" });

    const before = (await client.admin.listNamespaces({})).namespaces[0]!;
    const deleted = await client.admin.deleteTree(tree);
    assert.deepEqual([deleted.runCount, deleted.recordCount], [2, 7n]);
    const after = (await client.admin.listNamespaces({})).namespaces[0]!;
    assert.deepEqual(
      [before.runCount, before.eventBytes > 0n, after.runCount, after.eventBytes],
      [2n, true, 0n, 0n],
    );
    assert.equal(after.latestSeq, before.latestSeq, "seqs are not used again");
    assert.equal(after.earliestSeq, after.latestSeq + 1n);
    for (const runId of ["root", "child"]) {
      await refuses(client.runs.getRun({ runId }), Code.NotFound, Reason.RUN_NOT_FOUND);
    }
    assert.deepEqual((await client.runs.listRuns({})).runs, []);
    await refuses(client.admin.deleteTree(tree), Code.NotFound, Reason.RUN_NOT_FOUND);
    const again = await write("root", ["z"], { finish: succeeded });
    assert.equal(again.seq, after.latestSeq + 2n);
    assert.deepEqual(await factsOf("root"), ["runStarted", "event", "runFinished"]);
  });

  it("is kept for as long as its namespace says, counted from the end of its tree", async () => {
    await write("old", ["a"], { finish: succeeded });
    await write("running", ["a"]);
    const gone = collect(
      client.subscribe.subscribe({
        filter: { scope: { case: "runIds", value: { runIds: ["old"] } } },
      }),
    );
    const { namespace } = await client.admin.setRetention({
      namespace: "default",
      retention: { seconds: 1n, nanos: 0 },
    });
    assert.equal(namespace?.retention?.seconds, 1n);
    await refuses(gone, Code.NotFound, Reason.RUN_NOT_FOUND);
    const { runs } = await client.runs.listRuns({});
    assert.deepEqual(
      runs.map((run) => run.runId),
      ["running"],
    );
    const unset = await client.admin.setRetention({ namespace: "default" });
    assert.equal(unset.namespace?.retention, undefined);
    const short = client.admin.setRetention({
      namespace: "n",
      retention: { seconds: 0n, nanos: 5 },
    });
    const detail = await refuses(short, Code.InvalidArgument, Reason.INVALID_FIELD);
    assert.equal(detail.field, "retention");
  });

  it("ends the subscriptions to it when its tree is deleted, and leaves the others alone", async () => {
    await write("gone", ["a"], { finish: succeeded });
    await write("stays", ["b"]);
    const scopes: Record<"run" | "family" | "other" | "all", Scope> = {
      run: { case: "runIds", value: { runIds: ["gone"] } },
      family: { case: "ancestor", value: { ancestorRunId: "gone", includeSelf: true } },
      other: { case: "ancestor", value: { ancestorRunId: "stays", includeSelf: true } },
      all: { case: "all", value: {} },
    };
    const abort = new AbortController();
    const follow = async (scope: Scope) => {
      const frames = client.subscribe
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
    await client.admin.deleteTree({ rootRunId: "gone" });
    await refuses(run!.next(), Code.NotFound, Reason.RUN_NOT_FOUND);
    await refuses(family!.next(), Code.NotFound, Reason.RUN_NOT_FOUND);
    // These had everything that was deleted, or never wanted it.
    await write("stays", ["b", "c"], { create: undefined });
    for (const frames of [other!, all!]) {
      const { value } = await frames.next();
      assert.equal(value?.frame.case === "events" && value.frame.value.events.at(-1)?.runSeq, 2n);
    }
    abort.abort();
    await Promise.all([refusalOf(other!.next()), refusalOf(all!.next())]);

    // Whoever was in the middle of it is told where the journal is whole again.
    const resumed = (afterSeq: bigint) =>
      collect(
        client.subscribe.subscribe({
          filter: { scope: scopes.all },
          start: { case: "afterSeq", value: afterSeq },
          stop: StopPolicy.CAUGHT_UP,
        }),
      );
    const trimmed = await refuses(resumed(1n), Code.OutOfRange, Reason.CURSOR_TRIMMED);
    assert.equal(trimmed.earliestSeq, 4n);
    const page = client.subscribe.readEvents({ filter: { scope: scopes.all }, seq: 1n });
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

  it("is counted in its namespace, and namespaces are listed by name, by pages", async () => {
    for (const namespace of ["b", "a", "c"]) {
      await write("one", ["x", "y"], { namespace });
      await write("two", [], { namespace, finish: succeeded });
    }
    const first = await client.admin.listNamespaces({ pageSize: 2 });
    const second = await client.admin.listNamespaces({
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
      const { run } = await client.runs.getRun({ namespace: one.name, runId: "one" });
      assert.equal(one.eventBytes, run?.eventBytes);
      assert.ok(one.createTime !== undefined);
    }
    const tooMany = client.admin.listNamespaces({ pageSize: 1_001 });
    assert.equal(
      (await refuses(tooMany, Code.InvalidArgument, Reason.INVALID_FIELD)).limit,
      1_000n,
    );
  });
});
