import assert from "node:assert/strict";
import { Reason } from "../../gen/runlog/v1/error_pb.js";
import type { SequencedEvent } from "../../gen/runlog/v1/event_pb.js";
import { RunState } from "../../gen/runlog/v1/run_pb.js";
import { StopPolicy } from "../../gen/runlog/v1/subscribe_pb.js";
import {
  type Drop,
  type FollowRequest,
  follow,
  openRun,
  RefusalError,
} from "../../src/client/index.ts";
import { connectTo, type NodeConnection } from "../../src/client/node/index.ts";
import { type CuttingProxy, startCuttingProxy } from "../support/cutting-proxy.ts";
import { startTestServer, type TestServer } from "../support/server.ts";

const all: FollowRequest["filter"] = { scope: { case: "all", value: {} } };
const backoff = { baseMs: 5, capMs: 20 };

/** mulberry32: small, seeded, good enough to choose where to cut. */
function randomOf(seed: number): () => number {
  let state = seed;
  return () => {
    state = (state + 0x6d2b79f5) | 0;
    let t = Math.imul(state ^ (state >>> 15), 1 | state);
    t = (t + Math.imul(t ^ (t >>> 7), 61 | t)) ^ t;
    return ((t ^ (t >>> 14)) >>> 0) / 4294967296;
  };
}

function keyOf({ seq, runId, runSeq, record }: SequencedEvent): string {
  return `${seq} ${runId} ${runSeq} ${record.case}`;
}

