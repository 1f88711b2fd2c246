/**
 * Which producer of this process holds which run. A run that is RUNNING and
 * that nobody holds has a lease.
 */
import { takenBy } from "./decide.ts";
import type { Leases } from "./leases.ts";
import type { Producer } from "./operation.ts";

/** The producers of this process. */
export class ProducerRegistry {
  /** By namespace, then by run. */
  readonly #producers = new Map<string, Map<string, Producer>>();
  readonly #leases: Leases;

  constructor(leases: Leases) {
    this.#leases = leases;
  }

  /** The producer that holds a run. */
  of(namespace: string, runId: string): Producer | undefined {
    return this.#producers.get(namespace)?.get(runId);
  }

  /** Namespaces in which somebody holds a run. */
  namespaces(): Iterable<string> {
    return this.#producers.keys();
  }

  /** Whether somebody holds a run of a namespace. */
  has(namespace: string): boolean {
    return this.#producers.has(namespace);
  }

  /** The producers in a namespace. */
  in(namespace: string): readonly Producer[] {
    return [...(this.#producers.get(namespace)?.values() ?? [])];
  }

  /** A producer has opened a run: whoever held it before is fenced, or superseded by itself. */
  take(namespace: string, producer: Producer, epoch: number): void {
    const before = this.of(namespace, producer.runId);
    this.#set(namespace, producer);
    if (before === undefined || before.owner === producer.owner) return;
    const reason = takenBy(before.attempt?.producerId, producer.attempt?.producerId);
    before.reject({ reason, epoch });
  }

  /** A producer goes on with a run that it opened before, if nobody holds it. */
  keep(namespace: string, producer: Producer): void {
    if (producer.hasLeft) return;
    if (this.of(namespace, producer.runId) === undefined) this.#set(namespace, producer);
  }

  /**
   * A producer has left, or was refused: the lease of its run begins, unless
   * somebody else has the run. What its stream held before it is gone with it, what
   * that has opened after it is not.
   */
  release(namespace: string, producer: Producer): void {
    producer.hasLeft = true;
    const holder = this.of(namespace, producer.runId);
    if (holder === undefined || holder.owner !== producer.owner) return;
    if (producer.isFollowedBy(holder)) return;
    holder.hasLeft = true;
    const producers = this.#producers.get(namespace);
    producers?.delete(holder.runId);
    if (producers?.size === 0) this.#producers.delete(namespace);
    const { runId, epoch, leaseMs } = holder;
    if (epoch === undefined || leaseMs === undefined) return;
    this.#leases.start({ namespace, runId, epoch, leaseMs });
  }

  /** A producer's run waits: it has no lease, whoever holds it or not. */
  pause(namespace: string, producer: Producer): void {
    producer.leaseMs = undefined;
    const { runId } = producer;
    if (this.of(namespace, runId) === undefined) this.#leases.stop(namespace, runId);
  }

  /** A producer's run went on after a wait; its lease begins where nobody holds it any more. */
  resume(namespace: string, producer: Producer, leaseMs: number): void {
    producer.leaseMs = leaseMs;
    const { runId, epoch, hasLeft } = producer;
    if (!hasLeft || epoch === undefined || this.of(namespace, runId) !== undefined) return;
    this.#leases.start({ namespace, runId, epoch, leaseMs });
  }

  #set(namespace: string, producer: Producer): void {
    let producers = this.#producers.get(namespace);
    if (producers === undefined) {
      producers = new Map();
      this.#producers.set(namespace, producers);
    }
    producers.set(producer.runId, producer);
    this.#leases.stop(namespace, producer.runId);
  }
}
