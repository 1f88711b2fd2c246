/** Many senders of one process: one call carries them, and what one does leaves the others alone. */
import assert from "node:assert/strict";
import type { Transport } from "@connectrpc/connect";
import { createGrpcTransport, Http2SessionManager } from "@connectrpc/connect-node";
import { Reason } from "../../gen/runlog/v1/error_pb.js";
import { RunState } from "../../gen/runlog/v1/run_pb.js";
import { StopPolicy } from "../../gen/runlog/v1/subscribe_pb.js";
import {
  follow,
  type OpenRunOptions,
  openRun,
  type ResultInit,
  RunlogError,
  type RunSender,
  SenderClosedError,
} from "../../src/client/index.ts";
import { connectTo, type NodeConnection } from "../../src/client/node/index.ts";
import { yieldToEventLoop } from "../../src/event-loop.ts";
import { chosenSeed, randomOf } from "../crash/random.ts";
import { startTestServer, type TestServer } from "../support/server.ts";
import { BreakingProxy, noFault, randomCuts } from "./breaking-proxy.ts";

const backoff = { baseMs: 2, capMs: 20 };
const succeeded = { state: RunState.SUCCEEDED } as const;
const shortLease = { lease: { seconds: 1n } };

const isRefusal = (reason: Reason) => (error: unknown) =>
  error instanceof RunlogError && error.reason === Reason[reason];

