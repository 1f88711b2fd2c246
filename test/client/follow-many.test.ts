/** Following several filters over one call, with a stream in one direction only. */
import assert from "node:assert/strict";
import { create, type MessageInitShape } from "@bufbuild/protobuf";
import { durationFromMs } from "@bufbuild/protobuf/wkt";
import { Code, ConnectError, createRouterTransport, type Transport } from "@connectrpc/connect";
import { createConnectTransport, createGrpcWebTransport } from "@connectrpc/connect-node";
import { ErrorDetailSchema, Reason } from "../../gen/runlog/v1/error_pb.js";
import type { SequencedEvent } from "../../gen/runlog/v1/record_pb.js";
import { RunState } from "../../gen/runlog/v1/run_pb.js";
import {
  StopPolicy,
  type SubscribeManyRequest,
  type SubscribeManyResponseSchema,
  SubscribeService,
} from "../../gen/runlog/v1/subscribe_pb.js";
import {
  type FollowManyItem,
  type FollowRequest,
  FollowSet,
  type FollowState,
  followMany,
  openRun,
  RunlogError,
} from "../../src/client/index.ts";
import { connectTo, type NodeConnection } from "../../src/client/node/index.ts";
import { chosenSeed, randomOf } from "../crash/random.ts";
import { startTestServer, type TestServer } from "../support/server.ts";
import { BreakingProxy, randomCuts } from "./breaking-proxy.ts";

const backoff = { baseMs: 2, capMs: 20 };
const all: FollowRequest["filter"] = { scope: { case: "all", value: {} } };
const runs = (...runIds: string[]): FollowRequest["filter"] => ({
  scope: { case: "runIds", value: { runIds } },
});
const family = (ancestorRunId: string): FollowRequest["filter"] => ({
  scope: { case: "ancestor", value: { ancestorRunId, includeSelf: true } },
});

/** Ends what a failed test leaves behind. */
let ending = new AbortController();

/** Follows and keeps what came. */
class Follower {
  readonly set: FollowSet;
  readonly states: FollowState[] = [];
  readonly #records = new Map<string, SequencedEvent[]>();
  readonly #errors = new Map<string, RunlogError | undefined>();
  readonly #stop = new AbortController();
  readonly #iterator: AsyncGenerator<FollowManyItem, void, undefined>;

