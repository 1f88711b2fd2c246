/**
 * Lets leases run out: moves their clock on while the process runs, and ends
 * runs whose leases lapse as LOST.
 *
 * Leases begin anew when the server starts, or takes over from a node that is
 * gone: whatever was RUNNING gets its whole lease to come back in, however long
 * its node was away.
 */
import { fromBinary } from "@bufbuild/protobuf";
import { RunSpecSchema } from "../../gen/runlog/v1/run_pb.js";
import type { Committer } from "../ingest/committer.ts";
import { leaseMsOf } from "../ingest/draft.ts";
import type { Leases, UnheldRun } from "../ingest/leases.ts";
import type { Journal } from "../journal/journal.ts";
import { eachNamespace, lockNamespace } from "../journal/namespaces.ts";
import { adoptOrphans, findOrphans, type NodeIdentity, type RunningRun } from "../journal/nodes.ts";
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
  readonly node: NodeIdentity;
  /** Whether producers could reach the journal: leases do not run out while they cannot. */
  readonly isReachable: () => boolean;
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
  /** Whether all that is RUNNING has its lease. */
  #scan: "due" | "under way" | "done" = "done";
  #timer: NodeJS.Timeout | undefined;

  constructor(options: LeaseClockOptions) {
    this.#options = options;
  }

  /** Begins the lease of every run that is RUNNING: for a process that is the only one. */
  adoptAll(): void {
    this.#scan = "due";
  }

  /**
   * Begins the lease of every run that is RUNNING and whose node is gone.
   *
   * @throws RefusedError journal_unavailable where the database failed
   */
  async adoptOrphans(): Promise<void> {
    const { committer, node } = this.#options;
    await this.#eachRun(findOrphans, async (namespace, namespaceId, found) => {
      const runKeys = found.map((run) => run.run_key);
      await committer.alone(
        namespace,
        async (tx) => {
          await lockNamespace(tx, namespace);
          return adoptOrphans(tx, namespaceId, runKeys, node.nodeKey);
        },
        (runs) => {
          this.#startLeases(namespace, runs);
        },
      );
    });
  }

  /** Starts the clock. */
  start(): void {
    let lastMs = performance.now();
    const step = () => {
      const nowMs = performance.now();
      const elapsedMs = this.#options.isReachable() ? Math.min(nowMs - lastMs, maxStepMs) : 0;
      lastMs = nowMs;
      for (const run of this.#options.leases.advance(elapsedMs)) this.#do(this.#lose(run));
      // Tried again where the database did not answer.
      if (this.#scan === "due") this.#do(this.#adoptAll());
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

  async #adoptAll(): Promise<void> {
    this.#scan = "under way";
    try {
      await this.#eachRun(findRunning, (namespace, _, runs) => {
        this.#startLeases(namespace, runs);
      });
      this.#scan = "done";
    } catch (error) {
      this.#scan = "due";
      throw error;
    }
  }

  /** Calls `visit` with the runs that `find` finds, a page at a time. */
  async #eachRun(
    find: typeof findRunning,
    visit: (
      namespace: string,
      namespaceId: number,
      runs: readonly RunningRun[],
    ) => void | Promise<void>,
  ): Promise<void> {
    const { db } = this.#options.journal;
    const { signal } = this.#stopping;
    for await (const { namespace_id: namespaceId, name } of eachNamespace(db)) {
      for (let afterKey = 0; !signal.aborted; ) {
        await nextTurn();
        const runs = await find(db, namespaceId, afterKey, scanRuns);
        if (runs.length > 0) await visit(name, namespaceId, runs);
        const last = runs.at(-1);
        if (last === undefined || runs.length < scanRuns) break;
        afterKey = last.run_key;
      }
    }
  }

  #startLeases(namespace: string, runs: readonly RunningRun[]): void {
    const { committer, leases, defaultLeaseMs } = this.#options;
    for (const { run_id: runId, epoch, spec } of runs) {
      // A producer that was faster has it, or has had it since.
      if (committer.holderOf(namespace, runId) !== undefined) continue;
      if (leases.has(namespace, runId)) continue;
      const leaseMs = leaseMsOf(fromBinary(RunSpecSchema, spec), defaultLeaseMs);
      leases.start({ namespace, runId, epoch, leaseMs });
    }
  }
}
