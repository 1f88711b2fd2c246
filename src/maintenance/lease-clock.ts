import { fromBinary } from "@bufbuild/protobuf";
import { RunSpecSchema } from "../../gen/runlog/v1/run_pb.js";
import type { Committer } from "../ingest/committer.ts";
import type { Leases, UnheldRun } from "../ingest/leases.ts";
import { leaseMsOf } from "../ingest/staged-run.ts";
import type { Journal } from "../journal/journal.ts";
import { lockNamespace } from "../journal/namespaces.ts";
import {
  adoptOrphans,
  findGoneNodes,
  findRunningOf,
  type NodeIdentity,
  type RunningElsewhere,
  type RunningRun,
} from "../journal/nodes.ts";
import { Rounds } from "./rounds.ts";

/** Milliseconds between looks at the leases: how late a lapse may be noticed. */
const stepMs = 500;
/** Milliseconds by which one step moves the clock at most: a longer one means that we did not run. */
const maxStepMs = 2_000;
/** Runs that are looked at at once, and from the second time on between two looks at the leases. */
const scanRuns = 500;

/** What the clock works with. */
export interface LeaseClockOptions {
  readonly journal: Journal;
  readonly committer: Committer;
  readonly leases: Leases;
  readonly node: NodeIdentity;
  /** Whether producers could reach the journal: leases do not run out while they cannot. */
  readonly isReachable: () => boolean;
  /** Whether this node looks after the runs of nodes that are gone. */
  readonly isOnDuty: () => boolean;
  /** Milliseconds between looks for them. */
  readonly intervalMs: number;
  /** Milliseconds; the lease of a run whose spec has none. */
  readonly defaultLeaseMs: number;
  /** Called when a run could not be ended; its lease has begun anew. */
  readonly onFailure: (error: unknown) => void;
}

/** A namespace, and a run in it. */
type Place = readonly [namespaceId: number, runKey: number];

const beginning: Place = [0, 0];

/**
 * Lets leases run out: moves their clock on while the process runs, and ends
 * runs whose leases lapse as LOST.
 *
 * Leases begin anew when the server starts, or takes over from a node that is
 * gone: whatever was RUNNING gets its whole lease to come back in, however long
 * its node was away.
 */
export class LeaseClock {
  readonly #options: LeaseClockOptions;
  readonly #underWay = new Set<Promise<void>>();
  readonly #ownScan: Rounds;
  readonly #orphanScan: Rounds;
  /** Whether every run of this node has been looked at since it started. */
  #isComplete = false;
  /** Where the next look at this node's runs begins. */
  #place: Place = beginning;
  #timer: NodeJS.Timeout | undefined;

  constructor(options: LeaseClockOptions) {
    this.#options = options;
    const { onFailure, intervalMs } = options;
    const own = (signal: AbortSignal) => this.#scanOwn(signal);
    this.#ownScan = new Rounds({ intervalMs: stepMs, onFailure, round: own });
    const orphans = (signal: AbortSignal) => this.#scanOrphans(signal);
    this.#orphanScan = new Rounds({ intervalMs, onFailure, round: orphans });
  }

  /** Looks now for the runs of nodes that are gone. */
  lookForOrphans(): void {
    this.#orphanScan.now();
  }

  /** Starts the clock. */
  start(): void {
    let lastMs = performance.now();
    const step = () => {
      const nowMs = performance.now();
      const elapsedMs = this.#options.isReachable() ? Math.min(nowMs - lastMs, maxStepMs) : 0;
      lastMs = nowMs;
      for (const run of this.#options.leases.advance(elapsedMs)) this.#do(this.#lose(run));
    };
    this.#timer = setInterval(step, stepMs);
    step();
    this.#ownScan.start();
    this.#orphanScan.start();
  }

  /** Stops the clock; resolves when nothing is under way any more. */
  async stop(): Promise<void> {
    clearInterval(this.#timer);
    await Promise.all([this.#ownScan.stop(), this.#orphanScan.stop(), ...this.#underWay]);
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

  /**
   * Begins the lease of runs that are this node's and have neither a producer here
   * nor a lease: all of them once it has started, and then some of them at a time,
   * since a commit whose answer was lost may have made one that nobody knows of.
   */
  async #scanOwn(signal: AbortSignal): Promise<void> {
    const { journal, node } = this.#options;
    do {
      const runs = await findRunningOf(journal.scans, node.nodeKey, this.#place, scanRuns);
      this.#startLeases(runs);
      const last = runs.at(-1);
      if (last === undefined || runs.length < scanRuns) {
        this.#isComplete = true;
        this.#place = beginning;
      } else {
        this.#place = [last.namespace_id, last.run_key];
      }
    } while (!this.#isComplete && !signal.aborted);
  }

  /**
   * Takes over the runs of nodes that are gone. A node that was taken for dead may
   * have gone on for a moment, so they are looked for from time to time, not only
   * when one goes.
   */
  async #scanOrphans(signal: AbortSignal): Promise<void> {
    const { journal, isOnDuty } = this.#options;
    if (!isOnDuty()) return;
    for (const nodeKey of await findGoneNodes(journal.scans)) {
      for (let place = beginning; !signal.aborted; ) {
        const runs = await findRunningOf(journal.scans, nodeKey, place, scanRuns);
        for (const ofOne of byNamespace(runs)) await this.#adopt(ofOne);
        const last = runs.at(-1);
        if (last === undefined || runs.length < scanRuns) break;
        place = [last.namespace_id, last.run_key];
      }
    }
  }

  /** Takes over runs of one namespace. */
  async #adopt(runs: readonly RunningElsewhere[]): Promise<void> {
    const { committer, node } = this.#options;
    const { namespace, namespace_id: namespaceId } = runs[0]!;
    const runKeys = runs.map((run) => run.run_key);
    await committer.runExclusive(
      namespace,
      async (tx) => {
        await lockNamespace(tx, namespace);
        return adoptOrphans(tx, namespaceId, runKeys, node.nodeKey);
      },
      (adopted) => {
        this.#startLeases(adopted.map((run) => ({ ...run, namespace })));
      },
    );
  }

  #startLeases(runs: readonly (RunningRun & { readonly namespace: string })[]): void {
    const { committer, leases, defaultLeaseMs } = this.#options;
    for (const { namespace, run_id: runId, epoch, spec } of runs) {
      // A producer that was faster has it, or has had it since.
      if (committer.holderOf(namespace, runId) !== undefined) continue;
      if (leases.has(namespace, runId)) continue;
      const leaseMs = leaseMsOf(fromBinary(RunSpecSchema, spec), defaultLeaseMs);
      leases.start({ namespace, runId, epoch, leaseMs });
    }
  }
}

/** Runs in the order of their namespaces, taken apart by them. */
function byNamespace(runs: readonly RunningElsewhere[]): RunningElsewhere[][] {
  const all: RunningElsewhere[][] = [];
  for (const run of runs) {
    const current = all.at(-1);
    if (current?.[0]?.namespace_id === run.namespace_id) current.push(run);
    else all.push([run]);
  }
  return all;
}