  constructor(transport: Transport, requests: Readonly<Record<string, FollowRequest>>) {
    const signal = AbortSignal.any([this.#stop.signal, ending.signal]);
    this.set = new FollowSet(requests);
    const onState = (state: FollowState) => this.states.push(state);
    this.#iterator = this.set.follow(transport, { signal, backoff, onState });
  }

  recordsOf(id: string): readonly SequencedEvent[] {
    return this.#records.get(id) ?? [];
  }

  seqsOf(id: string): number[] {
    return this.recordsOf(id).map(({ seq }) => Number(seq));
  }

  /** What has ended, with the reasons of those that were refused. */
  get ended(): Record<string, string | undefined> {
    const reasons = [...this.#errors].map(([id, error]) => [id, error?.reason]);
    return Object.fromEntries(reasons);
  }

  /** The next item; undefined at the end. */
  async next(): Promise<FollowManyItem | undefined> {
    const { done, value } = await this.#iterator.next();
    if (done) return undefined;
    if (value.t === "records") {
      this.#records.set(value.id, [...this.recordsOf(value.id), ...value.records]);
    } else if (value.t === "ended") {
      this.#errors.set(value.id, value.error);
    }
    return value;
  }

  /** Reads on until this is so after some item. */
  async until(isReached: (item: FollowManyItem) => boolean): Promise<void> {
    for (;;) {
      const item = await this.next();
      assert.ok(item !== undefined, "it ended before");
      if (isReached(item)) return;
    }
  }

  async untilEnd(): Promise<void> {
    while ((await this.next()) !== undefined);
  }

  /** Reads until each of these has caught up. */
  async untilCaughtUp(...ids: string[]): Promise<void> {
    const waiting = new Set(ids);
    await this.until(({ t, id }) => t === "caught_up" && waiting.delete(id) && waiting.size === 0);
  }

  /** Reads until each of these has this many records. */
  async untilCounts(counts: Readonly<Record<string, number>>): Promise<void> {
    const isReached = () =>
      Object.entries(counts).every(([id, count]) => this.recordsOf(id).length >= count);
    if (!isReached()) await this.until(isReached);
  }

  /** Stops it; what the iteration throws is what stop was called with. */
  async stop(): Promise<void> {
    const reason = new Error("stopped by the test");
    this.#stop.abort(reason);
    await assert.rejects(this.untilEnd(), reason);
  }
}

describe("following several filters", () => {
  let server: TestServer;
  let proxy: BreakingProxy;
  let connections: NodeConnection[];

  beforeEach(async () => {
    ending = new AbortController();
    server = await startTestServer({ limits: { maxSubscriptionsPerCall: 4 } });
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

  const connect = (url = proxy.url) => {
    const connection = connectTo(url);
    connections.push(connection);
    return connection.transport;
  };

  /** A whole run: its start, `events` events and its end, so events + 2 records. */
  const record = async (runId: string, events: number, parentRunId = "") => {
    const sender = openRun(connect(server.url), {
      runId,
      spec: { parentRunId },
      limits: { backoff },
      signal: ending.signal,
    });
    for (let i = 1; i <= events; i++) {
      await sender.ready();
      sender.emit({ type: `e${i}`, data: Buffer.alloc(200, "x") });
    }
    return sender.finish({ state: RunState.SUCCEEDED });
  };

  const restart = async () => {
    server = await server.restart({ port: Number(new URL(server.url).port) });
  };

  /** What each filter selects, as one reader after the fact sees it. */
  const expectExact = async (
    follower: Follower,
    filters: Readonly<Record<string, FollowRequest>>,
  ) => {
    const stop = StopPolicy.CAUGHT_UP;
    const asked = Object.entries(filters).map(([id, { filter }]) => [id, { filter, stop }]);
    const after = new Follower(connect(server.url), Object.fromEntries(asked));
    await after.untilEnd();
    for (const id of Object.keys(filters)) {
      assert.deepEqual(follower.seqsOf(id), after.seqsOf(id), id);
    }
  };

  const seed = chosenSeed();
  const transports: Readonly<Record<string, () => Transport>> = {
    gRPC: () => connect(),
    "gRPC-Web over HTTP/1.1": () =>
      createGrpcWebTransport({ baseUrl: proxy.url, httpVersion: "1.1" }),
    "Connect over HTTP/1.1": () =>
      createConnectTransport({ baseUrl: proxy.url, httpVersion: "1.1", useBinaryFormat: false }),
  };
  for (const [name, open] of Object.entries(transports)) {
    it(`yields every record of each once, in order, where connections break, by ${name} (RUNLOG_TEST_SEED=${seed})`, async () => {
      const random = randomOf(seed);
      proxy.newFault = randomCuts((min, max) => random.between(min, max), 12);
      const perRun = 2_000;
      await record("a", perRun);
      const filters = {
        everything: { filter: all },
        family: { filter: family("a") },
        "one run": { filter: runs("b"), allowMissing: true },
      };
      const follower = new Follower(open(), filters);
      const live = Promise.all([record("b", perRun), record("a-child", perRun, "a")]);
      await follower.untilCounts({
        everything: 3 * (perRun + 2),
        family: 2 * (perRun + 2),
        "one run": perRun + 2,
      });
      await live;
      await expectExact(follower, filters);
      await follower.stop();
      assert.ok(proxy.cuts > 0, `${proxy.cuts} cuts`);
    });
  }

  it("goes on with all cursors on the server that comes up on the same journal", async () => {
    await record("a", 3);
    await record("b", 3);
    const filters = {
      a: { filter: family("a") },
      b: { filter: family("b") },
      all: { filter: all },
    };
    const follower = new Follower(connect(), filters);
    await follower.untilCaughtUp("a", "b", "all");
    for (const [at, parent] of ["a", "b"].entries()) {
      const isResumed = ({ t }: FollowManyItem) => t === "progress";
      await Promise.all([restart(), follower.until(isResumed)]);
      await record(`${parent}-child`, 3, parent);
      await follower.untilCounts({ [parent]: 10, all: 5 * (at + 3) });
    }
    await expectExact(follower, filters);
    const followed = follower.states.filter((state) => state.t === "following");
    assert.deepEqual(
      followed.map(({ resumed }) => resumed),
      [false, true, true],
    );
    assert.equal(new Set(followed.map(({ journalId }) => journalId)).size, 1);
    await follower.stop();
  });

  it("opens the call again where the set changes, and each goes on after its cursor", async () => {
    await record("a", 3);
    await record("b", 3);
    const follower = new Follower(connect(), { a: { filter: family("a") } });
    await follower.untilCaughtUp("a");
    assert.equal(proxy.calls, 1);
    // In the middle of what is new to it.
    follower.set.add("b", { filter: runs("b"), after: 6n });
    follower.set.add("all", { filter: all, after: "now" });
    await follower.untilCaughtUp("b", "all");
    assert.equal(proxy.calls, 2, "changes that come together open one call");
    await record("c", 1);
    await follower.untilCounts({ all: 3 });
    assert.ok(follower.set.remove("all"));
    assert.equal(follower.set.remove("all"), false);
    follower.set.add("all", { filter: runs("d"), allowMissing: true });
    await record("d", 1);
    await record("a-child", 1, "a");
    await follower.untilCounts({ all: 6, a: 8 });
    assert.deepEqual(follower.seqsOf("a"), [1, 2, 3, 4, 5, 17, 18, 19]);
    assert.deepEqual(follower.seqsOf("b"), [7, 8, 9, 10]);
    assert.deepEqual(follower.seqsOf("all"), [11, 12, 13, 14, 15, 16]);
    assert.equal(proxy.calls, 3);
    assert.ok(follower.states.every(({ t }) => t !== "waiting"));
    for (const id of follower.set.ids) follower.set.remove(id);
    assert.equal(await follower.next(), undefined, "nothing is left to follow");
  });

  it("ends each as its stop policy says, and itself with the last, over a restart too", async () => {
    await record("a", 1);
    const follower = new Follower(connect(), {
      history: { filter: all, stop: StopPolicy.CAUGHT_UP },
      b: { filter: runs("b"), stop: StopPolicy.FINISHED, allowMissing: true },
      c: { filter: runs("c"), stop: StopPolicy.FINISHED, allowMissing: true },
    });
    await follower.until(({ t }) => t === "ended");
    assert.deepEqual(follower.ended, { history: undefined });
    await record("b", 1);
    await follower.until(({ t }) => t === "ended");
    assert.deepEqual(follower.ended, { history: undefined, b: undefined });
    const ended = follower.untilEnd();
    await restart();
    await record("c", 1);
    await ended;
    assert.deepEqual(follower.ended, { history: undefined, b: undefined, c: undefined });
    assert.deepEqual(follower.seqsOf("c"), [7, 8, 9]);
  });

  it("says which one is refused, asks for it once, and goes on with the others", async () => {
    await record("a", 1);
    const follower = new Follower(connect(), {
      a: { filter: family("a") },
      unknown: { filter: runs("unknown") },
      ahead: { filter: all, after: 99n },
      elsewhere: { filter: all, journalId: "another" },
    });
    await follower.untilCaughtUp("a");
    while (Object.keys(follower.ended).length < 3) await follower.next();
    assert.deepEqual(follower.ended, {
      unknown: "RUN_NOT_FOUND",
      ahead: "CURSOR_AHEAD",
      elsewhere: "JOURNAL_CHANGED",
    });
    await record("a-child", 1, "a");
    await follower.untilCounts({ a: 6 });
    assert.deepEqual(follower.set.ids, ["a"]);
    assert.equal(proxy.calls, 1);
    await follower.stop();
  });

  it("asks once for more than the server carries on one call, and says the limit", async () => {
    const requests = Array.from({ length: 5 }, (_, at) => [`${at}`, { filter: all }]);
    const follower = new Follower(connect(), Object.fromEntries(requests));
    await assert.rejects(follower.untilEnd(), (error) => {
      assert.ok(error instanceof RunlogError, String(error));
      assert.deepEqual([error.reason, error.detail?.limit], ["QUOTA", 4n]);
      return true;
    });
    assert.equal(proxy.calls, 1);
  });

  it("takes an id once, and is followed once at a time", async () => {
    const set = new FollowSet({ a: { filter: all } });
    assert.throws(() => set.add("a", { filter: all }), /"a" is followed already/);
    assert.throws(() => set.add("b", { filter: all, after: 2n ** 70n }));
    assert.deepEqual(set.ids, ["a"]);
    const stop = new AbortController();
    const first = set.follow(connect(), { signal: stop.signal });
    assert.equal((await first.next()).value?.t, "caught_up");
    await assert.rejects(set.follow(connect()).next(), /being followed already/);
    stop.abort(new Error("stopped"));
    await assert.rejects(first.next(), /stopped/);
    // It goes on where it was.
    await record("a", 1);
    const again = set.follow(connect(), { signal: ending.signal });
    const { value } = await again.next();
    assert.deepEqual(value?.t === "records" && value.records.map(({ seq }) => seq), [1n, 2n, 3n]);
  });
});

type Answer = MessageInitShape<typeof SubscribeManyResponseSchema>;

/** A server whose n-th call brings these frames, and then breaks. */
function breakingServer(calls: readonly (readonly Answer[])[]) {
  const requests: SubscribeManyRequest[] = [];
  const transport = createRouterTransport(({ service }) => {
    service(SubscribeService, {
      async *subscribeMany(request) {
        requests.push(request);
        yield* calls[requests.length - 1]!;
        throw new ConnectError("gone", Code.Unavailable);
      },
    });
  });
  /** The cursors of a call, by the ids on the wire. */
  const cursorsOf = (call: number) =>
    requests[call]?.subscriptions.map((one) => [one.subscriptionId, one.request?.start.value]);
  return { transport, requests, cursorsOf };
}

const subscribed = (subscriptionId: number): Answer => ({
  subscriptionId,
  frame: {
    case: "response",
    value: { frame: { case: "subscribed", value: { journalId: "j" } } },
  },
});
const caughtUp = (subscriptionId: number, seq: bigint): Answer => ({
  subscriptionId,
  frame: { case: "response", value: { frame: { case: "caughtUp", value: { seq } } } },
});
const endedFor = (subscriptionId: number, reason?: Reason, retryAfterMs = 0): Answer => {
  const retryAfter = durationFromMs(retryAfterMs);
  const detail = reason && create(ErrorDetailSchema, { reason, retryAfter });
  return { subscriptionId, frame: { case: "ended", value: detail ? { detail } : {} } };
};

describe("following several filters of a server that breaks off", () => {
  const stop = StopPolicy.CAUGHT_UP;

  it("calls again after the time that one subscription is asked to wait for", async () => {
    const retryAfterMs = 40;
    const { transport, cursorsOf, requests } = breakingServer([
      [subscribed(1), caughtUp(1, 7n), endedFor(2, Reason.OVERLOADED, retryAfterMs)],
      [subscribed(2), caughtUp(2, 9n), endedFor(2)],
    ]);
    const delays: number[] = [];
    const items: string[] = [];
    const both = { a: { filter: all, stop }, b: { filter: all, after: 3n, stop } };
    for await (const { id, t } of followMany(transport, both, {
      backoff,
      onState: (state) => state.t === "waiting" && delays.push(state.delayMs),
    })) {
      items.push(`${id} ${t}`);
    }
    assert.deepEqual(items, ["a caught_up", "a ended", "b caught_up", "b ended"]);
    assert.ok(delays.length === 1 && delays[0]! >= retryAfterMs, `${delays}`);
    assert.deepEqual(cursorsOf(0), [
      [1, 0n],
      [2, 3n],
    ]);
    assert.deepEqual(cursorsOf(1), [[2, 3n]]);
    assert.equal(requests[1]?.subscriptions[0]?.request?.journalId, "");
  });

  it("asks no more for one that had only its end to come", async () => {
    const { transport, cursorsOf } = breakingServer([
      [subscribed(1), subscribed(2), caughtUp(1, 7n)],
      [subscribed(2), caughtUp(2, 8n)],
    ]);
    const items: string[] = [];
    const both = { a: { filter: all, stop }, b: { filter: all, after: 3n, stop } };
    for await (const { id, t } of followMany(transport, both, { backoff })) {
      items.push(`${id} ${t}`);
    }
    assert.deepEqual(items, ["a caught_up", "a ended", "b caught_up", "b ended"]);
    // What Subscribed told is not behind.
    assert.deepEqual(cursorsOf(1), [[2, 3n]]);
  });
});
