/**
 * Who holds which run, as far as this process knows. A run that is RUNNING and
 * that nobody holds has a lease.
 */
import type { Leases } from "./leases.ts";
import type { Producer } from "./operation.ts";

/** The producers of this process. */
export class Holders {
  readonly #producers = new Map<string, Producer>();
  readonly #leases: Leases;

  constructor(leases: Leases) {
    this.#leases = leases;
  }

  /** The producer that holds a run. */
  of(namespace: string, runId: string): Producer | undefined {
    return this.#producers.get(keyOf(namespace, runId));
  }

  /** A producer has opened a run: whoever held it before is fenced. */
  take(namespace: string, producer: Producer, epoch: number): void {
    const key = keyOf(namespace, producer.runId);
    const before = this.#producers.get(key);
    this.#producers.set(key, producer);
    this.#leases.stop(namespace, producer.runId);
    if (before?.owner !== producer.owner) before?.reject({ reason: "fenced", epoch });
  }

  /** A producer goes on with a run that it opened before, if nobody holds it. */
  keep(namespace: string, producer: Producer): void {
    const key = keyOf(namespace, producer.runId);
    if (this.#producers.has(key)) return;
    this.#producers.set(key, producer);
    this.#leases.stop(namespace, producer.runId);
  }

  /** A producer has gone, or was refused: its run's lease begins, unless somebody else has the run. */
  release(namespace: string, producer: Producer): void {
    const key = keyOf(namespace, producer.runId);
    if (this.#producers.get(key) !== producer) return;
    this.#producers.delete(key);
    const { runId, epoch, leaseMs } = producer;
    if (epoch === undefined || leaseMs === undefined) return;
    this.#leases.start({ namespace, runId, epoch, leaseMs });
  }
}

function keyOf(namespace: string, runId: string): string {
  return `${namespace}\n${runId}`;
}
