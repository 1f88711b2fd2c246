import assert from "node:assert/strict";
import { timestampFromMs } from "@bufbuild/protobuf/wkt";
import { Code, ConnectError, createRouterTransport } from "@connectrpc/connect";
import { Reason } from "../../gen/runlog/v1/error_pb.js";
import type { SequencedEvent } from "../../gen/runlog/v1/record_pb.js";
import { RunState } from "../../gen/runlog/v1/run_pb.js";
import {
  StopPolicy,
  type SubscribeRequest,
  SubscribeService,
} from "../../gen/runlog/v1/subscribe_pb.js";
import {
  type FollowItem,
  type FollowRequest,
  type FollowState,
  follow,
  NoAnswerError,
  openRun,
  RunlogError,
} from "../../src/client/index.ts";
import { connectTo, type NodeConnection } from "../../src/client/node/index.ts";
import { chosenSeed, randomOf } from "../crash/random.ts";
import { startTestServer, type TestServer } from "../support/server.ts";
import { BreakingProxy, type Fate, noFault, randomCuts } from "./breaking-proxy.ts";

const backoff = { baseMs: 2, capMs: 20 };
const all: FollowRequest["filter"] = { scope: { case: "all", value: {} } };
const runs = (...runIds: string[]): FollowRequest["filter"] => ({
  scope: { case: "runIds", value: { runIds } },
});
const ascending = (from: number, to: number) =>
  Array.from({ length: to - from + 1 }, (_, i) => BigInt(from + i));

/** Ends what a failed test leaves behind. */
let ending = new AbortController();

/** Follows and keeps what came. */
class Follower {
  readonly records: SequencedEvent[] = [];
  readonly items: FollowItem["t"][] = [];
  readonly states: FollowState[] = [];
  readonly #stop = new AbortController();
  readonly #iterator: AsyncGenerator<FollowItem, void, undefined>;

  constructor(
    connection: NodeConnection,
    request: FollowRequest,
    onState: (state: FollowState) => void = () => undefined,
  ) {
    const signal = AbortSignal.any([this.#stop.signal, ending.signal]);
    this.#iterator = follow(connection.transport, request, {
      signal,
      backoff,
      onState: (state) => {
        this.states.push(state);
        onState(state);
      },
    });
  }

  get seqs(): bigint[] {
    return this.records.map(({ seq }) => seq);
  }

  /** Reads on until a step of this kind, or the end; false at the end. */
  async until(t: FollowItem["t"]): Promise<boolean> {
    for (;;) {
      const { done, value } = await this.#iterator.next();
      if (done) return false;
      this.items.push(value.t);
      if (value.t === "records") this.records.push(...value.records);
      if (value.t === t) return true;
    }
  }

  async untilSeq(seq: number): Promise<void> {
    while ((this.records.at(-1)?.seq ?? 0n) < BigInt(seq)) assert.ok(await this.until("records"));
  }

  async untilEnd(): Promise<void> {
    while (await this.until("records"));
  }

  /** Stops it; what the iteration throws is what stop was called with. */
  async stop(): Promise<void> {
    const reason = new Error("stopped by the test");
    this.#stop.abort(reason);
    await assert.rejects(this.untilEnd(), reason);
  }
}

