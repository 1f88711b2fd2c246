/** What the tests of senders share: a server behind a proxy that breaks connections. */
import assert from "node:assert/strict";
import type { Transport } from "@connectrpc/connect";
import { Reason } from "../../gen/runlog/v1/error_pb.js";
import type { SequencedEvent } from "../../gen/runlog/v1/record_pb.js";
import { RunState } from "../../gen/runlog/v1/run_pb.js";
import { StopPolicy } from "../../gen/runlog/v1/subscribe_pb.js";
import {
  follow,
  type OpenRunOptions,
  openRun,
  RunlogError,
  type RunSender,
  type SenderState,
} from "../../src/client/index.ts";
import { connectTo, type NodeConnection } from "../../src/client/node/index.ts";
import { startTestServer, type TestServer } from "../support/server.ts";
import { BreakingProxy } from "./breaking-proxy.ts";

/** Waits between calls that are short enough for a test. */
export const backoff = { baseMs: 2, capMs: 20 };
/** How most runs end. */
export const succeeded = { state: RunState.SUCCEEDED } as const;
/** The types of a run's first events: e1, e2, … */
export const typesUpTo = (count: number) => Array.from({ length: count }, (_, i) => `e${i + 1}`);

/** Remembers a sender's states, and waits for one. */
export class States {
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

/** Checks that an error is the server's or the client's refusal for this reason. */
export function isRefusal(reason: Reason) {
  return (error: unknown) => {
    assert.ok(error instanceof RunlogError, String(error));
    assert.equal(error.reason, Reason[reason]);
    return true;
  };
}

/** A server, a proxy before it, and the connections of one test. */
export class SenderRig {
  /** A test may put another one in its place. */
  server: TestServer;
  readonly proxy: BreakingProxy;
  readonly #connections: NodeConnection[] = [];
  readonly #ending = new AbortController();

  private constructor(server: TestServer, proxy: BreakingProxy) {
    this.server = server;
    this.proxy = proxy;
  }

  static async start(): Promise<SenderRig> {
    const server = await startTestServer();
    return new SenderRig(server, await BreakingProxy.start(server.url));
  }

  async close(): Promise<void> {
    this.#ending.abort();
    for (const connection of this.#connections) connection.close();
    await this.proxy.close();
    await this.server.remove();
    assert.deepEqual(this.server.errors, []);
  }

  /** A connection that ends with the test. */
  connect(url: string): Transport {
    const connection = connectTo(url);
    this.#connections.push(connection);
    return connection.transport;
  }

  /** Opens a run with a sender that ends with the test, whatever becomes of it. */
  open(url: string, options: OpenRunOptions): RunSender {
    return openRun(this.connect(url), { signal: this.#ending.signal, ...options });
  }

  /** Everything in the journal, past the proxy. */
  async replay(): Promise<SequencedEvent[]> {
    const records: SequencedEvent[] = [];
    const filter = { scope: { case: "all" as const, value: {} } };
    const transport = this.connect(this.server.url);
    for await (const item of follow(transport, { filter, stop: StopPolicy.CAUGHT_UP })) {
      if (item.t === "records") records.push(...item.records);
    }
    return records;
  }

  /** The records of a run: the types of its events, and the facts. */
  async recordsOf(runId: string): Promise<(string | undefined)[]> {
    const own = (await this.replay()).filter((one) => one.runId === runId);
    return own.map(({ record }) => (record.case === "event" ? record.value.type : record.case));
  }

  /** The types of a run's events, with a check that run_seq is 1, 2, 3, … */
  async typesOf(runId: string): Promise<string[]> {
    const types: string[] = [];
    for (const { record, runSeq, runId: owner } of await this.replay()) {
      if (owner !== runId || record.case !== "event") continue;
      types.push(record.value.type);
      assert.equal(runSeq, BigInt(types.length));
    }
    return types;
  }
}
