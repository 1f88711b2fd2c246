/** What becomes of clients when their token expires, with real tokens that do. */
import assert from "node:assert/strict";
import { createClient, type Transport } from "@connectrpc/connect";
import {
  createConnectTransport,
  createGrpcWebTransport,
  Http2SessionManager,
} from "@connectrpc/connect-node";
import fc from "fast-check";
import { Reason } from "../../gen/runlog/v1/error_pb.js";
import { RunService } from "../../gen/runlog/v1/run_pb.js";
import { StopPolicy } from "../../gen/runlog/v1/subscribe_pb.js";
import {
  type FollowState,
  follow,
  openRun,
  TokenError,
  type TokenProvider,
  withToken,
} from "../../src/client/index.ts";
import { connectTo } from "../../src/client/node/index.ts";
import { BreakingProxy, randomCuts } from "../client/breaking-proxy.ts";
import { backoff, isRefusal, States, succeeded, typesUpTo } from "../client/sender-rig.ts";
import { allPermissions, tokenEntry, tokenOf } from "../support/access.ts";
import { assertHistories } from "../support/histories.ts";
import { JwtIssuer } from "../support/jwt-issuer.ts";
import { startTestServer, type TestServer } from "../support/server.ts";

const everything = [{ namespace: "*", permissions: allPermissions }];
const hourMs = 3_600_000;
/** Milliseconds; enough to open a stream on a busy machine. */
const soonMs = 3_000;
const all = { filter: { scope: { case: "all" as const, value: {} } } };

interface Connected {
  readonly transport: Transport;
  close(): void | Promise<void>;
}

interface Protocol {
  readonly name: string;
  readonly isBidirectional: boolean;
  connect(url: string, token: string | TokenProvider): Connected;
}

/** How clients reach the server; browsers as the last two. */
const protocols: readonly Protocol[] = [
  {
    name: "gRPC",
    isBidirectional: true,
    connect: (url, token) => connectTo(url, { token }),
  },
  {
    name: "Connect (HTTP/2)",
    isBidirectional: true,
    connect(baseUrl, token) {
      const sessionManager = new Http2SessionManager(baseUrl);
      const bare = createConnectTransport({ baseUrl, httpVersion: "2", sessionManager });
      return { transport: withToken(bare, token), close: () => sessionManager.abort() };
    },
  },
  {
    name: "gRPC-Web (HTTP/1.1)",
    isBidirectional: false,
    connect(baseUrl, token) {
      const bare = createGrpcWebTransport({ baseUrl, httpVersion: "1.1" });
      return { transport: withToken(bare, token), close: () => undefined };
    },
  },
  {
    name: "Connect (HTTP/1.1)",
    isBidirectional: false,
    connect(baseUrl, token) {
      const bare = createConnectTransport({ baseUrl, httpVersion: "1.1" });
      return { transport: withToken(bare, token), close: () => undefined };
    },
  },
];

/** Waits until something holds that others change, and say so. */
class Changes {
  #waiting: (() => void)[] = [];

  note(): void {
    for (const wake of this.#waiting.splice(0)) wake();
  }

  async until(holds: () => boolean): Promise<void> {
    while (!holds()) await new Promise<void>((resolve) => this.#waiting.push(resolve));
  }
}

/** A follower of everything. */
class Follower {
  readonly changes: Changes;
  readonly states: FollowState[] = [];
  readonly types: string[] = [];
  readonly over: Promise<unknown>;

  constructor(transport: Transport, changes: Changes, signal: AbortSignal) {
    this.changes = changes;
    this.over = this.#run(transport, signal).then(
      () => undefined,
      (error: unknown) => error,
    );
  }

  /** Times that the server has taken it. */
  get calls(): number {
    return this.states.filter(({ t }) => t === "following").length;
  }

  /** Times that it took something for an outage. */
  get outages(): number {
    return this.states.filter(({ t }) => t === "waiting").length;
  }

  async #run(transport: Transport, signal: AbortSignal): Promise<void> {
    const onState = (state: FollowState) => {
      this.states.push(state);
      this.changes.note();
    };
    for await (const item of follow(transport, all, { signal, onState, backoff })) {
      if (item.t !== "records") continue;
      for (const { record } of item.records) {
        if (record.case === "event") this.types.push(record.value.type);
      }
      this.changes.note();
    }
  }
}

