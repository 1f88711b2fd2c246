/** A producer that receives input: signals, what it answers, and waits. */
import assert from "node:assert/strict";
import { create, type MessageInitShape } from "@bufbuild/protobuf";
import { timestampFromMs } from "@bufbuild/protobuf/wkt";
import { createClient, createRouterTransport } from "@connectrpc/connect";
import { Reason } from "../../gen/runlog/v1/error_pb.js";
import { EventSchema } from "../../gen/runlog/v1/event_pb.js";
import { IngestResponseSchema, IngestService } from "../../gen/runlog/v1/ingest_pb.js";
import type { SequencedEvent } from "../../gen/runlog/v1/record_pb.js";
import { RunService, RunState } from "../../gen/runlog/v1/run_pb.js";
import { StopPolicy } from "../../gen/runlog/v1/subscribe_pb.js";
import {
  follow,
  type OpenRunOptions,
  openRun,
  RunlogError,
  type RunSender,
  type RunSignal,
  SenderClosedError,
  SignalsPendingError,
  signalRun,
} from "../../src/client/index.ts";
import { connectTo, type NodeConnection } from "../../src/client/node/index.ts";
import { chosenSeed, randomOf } from "../crash/random.ts";
import { startTestServer, type TestServer } from "../support/server.ts";
import { BreakingProxy, noFault, randomCuts } from "./breaking-proxy.ts";

const backoff = { baseMs: 2, capMs: 20 };
const succeeded = { state: RunState.SUCCEEDED } as const;
const runId = "r";

/** Takes so many signals. */
async function take(sender: RunSender, count: number): Promise<RunSignal[]> {
  const taken: RunSignal[] = [];
  if (count === 0) return taken;
  for await (const signal of sender.signals()) {
    taken.push(signal);
    if (taken.length === count) break;
  }
  return taken;
}

const textOf = ({ event }: RunSignal) => Buffer.from(event.data).toString();

