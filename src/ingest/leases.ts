/** A run that waits for its producer. */
export interface UnheldRun {
  readonly namespace: string;
  readonly runId: string;
  /** The run's epoch now: a lapse concerns the run only while it has it. */
  readonly epoch: number;
  readonly leaseMs: number;
}

interface Lease {
  readonly run: UnheldRun;
  readonly endMs: number;
}

/**
 * The runs that are RUNNING and have no producer here, each with the time after
 * which it is lost.
 *
 * The clock of leases is not the wall clock: it advances only by what it is given
 * to, so that a process which did not run (suspended, swapped out, restarted)
 * loses nothing for the time in which no producer could have reached it.
 */
export class Leases {
  /** By duration: of equal ones, the first that began is the first to lapse. */
  readonly #byDuration = new Map<number, Map<string, Lease>>();
  readonly #durations = new Map<string, number>();
  #clockMs = 0;

  /** Runs that wait. */
  get size(): number {
    return this.#durations.size;
  }

  /** Begins a run's lease; one that it has already begins anew. */
  start(run: UnheldRun): void {
    this.stop(run.namespace, run.runId);
    const key = keyOf(run.namespace, run.runId);
    let leases = this.#byDuration.get(run.leaseMs);
    if (leases === undefined) {
      leases = new Map();
      this.#byDuration.set(run.leaseMs, leases);
    }
    leases.set(key, { run, endMs: this.#clockMs + run.leaseMs });
    this.#durations.set(key, run.leaseMs);
  }

  /** Ends a run's lease: it has a producer again, or has ended. */
  stop(namespace: string, runId: string): void {
    const key = keyOf(namespace, runId);
    const durationMs = this.#durations.get(key);
    if (durationMs === undefined) return;
    this.#durations.delete(key);
    const leases = this.#byDuration.get(durationMs);
    leases?.delete(key);
    if (leases?.size === 0) this.#byDuration.delete(durationMs);
  }

  /** Whether a run waits. */
  has(namespace: string, runId: string): boolean {
    return this.#durations.has(keyOf(namespace, runId));
  }

  /** Moves the clock on, and takes out the runs whose leases lapse by it. */
  advance(elapsedMs: number): UnheldRun[] {
    this.#clockMs += elapsedMs;
    const lapsed: UnheldRun[] = [];
    for (const leases of this.#byDuration.values()) {
      for (const { run, endMs } of leases.values()) {
        if (endMs > this.#clockMs) break;
        lapsed.push(run);
      }
    }
    for (const { namespace, runId } of lapsed) this.stop(namespace, runId);
    return lapsed;
  }
}

function keyOf(namespace: string, runId: string): string {
  return `${namespace}\n${runId}`;
}
