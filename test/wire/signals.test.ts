import assert from "node:assert/strict";
import { Code } from "@connectrpc/connect";
import { type ErrorDetail, Reason } from "../../gen/runlog/v1/error_pb.js";
import type { SequencedEvent } from "../../gen/runlog/v1/record_pb.js";
import { RunState } from "../../gen/runlog/v1/run_pb.js";
import { StopPolicy } from "../../gen/runlog/v1/subscribe_pb.js";
import {
  answer,
  append,
  eventsOf,
  finish,
  open,
  openInput,
  release,
  Stream,
  spec,
} from "../support/producer.ts";
import type { TestServer } from "../support/server.ts";
import { collect, describeService, refusalOf, type WireClient } from "../support/wire.ts";

/** Limits that make bad input cheap; the rest is as in production. */
const limits = { maxEventBytes: 2_000, maxPendingSignals: 5 };

describeService("signals", (wire, startServer) => {
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

  const say = (runId: string, text: string, signalId = text) =>
    client.runs.signalRun({ runId, signalId, event: eventsOf(text)[0]! });

  const recordsOf = async (
    runId: string,
    filter: { includeInherited?: boolean; eventTypes?: string[] } = {},
  ): Promise<SequencedEvent[]> => {
    const { includeInherited = false, eventTypes = [] } = filter;
    const scope = { case: "runIds" as const, value: { runIds: [runId], includeInherited } };
    const stop = StopPolicy.CAUGHT_UP;
    const request = { filter: { scope, eventTypes }, stop };
    return (await collect(client.subscribe.subscribe(request))).flatMap(({ frame }) =>
      frame.case === "events" ? frame.value.events : [],
    );
  };

  /** What a record holds, in short. */
  const shown = ({ record, handledSignalSeq }: SequencedEvent): string => {
    const handled = handledSignalSeq === 0n ? "" : `, handled ${handledSignalSeq}`;
    if (record.case === "event") return `event ${Buffer.from(record.value.data)}${handled}`;
    if (record.case !== "signal") return `${record.case}${handled}`;
    const { signalSeq, event } = record.value;
    return `signal ${signalSeq} ${Buffer.from(event!.data)}`;
  };

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

  it("are numbered, durable records that everybody sees, and an id names one", async () => {
    await client.ingest.appendEvents({
      runId: "r",
      create: spec,
      firstRunSeq: 1n,
      events: eventsOf("a"),
    });
    const first = await say("r", "hello");
    assert.deepEqual([first.seq, first.signalSeq, first.signalId], [3n, 1n, "hello"]);
    const second = await client.runs.signalRun({ runId: "r", event: eventsOf("more")[0]! });
    assert.deepEqual([second.seq, second.signalSeq], [4n, 2n]);
    assert.match(second.signalId, /^[0-9a-f-]{36}$/);

    const [event] = eventsOf("hello");
    const timed = { ...event!, time: { seconds: 1n, nanos: 0 } };
    const again = await client.runs.signalRun({ runId: "r", signalId: "hello", event: timed });
    assert.deepEqual([again.seq, again.signalSeq], [3n, 1n], "its time does not matter");
    const attributes = { a: "1", b: "2" };
    const sent = { ...event!, attributes };
    await client.runs.signalRun({ runId: "r", signalId: "with", event: sent });
    const turned = { ...event!, attributes: { b: "2", a: "1" } };
    const same = await client.runs.signalRun({ runId: "r", signalId: "with", event: turned });
    assert.equal(same.signalSeq, 3n, "nor does the order of attributes");
    await refuses(say("r", "other", "hello"), Code.FailedPrecondition, Reason.SIGNAL_CONFLICT);

    const records = await recordsOf("r");
    assert.deepEqual(records.map(shown), [
      "runStarted",
      "event a",
      "signal 1 hello",
      "signal 2 more",
      "signal 3 hello",
    ]);
    assert.deepEqual(
      records.map(({ runSeq }) => Number(runSeq)),
      [0, 1, 0, 0, 0],
      "a signal has no place among the events",
    );
    const { run } = await client.runs.getRun({ runId: "r" });
    assert.deepEqual([run?.lastSignalSeq, run?.handledSignalSeq, run?.lastRunSeq], [3n, 0n, 1n]);
    assert.deepEqual(
      (await recordsOf("r", { eventTypes: ["none"] })).map(shown),
      ["runStarted"],
      "event_types chooses among signals too",
    );
    assert.equal((await recordsOf("r", { eventTypes: ["te*"] })).length, 5);
  });

  it("are refused with what to do", async () => {
    await refuses(say("none", "x"), Code.NotFound, Reason.RUN_NOT_FOUND);
    await client.runs.createRun({ runId: "deaf", spec: { refusesSignals: true } });
    await refuses(say("deaf", "x"), Code.FailedPrecondition, Reason.SIGNALS_REFUSED);
    await client.runs.createRun({ runId: "r", spec });
    const invalid = async (request: object, field: string) => {
      const call = client.runs.signalRun({ runId: "r", event: eventsOf("x")[0]!, ...request });
      assert.equal((await refuses(call, Code.InvalidArgument, Reason.INVALID_FIELD)).field, field);
    };
    await invalid({ runId: "" }, "run_id");
    await invalid({ signalId: "a b" }, "signal_id");
    await invalid({ signalId: "x".repeat(129) }, "signal_id");
    await invalid({ event: undefined }, "event");
    await invalid({ event: { data: Buffer.from("x") } }, "event.type");
    const large = { runId: "r", event: { type: "test", data: Buffer.alloc(3_000) } };
    const tooLarge = await refuses(
      client.runs.signalRun(large),
      Code.InvalidArgument,
      Reason.TOO_LARGE,
    );
    assert.deepEqual([tooLarge.field, tooLarge.limit], ["event", 2_000n]);
    for (let n = 1; n <= 5; n++) await say("r", `${n}`);
    const full = await refuses(say("r", "6"), Code.ResourceExhausted, Reason.QUOTA);
    assert.equal(full.limit, 5n);
    assert.equal((await say("r", "5")).signalSeq, 5n, "one that there is is answered all the same");

    const { epoch } = await client.ingest.appendEvents({ runId: "r", handledSignalSeq: 2n });
    assert.equal((await say("r", "6")).signalSeq, 6n);
    await client.ingest.appendEvents({ runId: "r", epoch, finish: { state: RunState.SUCCEEDED } });
    await refuses(say("r", "7"), Code.FailedPrecondition, Reason.RUN_FINISHED);
    assert.equal((await say("r", "6")).signalSeq, 6n);
  });

  it("are handled by a window together with the events that answer them", async () => {
    const first = await client.ingest.appendEvents({ runId: "r", create: spec });
    const { epoch } = first;
    assert.deepEqual([first.handledSignalSeq, first.lastSignalSeq], [0n, 0n]);
    for (const text of ["a", "b", "c"]) await say("r", text);
    const on = { runId: "r", epoch };
    const reply = {
      ...on,
      firstRunSeq: 1n,
      events: eventsOf("to a", "to b"),
      handledSignalSeq: 2n,
    };
    const replied = await client.ingest.appendEvents(reply);
    assert.deepEqual([replied.handledSignalSeq, replied.lastSignalSeq], [2n, 3n]);
    const lower = await client.ingest.appendEvents({ ...on, handledSignalSeq: 1n });
    assert.equal(lower.handledSignalSeq, 2n, "it never goes back");
    const beyond = client.ingest.appendEvents({ ...on, handledSignalSeq: 4n });
    const refused = await refuses(beyond, Code.InvalidArgument, Reason.INVALID_FIELD);
    assert.equal(refused.field, "handled_signal_seq");
    const again = await client.ingest.appendEvents({ ...reply, handledSignalSeq: 3n });
    assert.equal(again.handledSignalSeq, 3n, "what is sent again moves it too");

    await say("r", "d");
    const result = { state: RunState.SUCCEEDED };
    const early = { ...on, firstRunSeq: 3n, events: eventsOf("end"), finish: result };
    const pending = await refuses(
      client.ingest.appendEvents({ ...early, requireSignalsHandled: true }),
      Code.FailedPrecondition,
      Reason.SIGNALS_PENDING,
    );
    assert.equal(pending.lastSignalSeq, 4n);
    assert.equal((await client.runs.getRun({ runId: "r" })).run?.state, RunState.RUNNING);
    const last = { ...early, requireSignalsHandled: true, handledSignalSeq: 4n };
    assert.equal((await client.ingest.appendEvents(last)).lastRunSeq, 3n);
    const records = await recordsOf("r");
    assert.deepEqual(records.slice(4).map(shown), [
      "event to a",
      "event to b, handled 2",
      "signal 4 d",
      "event end",
      "runFinished",
    ]);
    const end = records.at(-1)!.record;
    assert.equal(end.case === "runFinished" && end.value.handledSignalSeq, 4n);
  });

  it("before the fork point are history to a fork, whose inbox begins empty", async () => {
    const opened = await client.ingest.appendEvents({ runId: "source", create: spec });
    const on = { runId: "source", epoch: opened.epoch };
    await client.ingest.appendEvents({ ...on, firstRunSeq: 1n, events: eventsOf("a") });
    await say("source", "before");
    await client.ingest.appendEvents({ ...on, firstRunSeq: 2n, events: eventsOf("b") });
    await say("source", "behind");
    await client.ingest.appendEvents({ ...on, firstRunSeq: 3n, events: eventsOf("c") });
    const { run } = await client.runs.forkRun({ sourceRunId: "source", runSeq: 2n, runId: "fork" });
    assert.deepEqual([run?.lastSignalSeq, run?.handledSignalSeq], [0n, 0n]);
    assert.equal((await say("fork", "own", "before")).signalSeq, 1n);
    assert.deepEqual((await recordsOf("fork", { includeInherited: true })).map(shown), [
      "event a",
      "signal 1 before",
      "event b",
      "runStarted",
      "signal 1 own",
    ]);
  });

  it("that await handling, agents, ids and times of creation choose runs in a list", async () => {
    const started: bigint[] = [];
    for (const [n, runId] of ["a-1", "a-2", "b-1"].entries()) {
      const agentId = n === 1 ? "two" : "one";
      const { run } = await client.runs.createRun({ runId, spec: { agentId } });
      started.push(run!.createTime!.seconds * 1_000n + BigInt(run!.createTime!.nanos / 1e6));
    }
    await say("a-2", "hello");
    const { seq } = await say("b-1", "hello");
    await client.ingest.appendEvents({ runId: "b-1", handledSignalSeq: 1n });
    const list = async (request: object): Promise<string[]> => {
      const { runs, asOfSeq } = await client.runs.listRuns(request);
      assert.equal(asOfSeq, seq);
      return runs.map((run) => run.runId);
    };
    const at = (ms: bigint) => ({ seconds: ms / 1_000n, nanos: Number(ms % 1_000n) * 1e6 });
    const [first, , last] = started as [bigint, bigint, bigint];
    assert.deepEqual(await list({ hasPendingSignals: true }), ["a-2"]);
    assert.deepEqual(await list({ agentId: "one" }), ["b-1", "a-1"]);
    assert.deepEqual(await list({ runIdPrefix: "a-" }), ["a-2", "a-1"]);
    assert.deepEqual(await list({ runIdPrefix: "a-2", agentId: "one" }), []);
    assert.deepEqual(await list({ createdFrom: at(last + 1n) }), []);
    assert.deepEqual(await list({ createdFrom: at(first) }), ["b-1", "a-2", "a-1"]);
    assert.deepEqual(await list({ createdBefore: at(first) }), []);
    assert.deepEqual(await list({ createdBefore: at(last + 1n) }), ["b-1", "a-2", "a-1"]);
    assert.deepEqual(
      await list({
        createdBefore: { seconds: first / 1_000n + 1n, nanos: 1 },
        createdFrom: at(first),
        runIdPrefix: "a-1",
      }),
      ["a-1"],
    );
  });

  if (!wire.isBidirectional) return;

  it("reach a producer's stream in order, those first that are not handled", async () => {
    await client.runs.createRun({ runId: "r", spec });
    for (const text of ["a", "b"]) await say("r", text);
    await client.ingest.appendEvents({ runId: "r", handledSignalSeq: 1n });
    const stream = new Stream(client);
    stream.send(openInput("r"));
    const opened = await stream.expect("opened");
    assert.deepEqual([opened.handledSignalSeq, opened.lastSignalSeq], [1n, 2n]);
    const next = async () => {
      const { runId, signal } = await stream.expect("signal");
      assert.equal(runId, "r");
      return `${signal?.signalSeq} ${Buffer.from(signal!.event!.data)}`;
    };
    assert.equal(await next(), "2 b");
    const { seq } = await say("r", "c");
    const live = await stream.expect("signal");
    assert.deepEqual([live.seq, live.signal?.signalSeq, live.signal?.signalId], [seq, 3n, "c"]);
    assert.equal(live.signal?.sender, "");

    stream.send(answer("r", 3, 1, "to b and c"));
    const ack = await stream.expect("ack");
    assert.deepEqual([ack.runSeq, ack.handledSignalSeq], [1n, 3n]);
    stream.send(answer("r", 3, 1, "to b and c"), append("r", 2, "more"));
    assert.equal((await stream.expect("ack")).handledSignalSeq, 3n);
    stream.send(release("r"));
    while ((await stream.next())?.case !== "released");
    await say("r", "d");
    stream.send(openInput("r", null));
    await stream.expect("opened");
    assert.equal(await next(), "4 d");
    stream.send(answer("r", 4, 0));
    const alone = await stream.expect("ack");
    assert.deepEqual([alone.runSeq, alone.handledSignalSeq], [2n, 4n]);
    stream.halfClose();
    assert.equal(await stream.next(), undefined);
  });

  it("are not sent to a producer that does not ask for them, nor to one that lost the run", async () => {
    const [first, second] = [new Stream(client), new Stream(client)];
    first.send(openInput("r"));
    await first.expect("opened");
    second.send(open("r"));
    await second.expect("opened");
    await first.expectRejected(Reason.FENCED);
    await say("r", "a");
    second.send(append("r", 1, "x"));
    await second.expect("ack");
    for (const stream of [first, second]) {
      stream.halfClose();
      assert.equal(await stream.next(), undefined);
    }
  });

  it("keep a run from ending where its producer says so", async () => {
    const stream = new Stream(client);
    stream.send(openInput("r"));
    await stream.expect("opened");
    await say("r", "a");
    await stream.expect("signal");
    const end = finish("r", 0);
    const last = { ...end.frame!.value, requireSignalsHandled: true };
    stream.send({ frame: { case: "finish", value: last } } as never);
    const pending = await stream.expect("signalsPending");
    assert.deepEqual([pending.handledSignalSeq, pending.lastSignalSeq], [0n, 1n]);
    stream.send({ frame: { case: "finish", value: { ...last, handledSignalSeq: 2n } } } as never);
    const detail = await stream.expectRejected(Reason.INVALID_FIELD);
    assert.equal(detail.field, "finish.handled_signal_seq");
    stream.send(openInput("r", null));
    await stream.expect("opened");
    await stream.expect("signal");
    stream.send({ frame: { case: "finish", value: { ...last, handledSignalSeq: 1n } } } as never);
    const { run } = await stream.expect("ended");
    assert.deepEqual([run?.state, run?.handledSignalSeq], [RunState.SUCCEEDED, 1n]);
    stream.halfClose();
    assert.equal(await stream.next(), undefined);
  });
});
