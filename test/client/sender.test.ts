import assert from "node:assert/strict";
import * as net from "node:net";
import { inspect } from "node:util";
import { Code } from "@connectrpc/connect";
import { Reason } from "../../gen/runlog/v1/error_pb.js";
import type { SequencedEvent } from "../../gen/runlog/v1/record_pb.js";
import { RunState } from "../../gen/runlog/v1/run_pb.js";
import { StopPolicy } from "../../gen/runlog/v1/subscribe_pb.js";
import {
  type Drop,
  type EventInit,
  follow,
  JournalWentBackError,
  type OpenRunOptions,
  openRun,
  RunlogError,
  SenderClosedError,
  type SenderState,
} from "../../src/client/index.ts";
import { connectTo, type NodeConnection } from "../../src/client/node/index.ts";
import { lockNamespace } from "../../src/journal/namespaces.ts";
import { openJournal } from "../../src/journal/open.ts";
import { defaultLimits } from "../../src/limits.ts";
import { chosenSeed, randomOf } from "../crash/random.ts";
import { engineOver, readAll } from "../support/engine.ts";
import { giveBackDatabase, takeDatabase } from "../support/postgres.ts";
import { startTestServer, type TestServer } from "../support/server.ts";
import { BreakingProxy, loseAnswerOnce, noFault, randomCuts } from "./breaking-proxy.ts";

const backoff = { baseMs: 2, capMs: 20 };
const succeeded = { state: RunState.SUCCEEDED };

/** Remembers a sender's states, and waits for one. */
class States {
  readonly seen: SenderState[] = [];
  #waiting: (() => void)[] = [];

