import type { Transport } from "@connectrpc/connect";
import { type Lane, SharedIngest } from "./shared-ingest.ts";

const pools = new WeakMap<Transport, Map<string, IngestPool>>();

/** The calls of a namespace over a transport. */
export function ingestPoolOf(transport: Transport, namespace: string): IngestPool {
  const byNamespace = pools.get(transport) ?? new Map<string, IngestPool>();
  pools.set(transport, byNamespace);
  const pool =
    byNamespace.get(namespace) ??
    new IngestPool(transport, () => {
      if (byNamespace.get(namespace) === pool) byNamespace.delete(namespace);
    });
  byNamespace.set(namespace, pool);
  return pool;
}

/**
 * The Ingest calls of a process: one carries all the runs of a namespace that
 * are sent over one transport.
 *
 * Invariant: a run is put on a call only once the server has heard the last of
 * it from the call before, so no opening that was given up can take the run from
 * the one that came later.
 */
export class IngestPool {
  readonly #transport: Transport;
  readonly #onEmpty: () => void;
  /** Calls that take runs. */
  readonly #open = new Set<SharedIngest>();
  /** Runs that a call is leaving, until it has. */
  readonly #leaving = new Map<string, Promise<unknown>>();
  /** Runs whose next call is their own: a call that they shared was refused. */
  readonly #alone = new Set<string>();
  /** Runs that are about to join, and calls that are not over. */
  #busy = 0;

  /** @param onEmpty told when nothing is kept here */
  constructor(transport: Transport, onEmpty: () => void) {
    this.#transport = transport;
    this.#onEmpty = onEmpty;
  }

  /**
   * Puts a run on a call, an open one or a new one, and tells the run which.
   * Never rejects.
   *
   * @param endTimeoutMs that the server has to end a call which this side has half-closed
   */
  async join(lane: Lane, endTimeoutMs: number): Promise<void> {
    this.#busy++;
    while (this.#leaving.has(lane.runId)) await this.#leaving.get(lane.runId);
    if (!lane.isOver) this.#callFor(lane.runId, endTimeoutMs).add(lane);
    this.#done();
  }

  #callFor(runId: string, endTimeoutMs: number): SharedIngest {
    const isAlone = this.#alone.delete(runId);
    for (const call of isAlone ? [] : this.#open) {
      if (call.takes(runId)) return call;
    }
    const call = new SharedIngest(this.#transport, endTimeoutMs, {
      onClosed: () => {
        this.#open.delete(call);
      },
      onLeaving: (left, done) => this.#wait(left, done),
      onRefused: (runIds) => {
        for (const refused of runIds) this.#alone.add(refused);
      },
    });
    if (!isAlone) this.#open.add(call);
    this.#busy++;
    // It ends in a StreamEnd, never in a rejection.
    void call.run().then(() => this.#done());
    return call;
  }

  #wait(runId: string, left: Promise<unknown>): void {
    this.#leaving.set(runId, left);
    void left.then(() => {
      if (this.#leaving.get(runId) === left) this.#leaving.delete(runId);
    });
  }

  #done(): void {
    this.#busy--;
    // A run that leaves a call hears of its end before it is over.
    if (this.#busy === 0 && this.#alone.size === 0) this.#onEmpty();
  }
}
