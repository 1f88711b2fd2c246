/**
 * What one Ingest stream uses of its identity's quotas.
 *
 * Invariant: a run counts from its opening until it ends, is refused or released, or the
 * stream ends, whichever is first.
 */
import type { Creation, Usage } from "../quotas.ts";
import type { Producer } from "./operation.ts";

/** One stream's; without a usage nothing is counted, and nothing refused. */
export class StreamQuotas {
  readonly #usage: Usage | undefined;
  readonly #open = new Set<Producer>();

  constructor(usage: Usage | undefined) {
    this.#usage = usage;
  }

  /**
   * A producer opens its run.
   *
   * @throws RefusedError quota
   */
  openRun(producer: Producer): void {
    if (this.#usage === undefined) return;
    this.#usage.take("openRuns");
    this.#open.add(producer);
  }

  /** A producer's run is open no longer, if it was. */
  endRun(producer: Producer | undefined): void {
    if (producer !== undefined && this.#open.delete(producer)) this.#usage?.give("openRuns");
  }

  /** The stream has ended. */
  close(): void {
    for (const producer of this.#open) this.endRun(producer);
  }

  /** For an operation that may create a run. */
  creation(): Creation | undefined {
    return this.#usage?.creation();
  }

  /** Counts events that are read now, unless they have to wait. */
  tryRead(events: readonly Uint8Array[]): boolean {
    if (this.#usage === undefined) return true;
    let bytes = 0;
    for (const event of events) bytes += event.length;
    return this.#usage.tryRead(bytes);
  }

  /** Calls back when events that had to wait may be read. The result takes it back. */
  onBytes(listener: () => void): () => void {
    return this.#usage?.onBytes(listener) ?? (() => undefined);
  }
}
