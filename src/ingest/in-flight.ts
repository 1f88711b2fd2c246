import type { Limits } from "../limits.ts";
import type { MemoryShare } from "../memory-budget.ts";
import { bytesOf, type Operation, type Producer } from "./operation.ts";

/**
 * What one Ingest stream has submitted and has not been answered.
 *
 * Invariant: each operation is counted from `add` to `remove`, here and in the
 * process's memory; while they are over their bounds, the stream is not read.
 */
export class InFlight {
  readonly #limits: Limits;
  readonly #memory: MemoryShare;
  #bytes = 0;
  #frames = 0;
  /** Runs with more unacknowledged events than they may have. */
  #runsOverUnacked = 0;

  /** @param memory that the operations are taken out of */
  constructor(limits: Limits, memory: MemoryShare) {
    this.#limits = limits;
    this.#memory = memory;
  }

  /** Whether everything was answered. */
  get isEmpty(): boolean {
    return this.#frames === 0;
  }

  /** Whether no more may be submitted before something is answered. */
  get isFull(): boolean {
    const { maxPendingBytesPerStream, maxPendingFramesPerStream } = this.#limits;
    return (
      // The less memory is left, the less of it one stream may have: so some is left for all.
      this.#bytes > Math.min(maxPendingBytesPerStream, this.#memory.freeBytes / 4) ||
      this.#frames > maxPendingFramesPerStream ||
      this.#runsOverUnacked > 0
    );
  }

  /** Counts an operation that is about to be submitted. */
  add(operation: Operation): void {
    const bytes = bytesOf(operation);
    this.#frames++;
    this.#bytes += bytes;
    this.#memory.take(bytes);
    if (operation.kind === "append") this.#count(operation.producer, operation.events.length);
  }

  /** Counts an operation no longer: it was answered, or has failed. */
  remove(operation: Operation): void {
    const bytes = bytesOf(operation);
    this.#frames--;
    this.#bytes -= bytes;
    this.#memory.give(bytes);
    if (operation.kind === "append") this.#count(operation.producer, -operation.events.length);
  }

  #count(producer: Producer, events: number): void {
    const limit = this.#limits.maxUnackedEvents;
    const before = producer.unackedEvents;
    producer.unackedEvents += events;
    this.#runsOverUnacked += Number(producer.unackedEvents > limit) - Number(before > limit);
  }
}