describe("senders that share a call", () => {
  let server: TestServer;
  let proxy: BreakingProxy;
  let connection: NodeConnection;
  let direct: NodeConnection;
  let ending: AbortController;

  beforeEach(async () => {
    ending = new AbortController();
    server = await startTestServer();
    proxy = await BreakingProxy.start(server.url);
    connection = connectTo(proxy.url);
    direct = connectTo(server.url);
  });

  afterEach(async () => {
    ending.abort();
    connection.close();
    direct.close();
    await proxy.close();
    await server.remove();
    assert.deepEqual(server.errors, []);
  });

  const open = (
    runId: string,
    options: OpenRunOptions = {},
    transport: Transport = connection.transport,
  ) =>
    openRun(transport, { runId, spec: {}, signal: ending.signal, limits: { backoff }, ...options });

  const openAll = (count: number, options?: OpenRunOptions, transport?: Transport) =>
    Array.from({ length: count }, (_, i) => open(`r${i}`, options, transport));

  /** How a run ended, once it has, and the types of its events, whose run_seqs are 1, 2, 3, … */
  const endOf = async (runId: string): Promise<{ state: RunState; types: string[] }> => {
    const types: string[] = [];
    const filter = { scope: { case: "runIds" as const, value: { runIds: [runId] } } };
    for await (const item of follow(direct.transport, { filter, stop: StopPolicy.FINISHED })) {
      if (item.t !== "records") continue;
      for (const { record, runSeq } of item.records) {
        if (record.case === "runFinished") return { state: record.value.result!.state, types };
        if (record.case !== "event") continue;
        types.push(record.value.type);
        assert.equal(runSeq, BigInt(types.length));
      }
    }
    throw new Error(`${runId} did not end`);
  };

  async function emitEach(senders: readonly RunSender[], from: number, to: number): Promise<void> {
    for (let i = from; i <= to; i++) {
      for (const sender of senders) assert.ok(sender.emit({ type: `e${i}` }));
      await Promise.all(senders.map((sender) => sender.flush()));
    }
  }

  const typesUpTo = (count: number) => Array.from({ length: count }, (_, i) => `e${i + 1}`);

  it("send over one call for each namespace", async () => {
    const senders = [...openAll(60), ...openAll(60, { namespace: "other" })];
    await emitEach(senders, 1, 5);
    await Promise.all(senders.map((sender) => sender.finish(succeeded)));
    assert.equal(proxy.calls, 2);
    for (const sender of senders) {
      const { emitted, durable, resent, reconnects } = sender.stats;
      assert.deepEqual([emitted, durable, resent, reconnects], [5, 5, 0, 0]);
    }
    assert.deepEqual(await endOf("r59"), { state: RunState.SUCCEEDED, types: typesUpTo(5) });
  });

  const seed = chosenSeed();
  const transports: Record<string, (url: string) => { transport: Transport; close: () => void }> = {
    "runlog's own transport": connectTo,
    "a transport of Connect": (baseUrl) => {
      const sessionManager = new Http2SessionManager(baseUrl);
      const transport = createGrpcTransport({ baseUrl, sessionManager });
      return { transport, close: () => sessionManager.abort() };
    },
  };
  for (const [name, connect] of Object.entries(transports)) {
    it(`lose, double and reorder nothing where it breaks, over ${name} (RUNLOG_TEST_SEED=${seed})`, async () => {
      const random = randomOf(seed);
      proxy.newFault = randomCuts((min, max) => random.between(min, max));
      const { transport, close } = connect(proxy.url);
      const runs = 40;
      const perRun = 60;
      const senders = openAll(runs, { limits: { backoff, maxBufferedEvents: 10 } }, transport);
      await Promise.all(
        senders.map(async (sender) => {
          for (let i = 1; i <= perRun; i++) {
            await sender.ready();
            assert.ok(sender.emit({ type: `e${i}`, data: Buffer.alloc(random.between(1, 200)) }));
            if (random.between(1, 10) === 1) await sender.flush();
          }
          assert.equal((await sender.finish(succeeded)).durable, perRun);
        }),
      );
      assert.ok(proxy.cuts >= 1, `${proxy.cuts} cuts`);
      for (let i = 0; i < runs; i++) {
        const end = { state: RunState.SUCCEEDED, types: typesUpTo(perRun) };
        assert.deepEqual(await endOf(`r${i}`), end);
      }
      close();
    });
  }

  it("let the lease of a run begin that one of them closes, and go on", async () => {
    const [closing, ...others] = openAll(3, { spec: shortLease });
    await emitEach([closing!, ...others], 1, 3);
    assert.deepEqual(await closing!.close(60_000), { durable: 3, unacked: 0 });
    assert.deepEqual(await endOf("r0"), { state: RunState.LOST, types: typesUpTo(3) });
    await emitEach(others, 4, 5);
    for (const other of others) {
      assert.equal(other.stats.reconnects, 0);
      await other.finish(succeeded);
    }
    assert.equal(proxy.calls, 1);
  });

  it("let the lease of a run begin that is aborted, also where its opening is on its way", async () => {
    const controller = new AbortController();
    const { signal } = controller;
    proxy.newFault = () => (from, chunk) => {
      if (from === "client" && chunk.includes("r-opening")) controller.abort();
      return "forward";
    };
    const other = open("other");
    const opened = open("r-opened", { signal, spec: shortLease });
    await Promise.all([other.opened, opened.opened]);
    const opening = open("r-opening", { signal, spec: shortLease });
    await assert.rejects(opening.opened, SenderClosedError);
    await assert.rejects(opened.finish(succeeded), SenderClosedError);
    for (const runId of ["r-opened", "r-opening"]) {
      assert.equal((await endOf(runId)).state, RunState.LOST);
    }
    await other.finish(succeeded);
    assert.equal(other.stats.reconnects, 0);
  });

  it("can have the run again that was left, at once", async () => {
    const other = open("other");
    const first = open("r");
    await emitEach([first, other], 1, 2);
    await first.close(60_000);
    let last = 2;
    for (let round = 0; round < 10; round++) {
      const controller = new AbortController();
      const aborted = open("r", { signal: controller.signal });
      assert.equal((await aborted.opened).lastRunSeq, last);
      for (let i = last + 1; i <= last + 50; i++) aborted.emit({ type: `e${i}` });
      // They are on their way, and perhaps durable.
      await yieldToEventLoop();
      controller.abort();
      const next = open("r");
      last = (await next.opened).lastRunSeq + 1;
      await emitEach([next], last, last);
      await next.close(60_000);
    }
    await open("r").finish(succeeded);
    await other.finish(succeeded);
    assert.deepEqual(await endOf("r"), { state: RunState.SUCCEEDED, types: typesUpTo(last) });
    assert.equal(other.stats.reconnects, 0);
  });

  it("are not touched by a refusal of one of them", async () => {
    const others = openAll(2);
    const unknown = openRun(connection.transport, { runId: "unknown", signal: ending.signal });
    await assert.rejects(unknown.opened, isRefusal(Reason.RUN_NOT_FOUND));
    const isInvalid = isRefusal(Reason.INVALID_FIELD);
    // The server names but a part of these.
    for (const runId of ["x".repeat(1_000), "\ud800", ""]) {
      await assert.rejects(open(runId).opened, isInvalid, runId);
    }
    await assert.rejects(open("r").finish({} as ResultInit), isInvalid);
    await emitEach(others, 1, 3);
    for (const other of others) {
      await other.finish(succeeded);
      assert.equal(other.stats.reconnects, 0);
    }
  });

  it("are not touched by a frame that is too large for the server", async () => {
    const others = openAll(2);
    await emitEach(others, 1, 2);
    const isTooLarge = isRefusal(Reason.TOO_LARGE);
    const labels = { l: "x".repeat(9 * 1024 * 1024) };
    await assert.rejects(open("large", { spec: { labels } }).opened, isTooLarge);
    const ending = open("ending");
    await ending.opened;
    const output = new Uint8Array(9 * 1024 * 1024);
    await assert.rejects(ending.finish({ ...succeeded, output }), isTooLarge);
    await emitEach(others, 3, 4);
    for (const other of others) {
      await other.finish(succeeded);
      assert.equal(other.stats.reconnects, 0);
    }
    assert.equal(proxy.calls, 1);
  });

  it("survive the one for whose sake the server refuses the call", async () => {
    const sent = Promise.withResolvers<void>();
    let isLost = false;
    proxy.newFault = () => (from, chunk) => {
      if (from === "client" && chunk.includes("e-large")) {
        isLost = true;
        sent.resolve();
      }
      return isLost ? "swallow" : "forward";
    };
    const [large, ...others] = openAll(4);
    await emitEach([large!, ...others], 1, 1);
    // What was sent cannot be dropped any more, and the next server does not even read it.
    large!.emit({ type: "e-large", data: new Uint8Array(200_000) });
    for (const other of others) other.emit({ type: "e2" });
    await sent.promise;
    const { port } = new URL(server.url);
    server = await server.restart({
      port: Number(port),
      limits: { maxEventBytes: 2_000, maxAppendBytes: 6_000, maxMessageBytes: 65_536 },
    });
    proxy.newFault = noFault;
    proxy.cutAll();
    await assert.rejects(large!.finish(succeeded), isRefusal(Reason.TOO_LARGE));
    for (const [i, other] of others.entries()) {
      await other.finish(succeeded);
      assert.deepEqual((await endOf(`r${i + 1}`)).types, typesUpTo(2));
    }
  });

  it("wait with those that a busy server answers later", async () => {
    const others = openAll(2);
    await emitEach(others, 1, 1);
    // So short that it would pass before any answer.
    const limits = { backoff, openTimeoutMs: 1 };
    const hasty = Array.from({ length: 50 }, (_, i) => open(`hasty${i}`, { limits }));
    await emitEach([...hasty, ...others], 2, 3);
    for (const sender of [...hasty, ...others]) assert.equal(sender.stats.reconnects, 0);
  });

  it("are closed where the last one gives the call up meanwhile", async () => {
    let isSilent = false;
    proxy.newFault = () => () => (isSilent ? "swallow" : "forward");
    const closing = openAll(3);
    const controller = new AbortController();
    const last = open("last", { signal: controller.signal });
    await emitEach([...closing, last], 1, 1);
    isSilent = true;
    const closed = closing.map((sender) => sender.close(60_000));
    // Their releases are on their way.
    await yieldToEventLoop();
    controller.abort();
    for (const one of closed) assert.deepEqual(await one, { durable: 1, unacked: 0 });
    for (const sender of closing) assert.deepEqual(sender.state, { t: "closed", unacked: 0 });
    proxy.cutAll();
  });

  it("are fenced by each other where they have the same run", async () => {
    const first = open("r");
    await emitEach([first], 1, 1);
    const second = open("r");
    assert.equal((await second.opened).lastRunSeq, 1);
    await assert.rejects(first.finish(succeeded), isRefusal(Reason.FENCED));
    await emitEach([second], 2, 2);
    await second.finish(succeeded);
    assert.deepEqual((await endOf("r")).types, typesUpTo(2));
  });

  it("take another call where the server lets no more runs on one", async () => {
    await server.remove();
    const { port } = new URL(server.url);
    server = await startTestServer({ port: Number(port), limits: { maxOpenRunsPerStream: 4 } });
    const senders = openAll(10);
    await emitEach(senders, 1, 3);
    await Promise.all(senders.map((sender) => sender.finish(succeeded)));
    assert.ok(proxy.calls >= 3, `${proxy.calls} calls`);
    for (let i = 0; i < 10; i++) assert.deepEqual((await endOf(`r${i}`)).types, typesUpTo(3));
  });

  it("release in one frame the runs that are closed together", async () => {
    const senders = openAll(50, { spec: shortLease });
    const other = open("other");
    await emitEach([...senders, other], 1, 2);
    await Promise.all(senders.map((sender) => sender.close(60_000)));
    for (let i = 0; i < 50; i++) assert.equal((await endOf(`r${i}`)).state, RunState.LOST);
    await other.finish(succeeded);
    assert.equal(other.stats.reconnects, 0);
  });

  it("flush emitted events, unless the call ends before", async () => {
    const sender = open("r");
    await sender.flush();
    for (let i = 1; i <= 300; i++) sender.emit({ type: `e${i}` });
    await sender.flush();
    assert.equal(sender.stats.durable, 300);
    await sender.finish(succeeded);
    await sender.flush();
    proxy.newFault = () => () => "swallow";
    const silent = open("silent", {}, connectTo(proxy.url).transport);
    silent.emit({ type: "e1" });
    const flushed = silent.flush();
    ending.abort();
    await assert.rejects(flushed, SenderClosedError);
  });
});