/** How long a token lasts, and how often its provider fails before it gives it. */
interface Moment {
  readonly lifetimeMs: number;
  readonly fails: number;
}

/** Provides tokens that last for moments, in turn. */
class ShortLived {
  given = 0;
  readonly #issuer: JwtIssuer;
  readonly #moments: readonly Moment[];
  #failures = 0;

  constructor(issuer: JwtIssuer, moments: readonly Moment[]) {
    this.#issuer = issuer;
    this.#moments = moments;
  }

  readonly provider: TokenProvider = async () => {
    const { lifetimeMs, fails } = this.#moments[this.given % this.#moments.length]!;
    if (this.#failures++ < fails) throw new Error("no network");
    this.#failures = 0;
    this.given++;
    for (let useMs = lifetimeMs; ; useMs *= 2) {
      const expiresAtMs = Date.now() + useMs;
      const token = await this.#issuer.sign(useMs);
      // One that has expired when it is given would be the provider's fault.
      if (Date.now() + 20 < expiresAtMs) return token;
    }
  };
}

describe("clients whose token expires", () => {
  let issuer: JwtIssuer;
  let server: TestServer;
  let owner: Connected;
  let changes: Changes;
  let ending: AbortController;
  let connected: Connected[];
  let unhandled: unknown[];
  const onUnhandled = (error: unknown) => unhandled.push(error);
  const { emitWarning } = process;

  const start = async (content: object = {}) => {
    issuer = await JwtIssuer.make({ tokens: [tokenEntry("owner", everything)], ...content });
    server = await startTestServer({ accessFile: issuer.accessFile.path });
    owner = connectTo(server.url, { token: tokenOf("owner") });
  };

  beforeEach(() => {
    changes = new Changes();
    ending = new AbortController();
    connected = [];
    unhandled = [];
    process.on("unhandledRejection", onUnhandled);
    // Providers that fail are warned of, which client/tokens.test.ts looks at.
    process.emitWarning = () => undefined;
  });

  afterEach(async () => {
    ending.abort();
    for (const { close } of [owner, ...connected]) await close();
    await server.remove();
    await issuer.accessFile.remove();
    process.off("unhandledRejection", onUnhandled);
    process.emitWarning = emitWarning;
    assert.deepEqual(server.errors, []);
    assert.deepEqual(unhandled, []);
  });

  const connect = (
    protocol: Protocol,
    token: string | TokenProvider,
    url = server.url,
  ): Transport => {
    const connection = protocol.connect(url, token);
    connected.push(connection);
    return connection.transport;
  };
  const followers = (transport: Transport, count: number) =>
    Array.from({ length: count }, () => new Follower(transport, changes, ending.signal));
  /** An event that everybody gets who is there. */
  const emit = async (runId: string) => {
    const sender = openRun(owner.transport, { runId, spec: {} });
    sender.emit({ type: runId });
    await sender.finish(succeeded);
  };

  for (const protocol of protocols) {
    describe(`over ${protocol.name}`, () => {
      it("ask once for 20 streams that end together, and resume at once", async () => {
        const names = ["t0", "t1", "t2", "t3"];
        const only = (name: string) => ({
          tokens: [tokenEntry("owner", everything), tokenEntry(name, everything)],
        });
        await start(only("t0"));
        let asked = 0;
        const provider = async () => tokenOf(names[asked++] ?? "");
        const streams = followers(connect(protocol, provider), 20);
        for (const [round, name] of names.entries()) {
          // A token that the file has no longer ends its streams as one that has expired does.
          if (round > 0) await issuer.accessFile.write(only(name));
          await changes.until(() => streams.every(({ calls }) => calls === round + 1));
          assert.equal(asked, round + 1);
          await emit(name);
          await changes.until(() => streams.every(({ types }) => types.length === round + 1));
        }
        for (const { types } of streams) assert.deepEqual(types, names);
        // The server reads the file when it sees the change, so these ends may be near each other.
        assert.equal(asked, names.length);
      });

      it("have the next JWT when the one before ends, which is no outage", async () => {
        await start();
        const lifetimes = [soonMs, hourMs];
        let asked = 0;
        const provider = () => issuer.sign(lifetimes[asked++] ?? hourMs);
        const streams = followers(connect(protocol, provider), 20);
        await changes.until(() => streams.some(({ calls }) => calls === 2));
        await emit("r");
        await changes.until(() => streams.every(({ types }) => types.length === 1));
        assert.equal(asked, 2);
        assert.deepEqual(
          streams.map(({ outages }) => outages),
          streams.map(() => 0),
        );
      });

      it("repeat a unary call that meets the end of its token", async () => {
        await start();
        const given = [await issuer.sign(-hourMs), await issuer.sign(hourMs)];
        let asked = 0;
        const runs = createClient(
          RunService,
          connect(protocol, () => given[asked++] ?? ""),
        );
        await runs.listRuns({});
        await runs.listRuns({});
        assert.equal(asked, 2);
      });

      it("end where the next token has expired too", async () => {
        await start();
        let asked = 0;
        const provider = async () => {
          asked++;
          return issuer.sign(-hourMs);
        };
        const transport = connect(protocol, provider);
        const [follower] = followers(transport, 1);
        isRefusal(Reason.TOKEN_EXPIRED)(await follower?.over);
        assert.equal(asked, 2);
        const sent = createClient(RunService, transport).listRuns({});
        await assert.rejects(sent, /the token has expired/);
      });

      it("end where the server does not accept the token, or it stays and has expired", async () => {
        await start();
        const [unknown] = followers(
          connect(protocol, () => tokenOf("unknown")),
          1,
        );
        isRefusal(Reason.UNAUTHENTICATED)(await unknown?.over);
        const [fixed] = followers(connect(protocol, await issuer.sign(soonMs)), 1);
        isRefusal(Reason.TOKEN_EXPIRED)(await fixed?.over);
        assert.equal(fixed?.calls, 1);
      });

      it("try again where the provider fails, and end where it says that it will go on", async () => {
        await start();
        const final = new TokenError("signed out", { isFinal: true });
        let asked = 0;
        const provider = async () => {
          if (++asked < 3) throw new Error("no network");
          throw final;
        };
        const [follower] = followers(connect(protocol, provider), 1);
        assert.equal(await follower?.over, final);
        assert.equal(asked, 3);
        const waits = follower?.states.filter((state) => state.t === "waiting") ?? [];
        assert.deepEqual(
          waits.map(({ error }) => error.message),
          Array.from({ length: 2 }, () => "the token provider failed: no network"),
        );
      });
    });
  }

  for (const protocol of protocols.filter(({ isBidirectional }) => isBidirectional)) {
    describe(`and who produce over ${protocol.name}`, () => {
      it("go on when the next token is there, without an outage", async () => {
        await start();
        const lifetimes = [soonMs, hourMs];
        let asked = 0;
        const provider = () => issuer.sign(lifetimes[asked++] ?? hourMs);
        const states = new States();
        const transport = connect(protocol, provider);
        const { signal } = ending;
        const { onState } = states;
        const sender = openRun(transport, { runId: "r", spec: {}, signal, onState });
        const other = openRun(transport, { runId: "other", spec: {}, signal });
        let count = 0;
        while (sender.stats.reconnects === 0) {
          sender.emit({ type: `e${++count}` });
          await sender.flush();
        }
        const { durable, dropped } = await sender.finish(succeeded);
        await other.finish(succeeded);
        assert.deepEqual([durable, dropped, asked], [count, 0, 2]);
        assert.equal(states.count("waiting"), 0);
        const [reader] = followers(owner.transport, 1);
        await changes.until(() => reader?.types.length === count);
        assert.deepEqual(reader?.types, typesUpTo(count));
      });

      it("fail, and no stream of another run tries on, where the server refuses the token", async () => {
        await start();
        let asked = 0;
        const provider = async () => {
          asked++;
          return issuer.sign(-hourMs);
        };
        const transport = connect(protocol, provider);
        const { signal } = ending;
        const senders = ["a", "b"].map((runId) => openRun(transport, { runId, spec: {}, signal }));
        for (const sender of senders) {
          await assert.rejects(sender.finish(succeeded), isRefusal(Reason.TOKEN_EXPIRED));
        }
        assert.equal(asked, 2);
        const unknown = connect(protocol, tokenOf("unknown"));
        const refused = ["a", "b"].map((runId) => openRun(unknown, { runId, spec: {}, signal }));
        for (const sender of refused) {
          await assert.rejects(sender.opened, isRefusal(Reason.UNAUTHENTICATED));
        }
      });
    });
  }

  it("share an Ingest call only under the same provider", async () => {
    await start();
    const proxy = await BreakingProxy.start(server.url);
    const bare = connectTo(proxy.url);
    connected.push(bare, { transport: bare.transport, close: () => proxy.close() });
    const one = () => tokenOf("owner");
    const other = () => tokenOf("owner");
    const { signal } = ending;
    const open = async (provider: TokenProvider, runId: string) => {
      const sender = openRun(withToken(bare.transport, provider), { runId, spec: {}, signal });
      await sender.opened;
      return sender;
    };
    await open(one, "a");
    await open(one, "b");
    assert.equal(proxy.calls, 1);
    await open(other, "c");
    assert.equal(proxy.calls, 2);
    // Over what shows a token already, too.
    const again = openRun(withToken(withToken(bare.transport, other), one), {
      runId: "d",
      spec: {},
      signal,
    });
    await again.opened;
    assert.equal(proxy.calls, 2);
  });

  it("say nothing where nobody listens to them", async () => {
    await start();
    const failing = () => Promise.reject(new TokenError("signed out", { isFinal: true }));
    const { transport, close } = connectTo(server.url, { token: failing });
    const sender = openRun(transport, { runId: "r", spec: {} });
    const { t } = await sender.close(60_000).then(() => sender.state);
    assert.equal(t, "failed");
    close();
  });

  it("lose and double nothing over random expiries, cuts and failures of their provider", async () => {
    await start();
    let runs = 0;
    const moment = fc.record({
      lifetimeMs: fc.integer({ min: 30, max: 200 }),
      fails: fc.integer({ min: 0, max: 2 }),
    });
    const seeds = fc.array(fc.nat(), { minLength: 20, maxLength: 20 });
    await assertHistories(
      20,
      [fc.array(moment, { minLength: 2, maxLength: 5 }), seeds, fc.constantFrom(...protocols)],
      async (moments, numbers, protocol) => {
        let drawn = 0;
        const between = (min: number, max: number) =>
          min + ((numbers[drawn++ % numbers.length] ?? 0) % (max - min + 1));
        const proxy = await BreakingProxy.start(server.url, randomCuts(between));
        const end = new AbortController();
        const { signal } = end;
        const writing = new ShortLived(issuer, moments);
        const following = new ShortLived(issuer, moments);
        const runId = `history-${++runs}`;
        const producing = protocol.isBidirectional ? protocol : protocols[0]!;
        const from = producing.connect(proxy.url, writing.provider);
        const to = protocol.connect(proxy.url, following.provider);
        const limits = { backoff };
        const sender = openRun(from.transport, { runId, spec: {}, signal, limits });
        const seen: string[] = [];
        const reading = (async () => {
          const filter = { scope: { case: "runIds" as const, value: { runIds: [runId] } } };
          const request = { filter, stop: StopPolicy.FINISHED, allowMissing: true };
          for await (const item of follow(to.transport, request, { signal, backoff })) {
            if (item.t !== "records") continue;
            for (const { record } of item.records) {
              if (record.case === "event") seen.push(record.value.type);
            }
          }
        })();
        // Where the producer fails, that is said.
        reading.catch(() => undefined);
        let count = 0;
        try {
          while (Math.min(writing.given, following.given) <= moments.length) {
            sender.emit({ type: `e${++count}` });
            await sender.flush();
          }
          await Promise.all([sender.finish(succeeded), reading]);
          assert.deepEqual(seen, typesUpTo(count));
        } finally {
          end.abort();
          await from.close();
          await to.close();
          await proxy.close();
        }
      },
    );
  });
});
