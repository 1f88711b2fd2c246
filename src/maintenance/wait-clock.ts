import type { Committer } from "../ingest/committer.ts";
import type { Journal } from "../journal/journal.ts";
import { findDueWaits } from "../journal/waits.ts";
import { Rounds } from "./rounds.ts";

/** Milliseconds between looks: how late a deadline may be noticed. */
const stepMs = 500;
/** Waits that are ended at once. */
const pageSize = 256;

/** What the clock works with. */
export interface WaitClockOptions {
  readonly journal: Journal;
  readonly committer: Committer;
  /** Whether this node is the one that looks. */
  readonly isOnDuty: () => boolean;
  /** The journal's time, milliseconds since 1970. */
  readonly now: () => number;
  /** Told of what failed; it is tried at the next look. */
  readonly onFailure: (error: unknown) => void;
}

/**
 * Ends waits that are over: those whose deadline has passed, and those of runs that
 * were asked to stop by a process that did not come to end them.
 *
 * Deadlines are stored, and compared with the journal's time, so that no restart
 * postpones them.
 */
export class WaitClock {
  readonly #options: WaitClockOptions;
  readonly #rounds: Rounds;

  constructor(options: WaitClockOptions) {
    this.#options = options;
    const { onFailure } = options;
    const round = (signal: AbortSignal) => this.#round(signal);
    this.#rounds = new Rounds({ intervalMs: stepMs, onFailure, round });
  }

  /** Looks now, and from time to time. */
  start(): void {
    this.#rounds.start();
  }

  /** Resolves when no look is under way. */
  stop(): Promise<void> {
    return this.#rounds.stop();
  }

  async #round(signal: AbortSignal): Promise<void> {
    if (!this.#options.isOnDuty()) return;
    // What fails again and again, or is in deletion, waits for the next look with the rest.
    while (!signal.aborted && (await this.#endSome())) {
      // The next ones.
    }
  }

  /** Ends a page of waits that are over; whether there may be more. */
  async #endSome(): Promise<boolean> {
    const { journal, committer, now } = this.#options;
    const due = await findDueWaits(journal.scans, now(), pageSize);
    const outcomes = await Promise.all(
      due.map(({ namespace, run_id: runId, wait_deadline_ms: deadlineMs }) =>
        committer.submit({ kind: "end_wait", namespace, runId, deadlineMs }),
      ),
    );
    return due.length === pageSize && outcomes.every(({ t }) => t === "ended");
  }
}
