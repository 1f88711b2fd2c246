/**
 * Lets leases run out: moves their clock on while the process runs, and ends
 * runs whose leases lapse as LOST.
 *
 * Leases begin anew when the server starts: whatever was RUNNING gets its whole
 * lease to come back in, however long the server was away.
 */
import { fromBinary } from "@bufbuild/protobuf";
import { RunSpecSchema } from "../../gen/runlog/v1/run_pb.js";
import type { Committer } from "../ingest/committer.ts";
import { leaseMsOf } from "../ingest/draft.ts";
import type { Leases, UnheldRun } from "../ingest/leases.ts";
import type { Journal } from "../journal/journal.ts";
import { eachNamespace } from "../journal/namespaces.ts";
import { findRunning } from "../journal/runs.ts";
import { nextTurn } from "../turn.ts";

/** Milliseconds between looks at the leases: how late a lapse may be noticed. */
const stepMs = 500;
/** Milliseconds by which one step moves the clock at most: a longer one means that we did not run. */
const maxStepMs = 2_000;
/** Runs that are read at once at start-up. */
const scanRuns = 500;

/** What the clock works with. */
export interface LeaseClockOptions {
  readonly journal: Journal;
  readonly committer: Committer;
  readonly leases: Leases;
  /** Milliseconds; the lease of a run whose spec has none. */
  readonly defaultLeaseMs: number;
  /** Told where a run could not be ended; its lease has begun anew. */
  readonly onFailure: (error: unknown) => void;
}

/** See the head of this file. */
export class LeaseClock {
  readonly #options: LeaseClockOptions;
  readonly #stopping = new AbortController();
  #timer: NodeJS.Timeout | undefined;
  #working: Promise<unknown> = Promise.resolve();

  constructor(options: LeaseClockOptions) {
    this.#options = options;
  }

  /** Begins the lease of every run that is RUNNING and not held, and starts the clock. */
  start(): void {
    let lastMs = performance.now();
    this.#timer = setInterval(() => {
      const nowMs = performance.now();
      const elapsedMs = Math.min(nowMs - lastMs, maxStepMs);
      lastMs = nowMs;
      const lapsed = this.#options.leases.advance(elapsedMs);
      if (lapsed.length > 0) this.#do(Promise.all(lapsed.map((run) => this.#lose(run))));
    }, stepMs);
    this.#do(this.#startLeases());
  }

  /** Stops the clock; resolves when nothing is under way any more. */
  async stop(): Promise<void> {
    clearInterval(this.#timer);
    this.#stopping.abort();
    await this.#working;
  }

  #do(work: Promise<unknown>): void {
    const caught = work.catch(this.#options.onFailure);
    this.#working = Promise.all([this.#working, caught]);
  }

  async #lose(run: UnheldRun): Promise<void> {
    try {
      await this.#options.committer.lose(run);
    } catch (error) {
      // A database that did not take this took no producer's open either.
      this.#options.leases.start(run);
      this.#options.onFailure(error);
    }
  }

  async #startLeases(): Promise<void> {
    const { journal, committer, leases, defaultLeaseMs } = this.#options;
    const { signal } = this.#stopping;
    for await (const { namespace_id: namespaceId, name: namespace } of eachNamespace(journal.db)) {
      for (let afterKey = 0; !signal.aborted; ) {
        await nextTurn();
        const runs = await findRunning(journal.db, namespaceId, afterKey, scanRuns);
        for (const { run_id: runId, epoch, spec } of runs) {
          // A producer that was faster has it, or has had it since.
          if (committer.holderOf(namespace, runId) !== undefined) continue;
          if (leases.has(namespace, runId)) continue;
          const leaseMs = leaseMsOf(fromBinary(RunSpecSchema, spec), defaultLeaseMs);
          leases.start({ namespace, runId, epoch, leaseMs });
        }
        const last = runs.at(-1);
        if (last === undefined || runs.length < scanRuns) break;
        afterKey = last.run_key;
      }
    }
  }
}
