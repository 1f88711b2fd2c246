import assert from "node:assert/strict";
import { timestampMs } from "@bufbuild/protobuf/wkt";
import { Code } from "@connectrpc/connect";
import { Reason } from "../../gen/runlog/v1/error_pb.js";
import { RunState } from "../../gen/runlog/v1/run_pb.js";
import { append, eventsOf, finish, open, release, Stream, spec } from "../support/producer.ts";
import { describeService } from "../support/wire.ts";
import { RunLife, refuses, shortLease, succeeded } from "./run-life.ts";

describeService("a run's lease", (wire, startServer) => {
  let life: RunLife;

  beforeEach(async () => {
    life = await RunLife.start(wire, startServer);
  });

  afterEach(() => life.close());

  it("goes on without a producer that leaves it, whose stream goes on too", async () => {
    if (!wire.isBidirectional) return;
    const stream = new Stream(life.client);
    stream.send(open("left", { ...spec, lease: shortLease }), open("kept"));
    await stream.expect("opened");
    await stream.expect("opened");
    // What was sent before is decided first, and what comes after is nobody's.
    stream.send(append("left", 1, "a"), release("left"));
    assert.equal((await stream.expect("ack")).runSeq, 1n);
    assert.equal((await stream.expect("released")).runId, "left");
    stream.send(append("left", 2, "b"));
    await stream.expectRejected(Reason.RUN_NOT_OPEN);
    assert.deepEqual(await life.factsOf("left"), ["runStarted", "event", "runFinished"]);
    const { run } = await life.client.runs.getRun({ runId: "left" });
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
    // A producer that has taken it meanwhile keeps it.
    stream.send(open("r"));
    await stream.expect("opened");
    const second = new Stream(life.client);
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

  it("is LOST once when its producer does not come back in time, and goes on when it does", async () => {
    const { epoch } = await life.write("r", ["a", "b"], { create: { ...spec, lease: shortLease } });
    await life.client.runs.createRun({ runId: "never-opened", spec: { lease: shortLease } });
    assert.deepEqual(await life.factsOf("never-opened"), ["runStarted", "runFinished"]);
    // The subscription ends because the run has.
    const records = await life.recordsOf("r");
    const last = records.at(-1)?.record;
    assert.ok(last?.case === "runFinished");
    assert.equal(last.value.result?.state, RunState.LOST);
    assert.equal(last.value.lastRunSeq, 2n);
    const { run } = await life.client.runs.getRun({ runId: "r" });
    assert.equal(run?.state, RunState.LOST);
    assert.ok(run.endTime !== undefined);

    const window = { runId: "r", epoch, firstRunSeq: 3n, events: eventsOf("c") };
    await refuses(
      life.client.ingest.appendEvents(window),
      Code.FailedPrecondition,
      Reason.RUN_NOT_OPEN,
    );
    const opened = await life.client.ingest.appendEvents({ ...window, epoch: 0n });
    assert.deepEqual([opened.epoch, opened.lastRunSeq], [2n, 3n]);
    const resumed = await life.client.runs.getRun({ runId: "r" });
    assert.equal(resumed.run?.state, RunState.RUNNING);
    assert.equal(resumed.run.endTime, undefined);
    const finished = { runId: "r", epoch: 2n, finish: succeeded };
    await life.client.ingest.appendEvents(finished);
    assert.deepEqual(await life.factsOf("r"), [
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
    const holding = new Stream(life.client);
    holding.send(open("held", lease));
    await holding.expect("opened");
    const leaving = new Stream(life.client);
    leaving.send(open("left", lease));
    await leaving.expect("opened");
    leaving.halfClose();
    assert.equal(await leaving.next(), undefined);
    // Of two that began together, the one that was left is lost and the held one is not.
    assert.deepEqual(await life.factsOf("left"), ["runStarted", "runFinished"]);
    assert.equal((await life.client.runs.getRun({ runId: "held" })).run?.state, RunState.RUNNING);
    holding.halfClose();
    assert.equal(await holding.next(), undefined);
    assert.deepEqual(await life.factsOf("held"), ["runStarted", "runFinished"]);
  });

  it("begins its lease anew when the server comes back, whoever was RUNNING", async () => {
    await life.write("r", ["a"], { create: { ...spec, lease: shortLease } });
    const startedMs = await life.restart();
    const records = await life.recordsOf("r");
    assert.deepEqual(
      records.map(({ record }) => record.case),
      ["runStarted", "event", "runFinished"],
    );
    assert.equal((await life.client.runs.getRun({ runId: "r" })).run?.state, RunState.LOST);
    // The whole lease has passed since the start, however long that took.
    const lostMs = timestampMs(records.at(-1)!.recordTime!);
    assert.ok(lostMs >= startedMs + 1_000, `lost ${lostMs - startedMs} ms after the start`);
  });
});