describe("the client", () => {
  let server: TestServer;
  let proxy: CuttingProxy | undefined;
  let connections: NodeConnection[];

  beforeEach(async () => {
    server = await startTestServer({ limits: { frameBytes: 16_384 } });
    connections = [];
  });

  afterEach(async () => {
    for (const connection of connections) connection.close();
    await proxy?.close();
    proxy = undefined;
    await server.remove();
  });

  const connect = (url = server.url) => {
    const connection = connectTo(url);
    connections.push(connection);
    return connection.transport;
  };

  const readAll = async (): Promise<SequencedEvent[]> => {
    const records: SequencedEvent[] = [];
    const request = { filter: all, stop: StopPolicy.CAUGHT_UP };
    for await (const item of follow(connect(), request)) {
      if (item.t === "records") records.push(...item.records);
    }
    return records;
  };

  const seed = Number(process.env["RUNLOG_TEST_SEED"] ?? Math.floor(Math.random() * 2 ** 31));

  it(`loses, doubles and reorders nothing over connections that break (RUNLOG_TEST_SEED=${seed})`, async () => {
    const random = randomOf(seed);
    const eventsPerRun = 3_000;
    const runIds = ["r1", "r2", "r3"];
    // Enough for a frame at least, or nothing would ever go on.
    proxy = await startCuttingProxy(server.url, () => 10_000 + Math.floor(random() * 200_000));
    const { url } = proxy;

    const followed: string[] = [];
    const following = (async () => {
      const request = {
        filter: { scope: { case: "runIds" as const, value: { runIds } } },
        stop: StopPolicy.FINISHED,
        allowMissing: true,
      };
      for await (const item of follow(connect(url), request, { backoff, random })) {
        if (item.t === "records") followed.push(...item.records.map(keyOf));
      }
    })();
    const sent = runIds.map(async (runId) => {
      const limits = { backoff, maxBufferedEvents: 500, maxFrameEvents: 20 };
      const sender = openRun(connect(url), { runId, spec: {}, limits, random });
      for (let i = 1; i <= eventsPerRun; i++) {
        await sender.ready();
        assert.ok(
          sender.emit({ type: "test", data: Buffer.from(`${runId}:${i}:${"x".repeat(80)}`) }),
        );
      }
      const { durable, run } = await sender.finish({ state: RunState.SUCCEEDED });
      assert.deepEqual([durable, run.lastRunSeq], [eventsPerRun, BigInt(eventsPerRun)]);
      return sender.stats;
    });
    const stats = await Promise.all(sent);
    await following;

    const records = await readAll();
    assert.deepEqual(followed, records.map(keyOf), "the follower saw what the journal holds");
    for (const runId of runIds) {
      const own = records.filter((record) => record.runId === runId);
      const texts = own.flatMap(({ record }) =>
        record.case === "event" ? [Buffer.from(record.value.data).toString().split(":")[1]] : [],
      );
      assert.deepEqual(
        texts,
        Array.from({ length: eventsPerRun }, (_, i) => String(i + 1)),
      );
      assert.equal(own.filter(({ record }) => record.case === "runFinished").length, 1);
    }
    const reconnects = stats.reduce((sum, { reconnects: n }) => sum + n, 0);
    assert.ok(proxy.cuts > 0 && reconnects > 0, "the connections did break");
    console.log(`      ${proxy.cuts} connections cut, ${reconnects} reopenings`);
  });

  it("does not try again what cannot succeed, and says why", async () => {
    const attempts: string[] = [];
    const onState = ({ t }: { t: string }) => {
      attempts.push(t);
    };
    const refusedWith = (reason: Reason) => (error: unknown) => {
      assert.ok(error instanceof RefusalError, String(error));
      assert.equal(Reason[error.detail?.reason ?? 0], Reason[reason]);
      return true;
    };
    const unknown = openRun(connect(), { runId: "unknown", onState });
    const finished = unknown.finish({ state: RunState.SUCCEEDED });
    await assert.rejects(finished, refusedWith(Reason.RUN_NOT_FOUND));
    assert.equal(attempts.filter((t) => t === "connecting").length, 1);
    assert.equal(attempts.at(-1), "failed");

    attempts.length = 0;
    const runIds = Array.from({ length: 101 }, (_, i) => `run-${i}`);
    const filter: FollowRequest["filter"] = { scope: { case: "runIds", value: { runIds } } };
    const frames = follow(connect(), { filter }, { onState });
    await assert.rejects(frames.next(), refusedWith(Reason.RUN_ID_LIMIT));
    assert.deepEqual(attempts, ["connecting"]);
  });

  it("stops where another producer takes its run", async () => {
    const states: string[] = [];
    const first = openRun(connect(), { runId: "r", spec: {}, onState: ({ t }) => states.push(t) });
    await first.opened;
    first.emit({ type: "first" });
    const second = openRun(connect(), { runId: "r", spec: {} });
    await second.opened;
    first.emit({ type: "stale" });
    await assert.rejects(first.finish({ state: RunState.SUCCEEDED }), (error: unknown) => {
      assert.ok(error instanceof RefusalError, String(error));
      assert.equal(error.detail?.reason, Reason.FENCED);
      return true;
    });
    assert.equal(states.filter((t) => t === "connecting").length, 1);
    second.emit({ type: "second" });
    await second.finish({ state: RunState.SUCCEEDED });
    const types = (await readAll()).flatMap(({ record }) =>
      record.case === "event" ? [record.value.type] : [],
    );
    assert.ok(!types.includes("stale"));
    assert.equal(types.at(-1), "second");
  });

  it("drops what does not fit before it has a number, and tells", async () => {
    const drops: Drop[] = [];
    const limits = { maxBufferedEvents: 10 };
    const sender = openRun(connect(), {
      runId: "r",
      spec: {},
      limits,
      onDrop: (d) => drops.push(d),
    });
    // In one turn: nothing can be sent meanwhile.
    const taken = Array.from({ length: 15 }, (_, i) => sender.emit({ type: `e${i}` }));
    assert.deepEqual(taken, [...new Array(10).fill(true), ...new Array(5).fill(false)]);
    await sender.ready();
    assert.equal(sender.emit({ type: "big", data: new Uint8Array(2_000_000) }), false);
    assert.deepEqual(
      drops.map(({ reason }) => reason),
      [...new Array(5).fill("overflow"), "too_large"],
    );
    const { durable } = await sender.finish({ state: RunState.SUCCEEDED });
    assert.equal(durable, 10);
    const runSeqs = (await readAll()).flatMap((r) => (r.record.case === "event" ? [r.runSeq] : []));
    assert.deepEqual(
      runSeqs,
      Array.from({ length: 10 }, (_, i) => BigInt(i + 1)),
    );
  });

  it("goes on with an existing run behind its last event", async () => {
    const first = openRun(connect(), { runId: "r", spec: {} });
    first.emit({ type: "one" });
    await first.close(10_000);
    const second = openRun(connect(), { runId: "r" });
    assert.equal((await second.opened).lastRunSeq, 1);
    second.emit({ type: "two" });
    const { run } = await second.finish({ state: RunState.FAILED, failure: { code: "c" } });
    assert.deepEqual([run.lastRunSeq, run.result?.failure?.code], [2n, "c"]);
  });

  it("follows on to another server when this one goes away", async () => {
    const sender = openRun(connect(), { runId: "r", spec: {} });
    sender.emit({ type: "one" });
    await sender.finish({ state: RunState.SUCCEEDED });
    const port = Number(new URL(server.url).port);
    const stop = new AbortController();
    const items = follow(connect(), { filter: all }, { signal: stop.signal, backoff });
    const seqs: bigint[] = [];
    const readTo = async (seq: bigint) => {
      while (seqs.at(-1) !== seq) {
        const { value } = await items.next();
        if (value?.t === "records") seqs.push(...value.records.map((record) => record.seq));
      }
    };
    await readTo(3n);
    server = await server.restart({ port });
    const later = openRun(connect(), { runId: "s", spec: {} });
    await later.finish({ state: RunState.SUCCEEDED });
    await readTo(5n);
    assert.deepEqual(seqs, [1n, 2n, 3n, 4n, 5n]);
    stop.abort();
    await assert.rejects(items.next());
  });
});
