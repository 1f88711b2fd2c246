import assert from "node:assert/strict";
import { Code } from "@connectrpc/connect";
import { Reason } from "../../gen/runlog/v1/error_pb.js";
import type { SequencedEvent } from "../../gen/runlog/v1/record_pb.js";
import { RunState } from "../../gen/runlog/v1/run_pb.js";
import { StopPolicy } from "../../gen/runlog/v1/subscribe_pb.js";
import { type Answer, append, finish, open, type Request, Stream } from "../support/producer.ts";
import type { TestServer } from "../support/server.ts";
import { collect, describeService, refusalOf, type WireClient } from "../support/wire.ts";

/** Limits that make bad input cheap; the rest is as in production. */
const limits = { maxEventBytes: 2_000, maxAppendBytes: 6_000, maxMessageBytes: 20_000 };

describeService("a producer with a stream", (wire, startServer) => {
  if (!wire.isBidirectional) return;
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

  it("and another of the same agent and conversation are two clean runs", async () => {
    const streams = [new Stream(client), new Stream(client)];
    for (const [i, stream] of streams.entries()) stream.send(open(`run-${i}`));
    for (const stream of streams) await stream.expect("opened");
    for (let at = 1; at <= 20; at++) {
      for (const [i, stream] of streams.entries())
        stream.send(append(`run-${i}`, at, `${i}:${at}`));
    }
    for (const [i, stream] of streams.entries()) stream.send(finish(`run-${i}`, 20));
    for (const [i, stream] of streams.entries()) {
      stream.halfClose();
      let last: Answer | undefined;
      for (let next = await stream.next(); next !== undefined; next = await stream.next())
        last = next;
      assert.equal(last?.case, "ended");
      assert.deepEqual(
        await textsOf(`run-${i}`),
        Array.from({ length: 20 }, (_, at) => `${i}:${at + 1}`),
      );
    }
  });

  it("that is not alone on its run hears of it at once, and interleaves nothing", async () => {
    const first = new Stream(client);
    first.send(open("r"));
    assert.equal((await first.expect("opened")).epoch, 1n);
    first.send(append("r", 1, "a"));
    assert.equal((await first.expect("ack")).runSeq, 1n);
    const second = new Stream(client);
    second.send(open("r"));
    const opened = await second.expect("opened");
    assert.deepEqual([opened.epoch, opened.lastRunSeq], [2n, 1n]);
    assert.equal((await first.expectRejected(Reason.FENCED)).epoch, 2n);
    first.send(append("r", 2, "stale"));
    second.send(append("r", 2, "b"), finish("r", 2));
    await second.expect("ack");
    await second.expect("ended");
    first.halfClose();
    assert.equal(await first.next(), undefined);
    second.halfClose();
    assert.equal(await second.next(), undefined);
    assert.deepEqual(await textsOf("r"), ["a", "b"]);
  });

  it("that leaves a gap hears which run_seq is expected, and its other runs go on", async () => {
    const stream = new Stream(client);
    stream.send(open("r"), open("other"));
    await stream.expect("opened");
    await stream.expect("opened");
    stream.send(
      append("r", 1, "a"),
      append("r", 3, "c"),
      append("r", 4, "d"),
      append("other", 1, "x"),
    );
    stream.halfClose();
    const answers: (Answer | undefined)[] = [];
    for (let next = await stream.next(); next !== undefined; next = await stream.next())
      answers.push(next);
    const rejected = answers.filter((answer) => answer?.case === "rejected");
    assert.equal(rejected.length, 1);
    assert.ok(rejected[0]?.case === "rejected");
    assert.equal(rejected[0].value.detail?.reason, Reason.SEQ_GAP);
    assert.equal(rejected[0].value.detail.expectedRunSeq, 2n);
    assert.deepEqual(await textsOf("r"), ["a"]);
    assert.deepEqual(await textsOf("other"), ["x"]);
  });

  it("finishes only after all events are durable, once, and is answered alike again", async () => {
    const stream = new Stream(client);
    const result = { state: RunState.FAILED, failure: { code: "c" }, suppressed: [{ code: "s" }] };
    stream.send(open("r"));
    await stream.expect("opened");
    stream.send(append("r", 1, "a"));
    await stream.expect("ack");
    stream.send(finish("r", 2, result));
    assert.equal((await stream.expectRejected(Reason.SEQ_GAP)).expectedRunSeq, 2n);
    assert.equal((await client.runs.getRun({ runId: "r" })).run?.state, RunState.RUNNING);
    stream.send(open("r"));
    assert.equal((await stream.expect("opened")).epoch, 2n);
    stream.send(finish("r", 1, result));
    const ended = await stream.expect("ended");
    assert.deepEqual(
      ended.run?.result?.suppressed.map(({ code }) => code),
      ["s"],
    );
    stream.send(finish("r", 1, result));
    assert.deepEqual(await stream.expect("ended"), ended);
    stream.send(finish("r", 1, { state: RunState.SUCCEEDED }));
    await stream.expectRejected(Reason.RUN_FINISHED);
    const later = new Stream(client);
    later.send(open("r", null), finish("r", 1, result));
    assert.equal((await later.expect("opened")).lastRunSeq, 1n);
    assert.deepEqual((await later.expect("ended")).run?.result, ended.run?.result);
    const facts = (await recordsOf("r")).map(({ record }) => record.case);
    assert.deepEqual(facts, ["runStarted", "event", "runFinished"]);
  });

  it("is refused by run for bad frames, and as a whole for a frame over the limit", async () => {
    const stream = new Stream(client);
    const refused = async (request: Request, reason: Reason, field = ""): Promise<void> => {
      stream.send(request);
      assert.equal((await stream.expectRejected(reason)).field, field);
    };
    await refused(append("r", 1, "x"), Reason.RUN_NOT_OPEN);
    await refused(open("r", null), Reason.RUN_NOT_FOUND);
    await refused(open("x".repeat(129)), Reason.INVALID_FIELD, "open.run_id");
    await refused(open("n", { agentId: "a\0b" }), Reason.INVALID_FIELD, "open.create.agent_id");
    const reopen = async () => {
      stream.send(open("r"));
      await stream.expect("opened");
    };
    await reopen();
    await refused(append("r", 1), Reason.INVALID_FIELD, "append.events");
    await reopen();
    const failed = { state: RunState.FAILED, suppressed: [{ code: "" }, { message: "a\0b" }] };
    const suppressed = "finish.result.suppressed[1].message";
    await refused(finish("r", 0, failed), Reason.INVALID_FIELD, suppressed);
    await reopen();
    await refused(append("r", 0, "x"), Reason.INVALID_FIELD, "append.first_run_seq");
    await reopen();
    await refused(append("r", 1, "x".repeat(2_001)), Reason.TOO_LARGE, "append.events[0]");
    await reopen();
    stream.send(append("r", 1, "good"));
    assert.equal((await stream.expect("ack")).runSeq, 1n);
    const elsewhere: Request = {
      frame: { case: "open", value: { runId: "n", namespace: "n", create: {} } },
    };
    await refused(elsewhere, Reason.INVALID_FIELD, "open.namespace");
    stream.send(append("r", 2, "x".repeat(20_000)));
    const { code, detail } = await refusalOf(stream.next());
    assert.equal(code, Code.InvalidArgument);
    assert.deepEqual([detail?.reason, detail?.limit], [Reason.TOO_LARGE, 20_000n]);
    assert.deepEqual(await textsOf("r"), ["good"]);
  });

  it("has all that was accepted acknowledged before a half-closed stream ends", async () => {
    const stream = new Stream(client);
    stream.send(open("r"));
    await stream.expect("opened");
    for (let at = 1; at <= 500; at++) stream.send(append("r", at, String(at)));
    stream.halfClose();
    let acked = 0n;
    for (let next = await stream.next(); next !== undefined; next = await stream.next()) {
      if (next.case === "ack") acked = next.value.runSeq;
    }
    assert.equal(acked, 500n);
  });

  it("is asked to leave when the server drains, may finish its work in flight, and then ends", async () => {
    const patient = new Stream(client);
    patient.send(open("r"));
    await patient.expect("opened");
    const stubborn = new Stream(client);
    stubborn.send(open("s"));
    await stubborn.expect("opened");
    const filter = { scope: { case: "all" as const, value: {} } };
    const follower = client.subscribe.subscribe({ filter })[Symbol.asyncIterator]();
    for (const expected of ["subscribed", "events", "caughtUp"]) {
      assert.equal((await follower.next()).value.frame.case, expected);
    }
    const health = client.health.watch({})[Symbol.asyncIterator]();
    assert.equal((await health.next()).value.status, 1);
    const drained = server.drain();
    assert.equal((await health.next()).value.status, 2);
    assert.equal((await follower.next()).value.frame.case, "goAway");
    const gone = await refusalOf(follower.next());
    assert.deepEqual([gone.code, gone.detail?.reason], [Code.Unavailable, Reason.DRAINING]);
    await patient.expect("goAway");
    await stubborn.expect("goAway");
    patient.send(append("r", 1, "in flight"));
    assert.equal((await patient.expect("ack")).runSeq, 1n);
    patient.halfClose();
    assert.equal(await patient.next(), undefined);
    const cut = await refusalOf(stubborn.next());
    assert.deepEqual([cut.code, cut.detail?.reason], [Code.Unavailable, Reason.DRAINING]);
    await drained;
    server = await server.restart();
    client.close();
    client = await wire.connect(server.url);
    assert.deepEqual(await textsOf("r"), ["in flight"]);
  });
});