describe("a producer that receives signals", () => {
  let server: TestServer;
  let proxy: BreakingProxy;
  let connections: NodeConnection[];
  let ending: AbortController;

  beforeEach(async () => {
    ending = new AbortController();
    server = await startTestServer();
    proxy = await BreakingProxy.start(server.url);
    connections = [];
  });

  afterEach(async () => {
    ending.abort();
    for (const connection of connections) connection.close();
    await proxy.close();
    await server.remove();
    assert.deepEqual(server.errors, []);
  });

  const connect = (url = server.url) => {
    const connection = connectTo(url);
    connections.push(connection);
    return connection.transport;
  };
  const open = (options: OpenRunOptions = {}, url = server.url) =>
    openRun(connect(url), {
      runId,
      spec: {},
      receiveSignals: true,
      signal: ending.signal,
      limits: { backoff },
      ...options,
    });
  const send = async (text: string) => {
    const event = create(EventSchema, { type: "message", data: Buffer.from(text) });
    await createClient(RunService, connect()).signalRun({ runId, signalId: text, event });
  };
  const runNow = async () => {
    const { run } = await createClient(RunService, connect()).getRun({ runId });
    return run!;
  };
  const records = async (): Promise<SequencedEvent[]> => {
    const all: SequencedEvent[] = [];
    const filter = { scope: { case: "all" as const, value: {} } };
    for await (const item of follow(connect(), { filter, stop: StopPolicy.CAUGHT_UP })) {
      if (item.t === "records") all.push(...item.records);
    }
    return all;
  };

  it("gets them in order, and records an answer and what it handles in one commit", async () => {
    const sender = open();
    await sender.opened;
    for (const text of ["a", "b", "c"]) await send(text);
    const [a, b, c] = await take(sender, 3);
    assert.deepEqual(
      [a, b, c].map((one) => textOf(one!)),
      ["a", "b", "c"],
    );
    assert.deepEqual([a!.signalSeq, a!.signalId, a!.sender], [1, "a", ""]);
    assert.ok(sender.emit({ type: "thinking" }));
    assert.ok(sender.emit({ type: "answer" }, b!.signalSeq));
    assert.ok(sender.emit({ type: "thinking" }));
    await sender.flush();
    assert.equal((await runNow()).handledSignalSeq, 2n);
    const answers = (await records()).filter(({ handledSignalSeq }) => handledSignalSeq > 0n);
    assert.deepEqual(
      answers.map(({ record, runSeq, handledSignalSeq }) => [
        record.case === "event" && record.value.type,
        runSeq,
        handledSignalSeq,
      ]),
      [["answer", 2n, 2n]],
    );
    await sender.finish(succeeded);
  });

  it("that comes back gets exactly those that are not handled", async () => {
    const first = open();
    await first.opened;
    for (const text of ["a", "b", "c"]) await send(text);
    await take(first, 3);
    first.emit({ type: "answer" }, 1);
    await first.flush();
    // Not its end: it was killed before it answered the others.
    await first.close(0);
    await send("d");
    const second = open();
    assert.equal((await second.opened).handledSignalSeq, 1);
    assert.deepEqual((await take(second, 3)).map(textOf), ["b", "c", "d"]);
  });

  it("handles one without an event, also as the last thing that it does", async () => {
    const sender = open();
    await sender.opened;
    for (const text of ["a", "b"]) await send(text);
    await take(sender, 2);
    sender.handle(2);
    await sender.close(5_000);
    const { handledSignalSeq, lastRunSeq } = await runNow();
    assert.deepEqual([handledSignalSeq, lastRunSeq], [2n, 0n]);
  });

  it("leaves what one reader did not take to the next, which may stop waiting", async () => {
    const sender = open();
    await sender.opened;
    for (const text of ["a", "b", "c"]) await send(text);
    assert.deepEqual((await take(sender, 1)).map(textOf), ["a"]);
    assert.deepEqual((await take(sender, 2)).map(textOf), ["b", "c"]);
    const waiting = new AbortController();
    const none = sender.signals({ signal: waiting.signal }).next();
    await assert.rejects(sender.signals().next(), TypeError);
    waiting.abort();
    assert.equal((await none).done, true);
    await send("d");
    assert.deepEqual((await take(sender, 1)).map(textOf), ["d"]);
  });

  it("gets none twice, and loses no answer, where its server restarts in between", async () => {
    const sender = open();
    await sender.opened;
    for (const text of ["a", "b"]) await send(text);
    await take(sender, 2);
    const port = Number(new URL(server.url).port);
    await server.drain();
    // Handled, and not recorded: there is nobody to record it.
    sender.emit({ type: "answer" }, 1);
    sender.handle(2);
    server = await server.restart({ port });
    await sender.flush();
    await send("c");
    assert.deepEqual((await take(sender, 1)).map(textOf), ["c"]);
    sender.emit({ type: "answer" }, 3);
    await sender.finish(succeeded, { requireSignalsHandled: true });
    const answers = (await records()).filter(({ handledSignalSeq }) => handledSignalSeq > 0n);
    assert.deepEqual(
      answers.map(({ handledSignalSeq }) => handledSignalSeq),
      [1n, 3n],
    );
  });

  it("records what it handled while its server was leaving, before it closes", async () => {
    const left = Promise.withResolvers<void>();
    const answer = (frame: MessageInitShape<typeof IngestResponseSchema>["frame"]) =>
      create(IngestResponseSchema, { frame: frame! });
    let calls = 0;
    let handled = 0n;
    const transport = createRouterTransport(({ service }) => {
      service(IngestService, {
        async *ingest(requests) {
          const isFirst = ++calls === 1;
          for await (const { frame } of requests) {
            if (frame.case === "open") {
              yield answer({ case: "opened", value: { runId, epoch: BigInt(calls) } });
              if (!isFirst) continue;
              const signal = { signalSeq: 1n, signalId: "a", event: { type: "message" } };
              yield answer({ case: "signal", value: { runId, signal } });
              yield answer({ case: "goAway", value: {} });
              await left.promise;
              return;
            }
            if (frame.case !== "append") continue;
            handled = frame.value.handledSignalSeq;
            yield answer({ case: "ack", value: { runId, seq: 2n, handledSignalSeq: handled } });
          }
        },
      });
    });
    const sender = openRun(transport, {
      runId,
      spec: {},
      receiveSignals: true,
      limits: { backoff },
    });
    const [signal] = await take(sender, 1);
    sender.handle(signal!.signalSeq);
    const closed = sender.close(5_000);
    left.resolve();
    await closed;
    assert.deepEqual([handled, calls], [1n, 2]);
  });

  it("cannot handle what has not come, nor receive what it did not ask for", async () => {
    const sender = open();
    await sender.opened;
    await send("a");
    await take(sender, 1);
    assert.throws(() => sender.handle(2), RangeError);
    assert.throws(() => sender.emit({ type: "answer" }, 2), RangeError);
    assert.throws(() => sender.handle(0.5), RangeError);
    await sender.finish(succeeded);
    const deaf = open({ runId: "deaf", receiveSignals: false });
    assert.throws(() => deaf.signals(), TypeError);
    assert.throws(() => deaf.emit({ type: "answer" }, 1), TypeError);
  });

  it("leaves those that it has not taken to the producer that takes its run", async () => {
    const first = open();
    await first.opened;
    for (const text of ["a", "b", "c"]) await send(text);
    const signals = first.signals();
    assert.equal((await signals.next()).value.signalSeq, 1);
    const second = open();
    assert.deepEqual((await take(second, 3)).map(textOf), ["a", "b", "c"]);
    await assert.rejects(
      first.flush().then(() => first.finish(succeeded)),
      RunlogError,
    );
    assert.equal((await signals.next()).done, true);
  });

  it("ends its signals with the run", async () => {
    const sender = open();
    const all = (async () => {
      const taken: string[] = [];
      for await (const signal of sender.signals()) taken.push(textOf(signal));
      return taken;
    })();
    await sender.opened;
    await send("a");
    await sender.finish(succeeded);
    assert.deepEqual(await all, ["a"]);
  });

  it("lets the run wait once its events are durable, and goes on with the next one", async () => {
    const sender = open();
    sender.emit({ type: "working" });
    await sender.wait({ code: "approval", question: { type: "question" } });
    const waiting = await runNow();
    assert.deepEqual(
      [waiting.state, waiting.waiting?.code, waiting.lastRunSeq],
      [RunState.WAITING, "approval", 1n],
    );
    await send("yes");
    await take(sender, 1);
    sender.emit({ type: "answer" }, 1);
    await sender.flush();
    assert.equal((await runNow()).state, RunState.RUNNING);
    await sender.finish(succeeded);
  });

  it("does not wait, nor end, while signals await handling, and goes on", async () => {
    const sender = open();
    await sender.opened;
    await send("a");
    const isPending = (error: unknown) =>
      error instanceof SignalsPendingError && error.lastSignalSeq === 1;
    await assert.rejects(sender.wait({ code: "input" }), isPending);
    await assert.rejects(sender.finish(succeeded, { requireSignalsHandled: true }), isPending);
    assert.equal((await runNow()).state, RunState.RUNNING);
    await take(sender, 1);
    sender.emit({ type: "answer" }, 1);
    await sender.wait({ code: "input" });
    const { run } = await sender.finish(succeeded, { requireSignalsHandled: true });
    assert.equal(run.state, RunState.SUCCEEDED);
    await assert.rejects(sender.wait({ code: "input" }), SenderClosedError);
  });

  it("tells every caller that its end was refused, and goes on", async () => {
    const sender = open();
    await sender.opened;
    await send("a");
    const end = () => sender.finish(succeeded, { requireSignalsHandled: true });
    const ends = await Promise.allSettled([end(), end()]);
    for (const one of ends) {
      assert.ok(one.status === "rejected" && one.reason instanceof SignalsPendingError);
    }
    sender.handle(1);
    const { run } = await end();
    assert.equal(run.state, RunState.SUCCEEDED);
  });

  it("leaves the run where it is closed and its end was refused", async () => {
    const sender = open();
    await sender.opened;
    await send("a");
    const refused = assert.rejects(
      sender.finish(succeeded, { requireSignalsHandled: true }),
      SignalsPendingError,
    );
    await sender.close(5_000);
    await refused;
    assert.deepEqual(sender.state, { t: "closed", unacked: 0 });
    assert.equal((await runNow()).state, RunState.RUNNING);
  });

  it("lets the run wait before it closes, though its server was leaving", async () => {
    const left = Promise.withResolvers<void>();
    const answer = (frame: MessageInitShape<typeof IngestResponseSchema>["frame"]) =>
      create(IngestResponseSchema, { frame: frame! });
    let calls = 0;
    const transport = createRouterTransport(({ service }) => {
      service(IngestService, {
        async *ingest(requests) {
          const isFirst = ++calls === 1;
          for await (const { frame } of requests) {
            if (frame.case === "open") {
              yield answer({ case: "opened", value: { runId, epoch: BigInt(calls) } });
            }
            if (frame.case !== "wait") continue;
            if (!isFirst) {
              yield answer({ case: "waiting", value: { run: { runId } } });
              continue;
            }
            yield answer({ case: "goAway", value: {} });
            await left.promise;
            return;
          }
        },
      });
    });
    const sender = openRun(transport, { runId, spec: {}, limits: { backoff } });
    const waiting = sender.wait({ code: "approval" });
    const closed = sender.close(5_000);
    left.resolve();
    await waiting;
    await closed;
    assert.equal(calls, 2);
  });

  it("puts a wait between the events before and after it", async () => {
    const sender = open();
    await sender.opened;
    sender.emit({ type: "before" });
    const waited = sender.wait({ code: "approval" });
    sender.emit({ type: "after" });
    await waited;
    await sender.flush();
    const seen = (await records()).map(({ record }) =>
      record.case === "event" ? record.value.type : record.case,
    );
    assert.deepEqual(seen, ["runStarted", "before", "runWaiting", "runResumed", "after"]);
    await send("a");
    await take(sender, 1);
    // The answer that comes after the wait does not let the run wait while its agent works on.
    const refused = assert.rejects(sender.wait({ code: "approval" }), SignalsPendingError);
    sender.emit({ type: "answer" }, 1);
    await refused;
    await sender.flush();
    const { state, handledSignalSeq } = await runNow();
    assert.deepEqual([state, handledSignalSeq], [RunState.RUNNING, 1n]);
    await sender.finish(succeeded);
  });

  it("is over when the deadline of its wait passes, and leaves the run LOST", async () => {
    const sender = open();
    sender.emit({ type: "question" });
    await sender.wait({ code: "approval", deadline: { seconds: 1n } });
    for await (const signal of sender.signals()) assert.fail(`signal ${signal.signalSeq}`);
    const isLost = (error: unknown) =>
      error instanceof RunlogError && error.reason === "RUN_NOT_OPEN";
    await assert.rejects(sender.finish(succeeded), isLost);
    assert.equal((await runNow()).state, RunState.LOST);
    await send("late");
    const next = open();
    const [signal] = await take(next, 1);
    next.emit({ type: "answer" }, signal!.signalSeq);
    assert.equal((await next.finish(succeeded)).run.state, RunState.SUCCEEDED);
  });

  it("leaves the run LOST whose wait ended while it was cut off", async () => {
    const sender = open({}, proxy.url);
    await sender.wait({ code: "input" });
    // Answered as the first time: the run still waits.
    proxy.cutAll();
    const deadline = timestampFromMs(Date.now() + 500);
    await sender.wait({ code: "approval", deadline });
    proxy.newFault = () => () => "cut";
    proxy.cutAll();
    const scope = { case: "runIds" as const, value: { runIds: [runId] } };
    const request = { filter: { scope }, stop: StopPolicy.FINISHED };
    for await (const item of follow(connect(), request)) assert.ok(item);
    assert.equal((await runNow()).state, RunState.LOST);
    proxy.newFault = noFault;
    for await (const signal of sender.signals()) assert.fail(`signal ${signal.signalSeq}`);
    assert.equal(sender.state.t, "failed");
    assert.equal((await runNow()).state, RunState.LOST);
  });

  it("goes on after a wait that no server takes", async () => {
    const sender = open();
    const isRefused = (reason: Reason) => (error: unknown) =>
      error instanceof RunlogError && error.reason === Reason[reason];
    await assert.rejects(sender.wait({ code: "" }), isRefused(Reason.INVALID_FIELD));
    const deadline = { seconds: -70_000_000_000n, nanos: 0 };
    await assert.rejects(sender.wait({ code: "a", deadline }), isRefused(Reason.INVALID_FIELD));
    const question = { type: "q", data: Buffer.alloc(2_000_000) };
    await assert.rejects(sender.wait({ code: "a", question }), isRefused(Reason.TOO_LARGE));
    await sender.wait({ code: "a" });
    await sender.finish(succeeded);
  });

  it("waits through an outage", async () => {
    const sender = open({}, proxy.url);
    await sender.opened;
    let losses = 3;
    proxy.newFault = () => (from) => (from === "server" && losses-- > 0 ? "cut" : "forward");
    proxy.cutAll();
    sender.emit({ type: "working" });
    await sender.wait({ code: "approval" });
    assert.equal((await runNow()).state, RunState.WAITING);
    await sender.close(5_000);
  });

  it("gets a signal once whose answer was lost", async () => {
    const sender = open();
    await sender.opened;
    let losses = 2;
    proxy.newFault = () => (from, chunk) => {
      // Longer than SETTINGS and acknowledgements: the answer.
      if (from === "client" || chunk.length < 60 || losses === 0) return "forward";
      losses--;
      return "cut";
    };
    const event = { type: "message", data: Buffer.from("a") };
    // Such as a variable that nobody has set: it names no signal.
    const signal = { runId, signalId: "", event };
    const sent = await signalRun(connect(proxy.url), signal, { backoff });
    assert.equal(proxy.cuts, 2);
    const last = await signalRun(connect(), { runId, signalId: "last", event });
    assert.deepEqual([sent.signalSeq, last.signalSeq, last.signalId], [1, 2, "last"]);
    const taken = await take(sender, 2);
    assert.deepEqual(
      taken.map(({ signalId }) => signalId),
      [sent.signalId, "last"],
    );
    await sender.finish(succeeded);
    const isOver = (error: unknown) =>
      error instanceof RunlogError && error.reason === "RUN_FINISHED";
    await assert.rejects(signalRun(connect(), { runId, event }), isOver);
  });

  it("is not waited for longer than its sender wants", async () => {
    await open().opened;
    proxy.newFault = () => (from) => (from === "server" ? "swallow" : "forward");
    const transport = connect(proxy.url);
    const signal = { runId, event: { type: "message" } };
    const deadline = await signalRun(transport, signal, { timeoutMs: 50, backoff }).catch(
      (error: unknown) => error,
    );
    assert.ok(deadline instanceof RunlogError);
    const gone = new AbortController();
    const aborted = signalRun(transport, signal, { signal: gone.signal });
    gone.abort(new Error("gone"));
    await assert.rejects(aborted, /gone/);
  });

  const seed = chosenSeed();

  it(`answers each once where connections break and it dies (RUNLOG_TEST_SEED=${seed})`, async () => {
    const random = randomOf(seed);
    proxy.newFault = randomCuts((min, max) => random.between(min, max));
    const count = 200;
    await open().opened;
    const sending = (async () => {
      for (let i = 1; i <= count; i++) await send(`s${i}`);
    })();
    let handled = 0;
    let lives = 0;
    while (handled < count) {
      lives++;
      const sender = open({}, proxy.url);
      const isLast = lives > 20;
      const dies = random.between(1, 30);
      let answered = 0;
      const seen: number[] = [];
      for await (const signal of sender.signals()) {
        seen.push(signal.signalSeq);
        sender.emit({ type: "answer", data: Buffer.from(textOf(signal)) }, signal.signalSeq);
        if (random.between(0, 3) === 0) sender.emit({ type: "thinking" });
        handled = signal.signalSeq;
        if (handled === count || (!isLast && ++answered === dies)) break;
      }
      assert.deepEqual(
        seen,
        seen.map((_, i) => seen[0]! + i),
      );
      if (handled === count) await sender.finish(succeeded);
      else await sender.close(0);
    }
    await sending;
    const answers = (await records()).filter(({ handledSignalSeq }) => handledSignalSeq > 0n);
    const expected = Array.from({ length: count }, (_, i) => [`s${i + 1}`, BigInt(i + 1)]);
    assert.deepEqual(
      answers.map(({ record, handledSignalSeq }) => [
        record.case === "event" && Buffer.from(record.value.data).toString(),
        handledSignalSeq,
      ]),
      expected,
    );
    assert.ok(lives > 1 && proxy.cuts > 0, `${lives} lives, ${proxy.cuts} cuts`);
  });
});
