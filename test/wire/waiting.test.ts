import assert from "node:assert/strict";
import { timestampFromMs } from "@bufbuild/protobuf/wkt";
import { Code } from "@connectrpc/connect";
import { Reason } from "../../gen/runlog/v1/error_pb.js";
import { RunState } from "../../gen/runlog/v1/run_pb.js";
import { StopPolicy } from "../../gen/runlog/v1/subscribe_pb.js";
import {
  append,
  eventsOf,
  finish,
  open,
  openInput,
  Stream,
  spec,
  wait,
} from "../support/producer.ts";
import type { TestServer } from "../support/server.ts";
import { collect, describeService, refusalOf, type WireClient } from "../support/wire.ts";

describeService("a run that waits", (wire, startServer) => {
  let server: TestServer;
  let client: WireClient;

  beforeEach(async () => {
    server = await startServer();
    client = await wire.connect(server.url);
  });

  afterEach(async () => {
    client.close();
    await server.remove();
    assert.deepEqual(server.errors, []);
  });

  const factsOf = async (runId: string): Promise<string[]> => {
    const scope = { case: "runIds" as const, value: { runIds: [runId] } };
    const request = { filter: { scope }, stop: StopPolicy.CAUGHT_UP };
    return (await collect(client.subscribe.subscribe(request))).flatMap(({ frame }) =>
      frame.case === "events" ? frame.value.events.map(({ record }) => record.case ?? "") : [],
    );
  };

  const runOf = async (runId: string) => (await client.runs.getRun({ runId })).run!;

  /** Follows a run until it has ended. */
  const untilFinished = async (runId: string) => {
    const scope = { case: "runIds" as const, value: { runIds: [runId] } };
    await collect(
      client.subscribe.subscribe({
        filter: { scope },
        stop: StopPolicy.FINISHED,
        allowMissing: true,
      }),
    );
  };

  it("is WAITING until its next event, and says for what", async () => {
    const window = { runId: "r", create: spec, firstRunSeq: 1n, events: eventsOf("a") };
    const [question] = eventsOf("may I?");
    const { epoch } = await client.ingest.appendEvents({
      ...window,
      wait: { code: "approval", question: question! },
    });
    const waiting = await runOf("r");
    assert.equal(waiting.state, RunState.WAITING);
    assert.equal(waiting.waiting?.code, "approval");
    assert.equal(Buffer.from(waiting.waiting!.question!.data).toString(), "may I?");
    assert.equal(waiting.endTime, undefined);
    const counts = async () => {
      const { namespaces } = await client.admin.listNamespaces({});
      return [namespaces[0]?.runningCount, namespaces[0]?.waitingCount];
    };
    assert.deepEqual(await counts(), [0n, 1n]);
    const listed = await client.runs.listRuns({ states: [RunState.WAITING] });
    assert.deepEqual(
      listed.runs.map(({ runId }) => runId),
      ["r"],
    );
    const tree = await refusalOf(client.admin.deleteTree({ rootRunId: "r" }));
    assert.equal(Reason[tree.detail!.reason], "TREE_IN_USE");

    const again = { runId: "r", epoch, wait: { code: "approval", question: question! } };
    await client.ingest.appendEvents(again);
    await client.ingest.appendEvents({ runId: "r" });
    assert.equal((await runOf("r")).state, RunState.WAITING, "opening does not resume");
    await client.ingest.appendEvents({ ...window, epoch: 2n });
    assert.equal((await runOf("r")).state, RunState.WAITING, "nor does what is durable already");
    const next = { runId: "r", epoch: 2n, firstRunSeq: 2n, events: eventsOf("b") };
    await client.ingest.appendEvents(next);
    const running = await runOf("r");
    assert.deepEqual([running.state, running.waiting], [RunState.RUNNING, undefined]);
    assert.deepEqual(await counts(), [1n, 0n]);
    assert.deepEqual(await factsOf("r"), [
      "runStarted",
      "event",
      "runWaiting",
      "runResumed",
      "event",
    ]);

    await client.ingest.appendEvents({ runId: "r", epoch: 2n, wait: { code: "input" } });
    const finished = { runId: "r", epoch: 2n, finish: { state: RunState.SUCCEEDED } };
    await client.ingest.appendEvents(finished);
    assert.equal((await runOf("r")).state, RunState.SUCCEEDED, "it may finish directly");
    assert.deepEqual(await counts(), [0n, 0n]);
  });

  it("is not let wait where signals await handling, or what for is not said", async () => {
    const { epoch } = await client.ingest.appendEvents({ runId: "r", create: spec });
    await client.runs.signalRun({ runId: "r", event: eventsOf("news")[0]! });
    const request = { runId: "r", epoch, wait: { code: "input" }, requireSignalsHandled: true };
    const pending = await refusalOf(client.ingest.appendEvents(request));
    assert.equal(Code[pending.code], Code[Code.FailedPrecondition]);
    assert.equal(Reason[pending.detail!.reason], "SIGNALS_PENDING");
    assert.equal(pending.detail!.lastSignalSeq, 1n);
    const invalid = async (more: object, field: string) => {
      const { code, detail } = await refusalOf(client.ingest.appendEvents({ ...request, ...more }));
      assert.equal(Code[code], Code[Code.InvalidArgument]);
      assert.equal(detail?.field, field);
    };
    await invalid({ wait: {} }, "wait.code");
    await invalid({ wait: { code: "x".repeat(129) } }, "wait.code");
    await invalid({ wait: { code: "input", question: {} } }, "wait.question.type");
    await invalid({ finish: { state: RunState.SUCCEEDED } }, "wait");
    await client.ingest.appendEvents({ ...request, handledSignalSeq: 1n });
    const waiting = await runOf("r");
    assert.deepEqual([waiting.state, waiting.handledSignalSeq], [RunState.WAITING, 1n]);
  });

  it("and is asked to wait for the same again has handled what that says, or has signals to handle", async () => {
    const first = { runId: "r", create: spec, wait: { code: "input" } };
    const { epoch } = await client.ingest.appendEvents(first);
    const say = () => client.runs.signalRun({ runId: "r", event: eventsOf("news")[0]! });
    await say();
    const again = { runId: "r", epoch, wait: { code: "input" }, requireSignalsHandled: true };
    const pending = await refusalOf(client.ingest.appendEvents(again));
    assert.equal(Reason[pending.detail!.reason], "SIGNALS_PENDING");
    assert.equal((await runOf("r")).state, RunState.WAITING);
    const answered = await client.ingest.appendEvents({ ...again, handledSignalSeq: 1n });
    assert.equal(answered.handledSignalSeq, 1n);
    assert.deepEqual(await factsOf("r"), ["runStarted", "runWaiting", "signal"]);
    await say();
    await client.ingest.appendEvents({ ...again, requireSignalsHandled: false });
    const { handledSignalSeq, lastSignalSeq } = await runOf("r");
    assert.deepEqual([handledSignalSeq, lastSignalSeq], [1n, 2n]);
  });

  it("takes signals, and is found by them", async () => {
    await client.ingest.appendEvents({ runId: "r", create: spec, wait: { code: "approval" } });
    await client.ingest.appendEvents({ runId: "q", create: spec, wait: { code: "approval" } });
    const answered = { states: [RunState.WAITING], hasPendingSignals: true };
    assert.deepEqual((await client.runs.listRuns(answered)).runs, []);
    await client.runs.signalRun({ runId: "r", event: eventsOf("yes")[0]! });
    const { runs } = await client.runs.listRuns(answered);
    assert.deepEqual(
      runs.map(({ runId }) => runId),
      ["r"],
    );
  });

  it("is LOST once its deadline has passed, and goes on when it is opened", async () => {
    const deadline = timestampFromMs(Date.now() - 1_000);
    const { epoch } = await client.ingest.appendEvents({
      runId: "r",
      create: spec,
      wait: { code: "approval", deadline },
    });
    await untilFinished("r");
    const lost = await runOf("r");
    assert.deepEqual([lost.state, lost.result?.failure?.code], [RunState.LOST, "wait_expired"]);
    const late = { runId: "r", epoch, firstRunSeq: 1n, events: eventsOf("late") };
    const refused = await refusalOf(client.ingest.appendEvents(late));
    assert.equal(Reason[refused.detail!.reason], "RUN_NOT_OPEN");
    await client.ingest.appendEvents({ ...late, epoch: 0n });
    assert.deepEqual(await factsOf("r"), [
      "runStarted",
      "runWaiting",
      "runFinished",
      "runResumed",
      "event",
    ]);
    assert.equal((await runOf("r")).state, RunState.RUNNING);
  });

  it("ends CANCELLED as soon as it is asked to stop, or if it was before", async () => {
    const held = await client.ingest.appendEvents({ runId: "r", create: spec });
    const waiting = { runId: "r", epoch: held.epoch, wait: { code: "input" } };
    await client.ingest.appendEvents(waiting);
    assert.equal((await client.runs.cancelRun({ runId: "r", reason: "enough" })).runCount, 1);
    assert.equal((await runOf("r")).state, RunState.CANCELLED);
    await client.ingest.appendEvents(waiting);
    assert.deepEqual(await factsOf("r"), ["runStarted", "runWaiting", "runFinished"]);

    const other = await client.ingest.appendEvents({ runId: "q", create: spec });
    await client.runs.cancelRun({ runId: "q" });
    const late = { runId: "q", epoch: other.epoch, wait: { code: "input" } };
    for (let times = 1; times <= 2; times++) {
      await client.ingest.appendEvents(late);
      assert.equal((await runOf("q")).state, RunState.CANCELLED);
    }
    assert.deepEqual(await factsOf("q"), ["runStarted", "runFinished"]);
  });

  if (!wire.isBidirectional) return;

  it("is its stream's while that holds it, and needs nobody once that has left", async () => {
    const stream = new Stream(client);
    stream.send(open("r"), append("r", 1, "a"), wait("r", 1));
    await stream.expect("opened");
    await stream.expect("ack");
    const { run } = await stream.expect("waiting");
    assert.deepEqual([run?.state, run?.waiting?.code], [RunState.WAITING, "input"]);
    stream.send(wait("r", 1), wait("r", 1, "other"), append("r", 2, "b"));
    assert.equal((await stream.expect("waiting")).run?.waiting?.code, "input");
    assert.equal((await stream.expect("waiting")).run?.waiting?.code, "other");
    await stream.expect("ack");
    stream.send(wait("r", 3));
    const gap = await stream.expectRejected(Reason.SEQ_GAP);
    assert.equal(gap.expectedRunSeq, 3n);
    stream.send(openInput("r", null));
    await stream.expect("opened");
    stream.send(wait("r", 2, "input", { requireSignalsHandled: true }));
    await stream.expect("waiting");
    await client.runs.signalRun({ runId: "r", event: eventsOf("news")[0]! });
    await stream.expect("signal");
    stream.send(finish("r", 2));
    await stream.expect("ended");
    stream.halfClose();
    assert.equal(await stream.next(), undefined);
  });

  it("tells its producer when somebody else ends it", async () => {
    const stream = new Stream(client);
    stream.send(open("r"), wait("r", 0));
    await stream.expect("opened");
    await stream.expect("waiting");
    await client.runs.cancelRun({ runId: "r", reason: "enough" });
    assert.equal((await stream.expect("cancelRequested")).reason, "enough");
    await stream.expectRejected(Reason.RUN_FINISHED);
    const deadline = timestampFromMs(Date.now() - 1_000);
    stream.send(open("q"), wait("q", 0, "input", { wait: { code: "input", deadline } }));
    await stream.expect("opened");
    await stream.expect("waiting");
    await stream.expectRejected(Reason.RUN_NOT_OPEN);
    stream.halfClose();
    assert.equal(await stream.next(), undefined);
  });
});
