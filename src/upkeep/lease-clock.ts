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
  readonly #underWay = new Set<Promise<void>>();
  /** Whether the runs that were RUNNING at the start have their leases. */
  #scan: "due" | "under way" | "done" = "due";
  #timer: NodeJS.Timeout | undefined;

  constructor(options: LeaseClockOptions) {
    this.#options = options;
  }

  /** Begins the lease of every run that is RUNNING and not held, and starts the clock. */
  start(): void {
    let lastMs = performance.now();
    const step = () => {
      const nowMs = performance.now();
      const elapsedMs = Math.min(nowMs - lastMs, maxStepMs);
      lastMs = nowMs;
      for (const run of this.#options.leases.advance(elapsedMs)) this.#do(this.#lose(run));
      // Tried again where the database did not answer.
      if (this.#scan === "due") this.#do(this.#startLeases());
    };
    this.#timer = setInterval(step, stepMs);
    step();
  }

  /** Stops the clock; resolves when nothing is under way any more. */
  async stop(): Promise<void> {
    clearInterval(this.#timer);
    this.#stopping.abort();
    await Promise.all(this.#underWay);
  }

  #do(work: Promise<void>): void {
    const settled = work.catch(this.#options.onFailure).finally(() => {
      this.#underWay.delete(settled);
    });
    this.#underWay.add(settled);
  }

  async #lose(run: UnheldRun): Promise<void> {
    try {
      await this.#options.committer.lose(run);
    } catch (error) {
      // A database that did not take this took no producer's open either.
      this.#options.leases.start(run);
      throw error;
    }
  }

  async #startLeases(): Promise<void> {
    this.#scan = "under way";
    try {
      await this.#scanRunning();
      this.#scan = "done";
    } catch (error) {
      this.#scan = "due";
      throw error;
    }
  }

  async #scanRunning(): Promise<void> {
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