  readonly onState = (state: SenderState): void => {
    this.seen.push(state);
    for (const wake of this.#waiting.splice(0)) wake();
  };

  count(t: SenderState["t"]): number {
    return this.seen.filter((state) => state.t === t).length;
  }

  async until(t: SenderState["t"]): Promise<void> {
    while (this.count(t) === 0) await new Promise<void>((resolve) => this.#waiting.push(resolve));
  }
}

function isRefusal(reason: Reason) {
  return (error: unknown) => {
    assert.ok(error instanceof RunlogError, String(error));
    assert.equal(Reason[error.reason], Reason[reason]);
    return true;
  };
}

describe("the sender", () => {
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

  const connect = (url: string) => {
    const connection = connectTo(url);
    connections.push(connection);
    return connection.transport;
  };

  /** Opens a run with a sender that ends with the test, whatever becomes of it. */
  const open = (url: string, options: OpenRunOptions) =>
    openRun(connect(url), { signal: ending.signal, ...options });

  /** Everything in the journal, past the proxy. */
  const replay = async (): Promise<SequencedEvent[]> => {
    const records: SequencedEvent[] = [];
    const filter = { scope: { case: "all" as const, value: {} } };
    for await (const item of follow(connect(server.url), { filter, stop: StopPolicy.CAUGHT_UP })) {
      if (item.t === "records") records.push(...item.records);
    }
    return records;
  };

  /** The types of a run's events, with a check that run_seq is 1, 2, 3, … */
  const typesOf = async (runId: string): Promise<string[]> => {
    const types: string[] = [];
    for (const { record, runSeq, runId: owner } of await replay()) {
      if (owner !== runId || record.case !== "event") continue;
      types.push(record.value.type);
      assert.equal(runSeq, BigInt(types.length));
    }
    return types;
  };

  const typesUpTo = (count: number) => Array.from({ length: count }, (_, i) => `e${i + 1}`);

  const seed = chosenSeed();

  it(`loses, doubles and reorders nothing where connections break (RUNLOG_TEST_SEED=${seed})`, async () => {
    const random = randomOf(seed);
    proxy.newFault = randomCuts((min, max) => random.between(min, max));
    const perRun = 2_500;
    const runIds = ["a", "b", "c", "d"];
    const stats = await Promise.all(
      runIds.map(async (runId) => {
        const limits = { backoff, maxBufferedEvents: 300, maxFrameEvents: 16 };
        const sender = open(proxy.url, { runId, spec: {}, limits });
        for (let i = 1; i <= perRun; i++) {
          await sender.ready();
          assert.ok(sender.emit({ type: `e${i}`, data: Buffer.alloc(80, runId) }));
        }
        const { run, durable } = await sender.finish(succeeded);
        assert.deepEqual([run.lastRunSeq, durable], [BigInt(perRun), perRun]);
        return sender.stats;
      }),
    );
    const reconnects = stats.reduce((sum, each) => sum + each.reconnects, 0);
    assert.ok(
      proxy.cuts >= runIds.length && reconnects >= runIds.length,
      `${proxy.cuts} cuts, ${reconnects} reconnects`,
    );
    for (const runId of runIds) assert.deepEqual(await typesOf(runId), typesUpTo(perRun));
    const records = await replay();
    assert.deepEqual(
      records.map(({ seq }) => seq),
      records.map((_, i) => BigInt(i + 1)),
    );
    const ends = records.filter(({ record }) => record.case === "runFinished");
    assert.deepEqual(ends.map(({ runId }) => runId).sort(), runIds);
  });

  it("goes on where a graceful restart of the server interrupts it", async () => {
    const states = new States();
    const { onState } = states;
    const sender = open(proxy.url, {
      runId: "r",
      spec: {},
      limits: { backoff },
      onState,
    });
    for (let i = 1; i <= 500; i++) sender.emit({ type: `e${i}` });
    await sender.opened;
    server = await server.restart({ port: Number(new URL(server.url).port) });
    for (let i = 501; i <= 1_000; i++) sender.emit({ type: `e${i}` });
    assert.equal((await sender.finish(succeeded)).durable, 1_000);
    assert.ok(states.count("open") >= 2);
    assert.deepEqual(await typesOf("r"), typesUpTo(1_000));
  });

  it("ends a run once where the answer to its end is lost", async () => {
    const code = "marker-of-the-result";
    proxy.newFault = loseAnswerOnce(code);
    const sender = open(proxy.url, { runId: "r", spec: {}, limits: { backoff } });
    for (let i = 1; i <= 10; i++) sender.emit({ type: `e${i}` });
    const result = { state: RunState.FAILED, failure: { code, message: "m" } };
    const { run, durable } = await sender.finish(result);
    assert.deepEqual([run.state, run.result?.failure?.code, durable], [RunState.FAILED, code, 10]);
    assert.deepEqual([proxy.cuts, proxy.calls], [1, 2]);
    const ends = (await replay()).filter(({ record }) => record.case === "runFinished");
    assert.equal(ends.length, 1);
  });

  it("hears at once that another producer has its run, and does not take it back", async () => {
    const states = new States();
    const { onState } = states;
    const first = open(proxy.url, {
      runId: "r",
      spec: {},
      limits: { backoff },
      onState,
    });
    first.emit({ type: "e1" });
    await first.opened;
    const second = open(server.url, { runId: "r", limits: { backoff } });
    await states.until("failed");
    assert.equal(first.emit({ type: "stale" }), false);
    await assert.rejects(first.ready(), isRefusal(Reason.FENCED));
    await assert.rejects(first.finish(succeeded), isRefusal(Reason.FENCED));
    assert.deepEqual([states.count("connecting"), proxy.calls], [1, 1]);
    const { lastRunSeq } = await second.opened;
    second.emit({ type: `e${lastRunSeq + 1}` });
    await second.finish(succeeded);
    assert.deepEqual(await typesOf("r"), typesUpTo(lastRunSeq + 1));
  });

  it("is not fenced by an opening that it had given up and that arrives late", async () => {
    const late: Buffer[] = [];
    let isFirst = true;
    proxy.newFault = () => {
      if (!isFirst) return () => "forward";
      isFirst = false;
      let isComplete = false;
      return (from, chunk) => {
        if (from === "client" && !isComplete) {
          late.push(chunk);
          isComplete = chunk.includes("r-late");
        }
        return "swallow";
      };
    };
    const onState = ({ t }: SenderState) => {
      if (t === "waiting") proxy.cutAll();
    };
    const limits = { backoff, openTimeoutMs: 100 };
    const sender = open(proxy.url, { runId: "r-late", spec: {}, limits, onState });
    sender.emit({ type: "e1" });
    await sender.flush();
    const socket = net.connect(Number(new URL(server.url).port), "127.0.0.1");
    socket.write(Buffer.concat(late));
    const answer: Buffer[] = [];
    for await (const chunk of socket) {
      answer.push(chunk);
      if (Buffer.concat(answer).includes("r-late")) break;
    }
    socket.destroy();
    sender.emit({ type: "e2" });
    assert.equal((await sender.finish(succeeded)).durable, 2);
    assert.deepEqual(await typesOf("r-late"), typesUpTo(2));
  });

  it("does not take for its own what another producer has written in between", async () => {
    const sent = Promise.withResolvers<void>();
    let isSilent = false;
    proxy.newFault = () => (from, chunk) => {
      if (isSilent && from === "client" && chunk.includes("e3")) sent.resolve();
      return isSilent ? "swallow" : "forward";
    };
    const sender = open(proxy.url, { runId: "r", spec: {}, limits: { backoff } });
    await sender.opened;
    isSilent = true;
    for (let i = 1; i <= 3; i++) sender.emit({ type: `e${i}` });
    await sent.promise;
    const other = open(server.url, { runId: "r" });
    for (let i = 1; i <= 3; i++) other.emit({ type: `other${i}` });
    assert.deepEqual(await other.close(60_000), { durable: 3, unacked: 0 });
    proxy.newFault = noFault;
    proxy.cutAll();
    await assert.rejects(sender.finish(succeeded), isRefusal(Reason.CONFLICT));
    assert.equal(sender.stats.durable, 0);
    assert.deepEqual(await typesOf("r"), ["other1", "other2", "other3"]);
  });

  it("refuses at once what cannot name a run, however long", async () => {
    for (const runId of [
      "x".repeat(129),
      "ä".repeat(65),
      "x".repeat(5_000),
      "a\0b",
      "\ud800",
      "",
      "a b",
      "ä",
    ]) {
      // Nobody is there to ask.
      const sender = open("http://127.0.0.1:1", { runId, spec: {} });
      await assert.rejects(sender.finish(succeeded), isRefusal(Reason.INVALID_FIELD));
    }
  });

  it("opens its run again that was lost while it was connected", async () => {
    const url = await takeDatabase();
    const several = await startTestServer({ journal: url });
    const journal = await openJournal(url, defaultLimits);
    const sender = open(several.url, { runId: "r", spec: {}, limits: { backoff } });
    sender.emit({ type: "e1" });
    await sender.flush();
    // As another node does that takes the server for dead.
    await journal.write(async (tx) => {
      await lockNamespace(tx, "default");
      await tx.updateTable("runs").set({ node_key: 0 }).execute();
    });
    await engineOver(journal).committer.lose({
      namespace: "default",
      runId: "r",
      epoch: 1,
      leaseMs: 1,
    });
    sender.emit({ type: "e2" });
    assert.equal((await sender.finish(succeeded)).durable, 2);
    const facts = (await readAll(journal)).map(({ record }) => record.case);
    const ends = ["runFinished", "runResumed", "event", "runFinished"];
    assert.deepEqual(facts, ["runStarted", "event", ...ends]);
    await journal.close();
    await several.remove();
    assert.deepEqual(several.errors, []);
    await giveBackDatabase(url);
  });

  it("asks once for a run that does not exist", async () => {
    const states = new States();
    const { onState } = states;
    const sender = open(proxy.url, { runId: "unknown", limits: { backoff }, onState });
    assert.ok(sender.emit({ type: "e" }));
    await assert.rejects(sender.finish(succeeded), isRefusal(Reason.RUN_NOT_FOUND));
    await assert.rejects(sender.opened, isRefusal(Reason.RUN_NOT_FOUND));
    assert.equal(states.seen.map(({ t }) => t).join(), "connecting,failed");
    assert.equal(proxy.calls, 1);
    assert.deepEqual(await replay(), []);
  });

  it("asks once where nobody serves the method", async () => {
    const sender = open(`${proxy.url}/wrong`, { spec: {}, limits: { backoff } });
    await assert.rejects(sender.finish(succeeded), (error) => {
      assert.ok(error instanceof RunlogError && error.code === Code.Unimplemented, String(error));
      return true;
    });
    assert.equal(proxy.calls, 1);
  });

  it("tells of every event that it does not take, and the others have no gap", async () => {
    const drops: Drop[] = [];
    const random = randomOf(seed);
    const sender = open(server.url, {
      runId: "r",
      spec: {},
      limits: { backoff, maxBufferedEvents: 20 },
      onDrop: (drop) => drops.push(drop),
    });
    let taken = 0;
    let refused = 0;
    for (let i = 0; i < 2_000; i++) {
      if (sender.emit({ type: `e${taken + 1}` })) taken++;
      else refused++;
      if (random.between(1, 40) === 1) await sender.ready();
    }
    await sender.ready();
    assert.ok(taken > 20 && refused > 0);
    assert.equal(drops.filter(({ reason }) => reason === "overflow").length, refused);
    const tooLarge = { type: "big", data: new Uint8Array(1024 * 1024) };
    assert.deepEqual([sender.emit(tooLarge), drops.at(-1)?.reason], [false, "too_large"]);
    const { durable } = await sender.finish(succeeded);
    const { emitted, dropped } = sender.stats;
    assert.deepEqual([durable, emitted, dropped], [taken, taken, drops.length]);
    assert.deepEqual(await typesOf("r"), typesUpTo(taken));
  });

  it("drops every event that the server would refuse, and goes on", async () => {
    const drops: Drop[] = [];
    const onDrop = (drop: Drop) => drops.push(drop);
    const sender = open(server.url, { runId: "r", spec: {}, onDrop });
    const pairs = (count: number) =>
      Object.fromEntries(Array.from({ length: count }, (_, i) => [`k${i}`, "v"]));
    const invalid: EventInit[] = [
      { type: "" },
      { type: "x".repeat(129) },
      { type: "ä".repeat(65) },
      { type: "a\nb" },
      { type: "a\u007fb" },
      { type: "\ud800" },
      { type: "e", contentType: "x".repeat(129) },
      { type: "e", attributes: pairs(17) },
      { type: "e", attributes: { "": "v" } },
      { type: "e", attributes: { ["k".repeat(64)]: "v" } },
      { type: "e", attributes: { k: "v".repeat(1_025) } },
      { type: "e", contentType: "a\0" },
      { type: "e", attributes: { k: "\0" } },
      { type: "e", time: { seconds: 253_402_300_800n } },
      { type: "e", time: { seconds: 1n, nanos: -1 } },
    ];
    for (const event of invalid) {
      assert.equal(sender.emit(event), false, inspect(event));
      assert.equal(drops.at(-1)?.reason, "invalid");
    }
    // At the limits themselves nothing is dropped, and the server agrees.
    const largest = {
      contentType: "ä".repeat(64),
      attributes: { ...pairs(15), ["k".repeat(63)]: "ä".repeat(512) },
    };
    assert.ok(sender.emit({ type: "ä".repeat(64), ...largest }));
    assert.ok(sender.emit({ type: "x".repeat(128) }));
    assert.equal((await sender.finish(succeeded)).durable, 2);
    assert.deepEqual(await typesOf("r"), ["ä".repeat(64), "x".repeat(128)]);
  });

  it("drops what the server finds too large although it was emitted before it could say so", async () => {
    await server.remove();
    server = await startTestServer({ limits: { maxEventBytes: 1_000 } });
    const drops: Drop[] = [];
    const onDrop = (drop: Drop) => drops.push(drop);
    const sender = open(server.url, { runId: "r", spec: {}, onDrop });
    for (const type of ["e1", "big", "e2"]) {
      assert.ok(sender.emit({ type, data: new Uint8Array(type === "big" ? 2_000 : 10) }));
    }
    assert.equal((await sender.finish(succeeded)).durable, 2);
    assert.deepEqual(
      drops.map(({ reason, event, limit }) => [reason, event.type, limit]),
      [["too_large", "big", 1_000]],
    );
    assert.deepEqual(await typesOf("r"), typesUpTo(2));
  });

  it("fails with what it knows where the journal went back", async () => {
    const states = new States();
    const { onState } = states;
    const sender = open(proxy.url, {
      runId: "r",
      spec: {},
      limits: { backoff },
      onState,
    });
    for (let i = 1; i <= 5; i++) sender.emit({ type: `e${i}` });
    await sender.opened;
    const filter = { scope: { case: "runIds" as const, value: { runIds: ["r"] } } };
    for await (const item of follow(connect(server.url), { filter })) {
      if (item.t === "records" && item.records.some(({ runSeq }) => runSeq === 5n)) break;
    }
    // A drain lets acknowledgements through before it ends the call.
    const { port } = new URL(server.url);
    await server.remove();
    assert.equal(sender.stats.durable, 5);
    server = await startTestServer({ port: Number(port) });
    await assert.rejects(sender.finish(succeeded), (error) => {
      assert.ok(error instanceof JournalWentBackError, String(error));
      assert.deepEqual([error.acknowledgedRunSeq, error.lastRunSeq], [5, 0]);
      return true;
    });
    assert.deepEqual(await typesOf("r"), []);
  });

  it("closes a drained run, and the next sender goes on behind it", async () => {
    const first = open(server.url, { runId: "r", spec: {} });
    for (let i = 1; i <= 100; i++) first.emit({ type: `e${i}` });
    assert.deepEqual(await first.close(60_000), { durable: 100, unacked: 0 });
    assert.equal(first.emit({ type: "late" }), false);
    await assert.rejects(first.finish(succeeded), SenderClosedError);
    const second = open(server.url, { runId: "r" });
    assert.equal((await second.opened).lastRunSeq, 100);
    second.emit({ type: "e101" });
    await second.finish(succeeded);
    assert.deepEqual(await typesOf("r"), typesUpTo(101));
  });

  it("gives up a close that a silent peer would block for ever, and says how much is left", async () => {
    proxy.newFault = () => () => "swallow";
    const sender = open(proxy.url, { runId: "r", spec: {} });
    for (let i = 1; i <= 3; i++) sender.emit({ type: `e${i}` });
    assert.deepEqual(await sender.close(50), { durable: 0, unacked: 3 });
    assert.deepEqual(sender.state, { t: "closed", unacked: 3 });
  });

  it("stops at once where its signal says so, with the reason", async () => {
    proxy.newFault = () => () => "swallow";
    const controller = new AbortController();
    const { signal } = controller;
    const sender = open(proxy.url, {
      spec: {},
      signal,
      limits: { maxBufferedEvents: 1 },
    });
    sender.emit({ type: "e1" });
    const waits = [sender.ready(), sender.finish(succeeded), sender.opened];
    const reason = new Error("enough");
    controller.abort(reason);
    for (const wait of waits) {
      await assert.rejects(wait, (error) => {
        assert.ok(error instanceof SenderClosedError && error.cause === reason, String(error));
        return true;
      });
    }
  });

  it("leaves a peer that accepts and never answers, and tries again", async () => {
    let isFirst = true;
    proxy.newFault = () => {
      const fate = isFirst ? "swallow" : "forward";
      isFirst = false;
      return () => fate;
    };
    const states = new States();
    const onState = (state: SenderState) => {
      states.onState(state);
      // The dead connection itself is for the transport's pings to find.
      if (state.t === "waiting") proxy.cutAll();
    };
    const limits = { backoff, openTimeoutMs: 100 };
    const sender = open(proxy.url, { runId: "r", spec: {}, limits, onState });
    sender.emit({ type: "e1" });
    await sender.finish(succeeded);
    assert.ok(states.count("waiting") >= 1);
    assert.deepEqual(await typesOf("r"), ["e1"]);
  });
});
