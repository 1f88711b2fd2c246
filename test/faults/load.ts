/**
 * Producers and subscribers that go on by themselves, over several nodes: each
 * begins at another one and moves to the next where it cannot reach it.
 */
import assert from "node:assert/strict";
import { RunState } from "../../gen/runlog/v1/run_pb.js";
import { follow, openRun, type RunSender } from "../../src/client/index.ts";
import { type ConnectOptions, connectTo } from "../../src/client/node/index.ts";
import { assertPromisesKept, connect, eventAt } from "../crash/history.ts";

const backoff = { baseMs: 10, capMs: 200 };

/** What is written and read. */
export interface LoadOptions {
  /** URLs of the nodes. */
  readonly nodes: readonly string[];
  /** How to reach them. Default: without TLS and a token. */
  readonly connect?: ConnectOptions;
  readonly senders: number;
  readonly followers: number;
  /** Events of each run. */
  readonly events: number;
  /** What is made meanwhile. */
  readonly faults?: Faults;
}

/** The nodes, beginning with another one for each. */
function from(nodes: readonly string[], index: number): string {
  const at = index % nodes.length;
  return [...nodes.slice(at), ...nodes.slice(0, at)].join(",");
}

/**
 * Writes and reads to the end; resolves with the reconnects of all senders.
 *
 * @throws what a fault throws, at once: without it the load may have no end
 */
export async function runLoad(options: LoadOptions): Promise<number> {
  const { nodes, events, faults } = options;
  const life = new AbortController();
  const connections = Array.from({ length: options.senders + options.followers }, (_, index) =>
    connectTo(from(nodes, index), options.connect),
  );
  try {
    const senders: RunSender[] = Array.from({ length: options.senders }, (_, index) =>
      openRun(connections[index]!.transport, {
        runId: `run-${index}`,
        spec: { agentId: "sender" },
        signal: life.signal,
        limits: { maxBufferedEvents: 64, maxFrameEvents: 16, backoff },
      }),
    );
    const total = BigInt(senders.length * (events + 2));
    const produce = async (sender: RunSender): Promise<void> => {
      for (let runSeq = 1; runSeq <= events; runSeq++) {
        await sender.ready();
        assert.ok(sender.emit(eventAt(sender.runId, runSeq)));
      }
      const { run, durable } = await sender.finish({ state: RunState.SUCCEEDED });
      assert.equal(run.lastRunSeq, BigInt(events));
      assert.equal(durable, events);
    };
    const consume = async (index: number): Promise<void> => {
      const { transport } = connections[options.senders + index]!;
      const request = {
        filter: { scope: { case: "all" as const, value: {} } },
        after: 0n,
        progressIntervalMs: 1_000,
      };
      let last = 0n;
      for await (const item of follow(transport, request, { signal: life.signal, backoff })) {
        if (item.t !== "records") continue;
        for (const { seq } of item.records) {
          assert.equal(seq, last + 1n, "a seq was left out or repeated");
          last = seq;
        }
        if (index === 0) faults?.onRecords(Number(last));
        if (last === total) return;
      }
    };
    const followers = Array.from({ length: options.followers }, (_, index) => consume(index));
    const done = Promise.all([...senders.map(produce), ...followers]);
    await (faults === undefined ? done : Promise.race([done, faults.failed]));
    await faults?.done();
    return senders.reduce((sum, sender) => sum + sender.stats.reconnects, 0);
  } finally {
    life.abort();
    for (const connection of connections) connection.close();
  }
}

/** Checks at one node that the journal holds what a load has written, whole and in order. */
export async function assertLoadKept(
  node: string,
  { senders, events }: Pick<LoadOptions, "senders" | "events">,
): Promise<void> {
  const connection = connect(node);
  try {
    const promises = Array.from({ length: senders }, (_, index) => {
      const runId = `run-${index}`;
      return { runId, sent: events, acked: events, ackedSeq: 0, isEnded: true };
    });
    const records = await assertPromisesKept(connection, promises);
    assert.equal(records.length, senders * (events + 2));
  } finally {
    connection.close();
  }
}

/** Calls `fault` once after so many records each, in turn. */
export class Faults {
  readonly #at: number[];
  readonly #fault: () => Promise<void>;
  readonly #failed = Promise.withResolvers<never>();
  #making: Promise<void> = Promise.resolve();

  /** @param at counts of records, ascending */
  constructor(at: readonly number[], fault: () => Promise<void>) {
    this.#at = [...at];
    this.#fault = fault;
    this.failed.catch(() => undefined);
  }

  /** Rejects with what a fault throws. */
  get failed(): Promise<never> {
    return this.#failed.promise;
  }

  /** Called with the number of records that have been read. */
  onRecords(count: number): void {
    while (this.#at[0] !== undefined && count >= this.#at[0]) {
      this.#at.shift();
      this.#making = this.#making.then(this.#fault);
      this.#making.catch((error: unknown) => {
        this.#failed.reject(error);
      });
    }
  }

  /** Resolves once all faults have been made. */
  async done(): Promise<void> {
    await Promise.race([this.#making, this.failed]);
    assert.deepEqual(this.#at, [], "the load was over before all faults");
  }
}