describe("following", () => {
  let server: TestServer;
  let proxy: BreakingProxy;
  let connections: NodeConnection[];

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

  const connect = (url = proxy.url) => {
    const connection = connectTo(url);
    connections.push(connection);
    return connection;
  };

  /** A whole run: its start, `events` events and its end, so events + 2 records. */
  const record = async (runId: string, events: number) => {
    const sender = openRun(connect(server.url).transport, {
      runId,
      spec: {},
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

  const seed = chosenSeed();

  it(`yields every record once, in order, where connections break (RUNLOG_TEST_SEED=${seed})`, async () => {
    const random = randomOf(seed);
    proxy.newFault = randomCuts((min, max) => random.between(min, max), 12);
    const perRun = 4_000;
    await record("before", perRun);
    const followers = [0, 1, 2].map(() => new Follower(connect(), { filter: all }));
    const live = record("live", perRun);
    const last = 2 * (perRun + 2);
    await Promise.all(followers.map((follower) => follower.untilSeq(last)));
    await live;
    for (const follower of followers) {
      assert.deepEqual(follower.seqs, ascending(1, last));
      assert.equal(follower.items.filter((t) => t === "caught_up").length <= 1, true);
      await follower.stop();
    }
    assert.ok(proxy.cuts > 0, `${proxy.cuts} cuts`);
  });

  it("goes on after GoAway, on the server that comes up on the same journal", async () => {
    await record("one", 3);
    const follower = new Follower(connect(), { filter: all });
    assert.ok(await follower.until("caught_up"));
    for (const [i, runId] of ["two", "three"].entries()) {
      const [restarted] = await Promise.all([restart(), follower.until("progress")]);
      assert.equal(restarted, undefined);
      await record(runId, 3);
      await follower.untilSeq(5 * (i + 2));
    }
    assert.deepEqual(follower.seqs, ascending(1, 15));
    // Asked to go, not cut off: the first wait follows no broken connection.
    const waited = follower.states.find((state) => state.t === "waiting");
    assert.ok(
      waited !== undefined && !(waited.error instanceof ConnectError),
      String(waited?.error),
    );
    const followed = follower.states.filter((state) => state.t === "following");
    assert.deepEqual(
      followed.map(({ resumed }) => resumed),
      [false, true, true],
    );
    assert.equal(new Set(followed.map(({ journalId }) => journalId)).size, 1);
    await follower.stop();
  });

  it("from now on, also over a break: what came meanwhile is wanted too", async () => {
    await record("before", 3);
    const subscribed = Promise.withResolvers<void>();
    const follower = new Follower(connect(), { filter: all, after: "now" }, (state) => {
      if (state.t === "following") subscribed.resolve();
    });
    const caughtUp = follower.until("caught_up");
    await subscribed.promise;
    assert.ok(await caughtUp);
    assert.deepEqual(follower.seqs, []);
    // Nothing gets through while the next run is recorded.
    proxy.newFault = () => () => "cut";
    proxy.cutAll();
    await record("meanwhile", 3);
    proxy.newFault = noFault;
    await follower.untilSeq(10);
    assert.deepEqual(follower.seqs, ascending(6, 10));
    await follower.stop();
  });

  for (const [name, after] of [
    ["the newest records", { lastCount: 2 }],
    ["a time", { fromTime: new Date(1_000) }],
  ] as const) {
    it(`from ${name}: where the server said, if the call breaks before the first one`, async () => {
      const starts: SubscribeRequest["start"][] = [];
      const transport = createRouterTransport(({ service }) => {
        service(SubscribeService, {
          async *subscribe({ start }) {
            starts.push(start);
            const value = { journalId: "j", latestSeq: 9n, afterSeq: 7n };
            yield { frame: { case: "subscribed", value } };
            if (starts.length === 1) throw new ConnectError("gone", Code.Unavailable);
            yield { frame: { case: "events", value: { events: [{ seq: 8n }] } } };
          },
        });
      });
      const request = { filter: all, after, stop: StopPolicy.CAUGHT_UP };
      const cursors: bigint[] = [];
      for await (const { cursor } of follow(transport, request, { backoff })) cursors.push(cursor);
      const first =
        "lastCount" in after
          ? { case: "lastCount", value: 2 }
          : { case: "fromTime", value: timestampFromMs(1_000) };
      assert.deepEqual(starts, [first, { case: "afterSeq", value: 7n }]);
      assert.deepEqual(cursors, [8n]);
    });
  }

  it("the newest records, and then what comes", async () => {
    await record("one", 8);
    const follower = new Follower(connect(), { filter: all, after: { lastCount: 2 } });
    await follower.until("caught_up");
    assert.deepEqual(follower.seqs, ascending(9, 10));
    await record("two", 1);
    await follower.untilSeq(13);
    assert.deepEqual(follower.seqs, ascending(9, 13));
    await follower.stop();
  });

  it("after a seq, only later events", async () => {
    await record("one", 8);
    const follower = new Follower(connect(), {
      filter: all,
      after: 4n,
      stop: StopPolicy.CAUGHT_UP,
    });
    await follower.untilEnd();
    assert.deepEqual(follower.seqs, ascending(5, 10));
    assert.equal(follower.items.at(-1), "caught_up");
  });

  it("ends once the runs have, and not where the server goes away before", async () => {
    const request = { filter: runs("a", "b"), stop: StopPolicy.FINISHED, allowMissing: true };
    const follower = new Follower(connect(), request);
    await record("a", 3);
    await follower.untilSeq(5);
    const ended = follower.untilEnd();
    await restart();
    await record("b", 3);
    await ended;
    assert.deepEqual(follower.seqs, ascending(1, 10));
    assert.equal(follower.records.at(-1)?.record.case, "runFinished");
  });

  it("asks once with 101 run ids, and says the limit (R1)", async () => {
    const runIds = Array.from({ length: 101 }, (_, i) => `run-${i}`);
    const follower = new Follower(connect(), { filter: runs(...runIds) });
    await assert.rejects(follower.untilEnd(), (error) => {
      assert.ok(error instanceof RunlogError, String(error));
      assert.equal(error.reason, "RUN_ID_LIMIT");
      assert.equal(error.detail?.limit, 100n);
      assert.match(error.message, /ancestor/i);
      return true;
    });
    assert.deepEqual(follower.states, [{ t: "connecting", attempt: 0 }]);
    assert.equal(proxy.calls, 1);
  });

  it("asks once for a run that does not exist, and for a cursor that is ahead", async () => {
    const refused = [
      [{ filter: runs("unknown") }, Reason.RUN_NOT_FOUND],
      [{ filter: all, after: 99n }, Reason.CURSOR_AHEAD],
      [{ filter: all, journalId: "another" }, Reason.JOURNAL_CHANGED],
    ] as const;
    for (const [i, [request, reason]] of refused.entries()) {
      const follower = new Follower(connect(), request);
      await assert.rejects(follower.untilEnd(), (error) => {
        assert.ok(error instanceof RunlogError, String(error));
        assert.equal(error.reason, Reason[reason]);
        return true;
      });
      assert.equal(proxy.calls, i + 1);
    }
  });

  it("refuses to go on where another journal has taken the server's place", async () => {
    await record("one", 3);
    const follower = new Follower(connect(), { filter: all });
    assert.ok(await follower.until("caught_up"));
    const { port } = new URL(server.url);
    await server.remove();
    server = await startTestServer({ port: Number(port) });
    await assert.rejects(follower.untilEnd(), (error) => {
      assert.ok(error instanceof RunlogError, String(error));
      assert.equal(error.reason, "JOURNAL_CHANGED");
      return true;
    });
  });

  it("leaves a subscription that falls silent, and loses nothing", async () => {
    let fate: Fate = "forward";
    proxy.newFault = () => (from) => (from === "server" ? fate : "forward");
    const errors: Error[] = [];
    const follower = new Follower(
      connect(),
      { filter: all, progressIntervalMs: 1_000 },
      (state) => {
        if (state.t !== "waiting") return;
        errors.push(state.error);
        // A dead connection is for the transport's pings to find.
        fate = "forward";
        proxy.cutAll();
      },
    );
    assert.ok(await follower.until("caught_up"));
    fate = "swallow";
    await record("lost", 3);
    await follower.untilSeq(5);
    assert.deepEqual(follower.seqs, ascending(1, 5));
    assert.ok(errors[0] instanceof NoAnswerError, String(errors[0]));
    await follower.stop();
  });

  it("goes on at Progress where its filter matches nothing", async () => {
    await record("other", 3);
    const request = { filter: runs("later"), allowMissing: true, progressIntervalMs: 1_000 };
    const follower = new Follower(connect(), request);
    assert.ok(await follower.until("progress"));
    await record("later", 1);
    await follower.untilSeq(8);
    assert.deepEqual(follower.seqs, ascending(6, 8));
    await follower.stop();
  });
});
