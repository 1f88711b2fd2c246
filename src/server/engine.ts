/** Puts the domain together over one journal: ingest, delivery, maintenance, and what joins several nodes. */

import { TailFollower } from "../delivery/tail-follower.ts";
import { Tails } from "../delivery/tails.ts";
import { Committer, type CommitterOptions } from "../ingest/committer.ts";
import { Leases } from "../ingest/leases.ts";
import { TakeoverWatch } from "../ingest/takeover-watch.ts";
import type { Journal } from "../journal/journal.ts";
import { NamespaceWatch } from "../journal/namespace-watch.ts";
import { type NodeIdentity, onlyNode } from "../journal/nodes.ts";
import type { Notifications } from "../journal/postgres/notifications.ts";
import type { Limits } from "../limits.ts";
import { Cancellations } from "../maintenance/cancellations.ts";
import { Deletions } from "../maintenance/delete-tree.ts";
import type { JournalClock } from "../maintenance/journal-clock.ts";
import { LeaseClock } from "../maintenance/lease-clock.ts";
import { Membership } from "../maintenance/membership.ts";
import { RetentionSettings } from "../maintenance/namespace-directory.ts";
import { Retention } from "../maintenance/retention.ts";
import { Rounds } from "../maintenance/rounds.ts";
import { Unfinished } from "../maintenance/unfinished.ts";
import { WaitClock } from "../maintenance/wait-clock.ts";
import { MemoryBudget } from "../memory-budget.ts";
import { isUnavailable } from "../refusal.ts";
import {
  type JournalTime,
  type JournalTimeOptions,
  standstillLog,
  timeOf,
} from "./journal-time.ts";

/** What the domain is put together from. */
export type EngineOptions = JournalTimeOptions;

/** The domain's parts. */
export interface Engine {
  readonly journal: Journal;
  readonly limits: Limits;
  /** Who this process is among those that serve the journal. */
  readonly node: NodeIdentity;
  readonly tails: Tails;
  readonly memory: MemoryBudget;
  readonly committer: Committer;
  readonly leases: Leases;
  readonly cancellations: Cancellations;
  readonly deletions: Deletions;
  readonly retention: Retention;
  /** Milliseconds for which the database has not answered; undefined where it is this node's own. */
  readonly awayMs: (() => number) | undefined;
  readonly retentionSettings: RetentionSettings;
  /** The time that records are stamped with. */
  readonly clock: JournalClock;
  /** What is kept of namespaces, by what it is kept for: nothing of those that nobody uses. */
  kept(): Readonly<Record<string, number>>;
  /** Begins what the domain does by itself. */
  start(): void;
  /** Stops all of it; resolves when nothing is under way any more. The journal stays open. */
  stop(): Promise<void>;
}

/**
 * Puts the domain together, and joins the other nodes where there can be some.
 *
 * @throws RefusedError journal_unavailable where it cannot join them
 */
export async function openEngine(options: EngineOptions): Promise<Engine> {
  const { notifications } = options.journal;
  const time = await timeOf(options);
  return notifications === undefined
    ? alone(options, time)
    : amongOthers(options, notifications, time);
}

function alone(options: EngineOptions, time: JournalTime): Engine {
  const tails = new Tails(options.limits.tailBytes);
  const memory = memoryBeside(tails, options.limits);
  const parts = partsOf(options, {
    time,
    tails,
    memory,
    node: onlyNode,
    isOnDuty: () => true,
    isReachable: () => true,
    onCommitted: (namespace, records, deletionCount) => {
      tails.publish(namespace, records, deletionCount);
    },
  });
  options.journal.onForeignWrite?.(() => {
    parts.committer.forgetAll();
    tails.forgetAll();
  });
  return { ...parts, awayMs: undefined };
}

async function amongOthers(
  options: EngineOptions,
  notifications: Notifications,
  time: JournalTime,
): Promise<Engine> {
  const { journal, limits, onFailure } = options;
  const membership = await Membership.join({
    journal,
    nodeTimeoutMs: limits.nodeTimeoutMs,
    onFailure,
    onGone: () => parts.leaseClock.lookForOrphans(),
    onRejoined() {
      // Producers that are connected here still are.
      for (const namespace of committer.heldNamespaces()) committer.checkHolders(namespace);
    },
  });
  const tails: Tails = new Tails(limits.tailBytes, {
    onWatched: (namespace) => watch.look(namespace),
    onUnwatched: (namespace) => follower.unfollow(namespace),
  });
  const memory = memoryBeside(tails, limits);
  const follower = new TailFollower({ journal, tails, limits, onFailure });
  const parts = partsOf(options, {
    time,
    tails,
    memory,
    node: membership,
    isOnDuty: () => membership.isOnDuty,
    isReachable: () => membership.isReachable,
    onCommitted(namespace, records, deletionCount) {
      follower.onCommitted(namespace, records, deletionCount);
    },
    onOpened(namespace, counts) {
      takeovers.onOpened(namespace, counts);
    },
    dropIdle() {
      follower.dropIdle();
      takeovers.dropIdle();
    },
  });
  const { committer } = parts;
  const takeovers = new TakeoverWatch({ journal, committer, node: membership, onFailure });
  journal.history.onBack(({ namespace }) => takeovers.onBack(namespace));
  const watch = new NamespaceWatch({
    journal,
    notifications,
    onFailure,
    pollIntervalMs: limits.pollIntervalMs,
    followers: [
      {
        followed: () => tails.watched(),
        isFollowed: (namespace) => tails.isWatched(namespace),
        onRow: (row) => follower.onRow(row),
      },
      {
        followed: () => committer.heldNamespaces(),
        isFollowed: (namespace) => committer.holdsRunsIn(namespace),
        onRow: (row) => takeovers.onRow(row),
      },
    ],
  });
  return {
    ...parts,
    awayMs: () => membership.awayMs,
    kept: () => ({ ...parts.kept(), ...follower.counts, told: takeovers.count }),
    start() {
      membership.start();
      watch.start();
      parts.start();
    },
    async stop() {
      await Promise.all([watch.stop(), parts.stop()]);
      await Promise.all([follower.stop(), takeovers.stop(), membership.leave()]);
    },
  };
}

/** The process's memory, of which the tails have what nobody else needs. */
function memoryBeside(tails: Tails, { memoryBytes, tailBytes }: Limits): MemoryBudget {
  return new MemoryBudget(memoryBytes, (bytes) => tails.setMaxBytes(Math.min(tailBytes, bytes)));
}

/** What differs between one node and several. */
interface Setting {
  readonly time: JournalTime;
  readonly tails: Tails;
  readonly memory: MemoryBudget;
  readonly node: NodeIdentity;
  readonly isOnDuty: () => boolean;
  readonly isReachable: () => boolean;
  readonly onCommitted: CommitterOptions["onCommitted"];
  readonly onOpened?: CommitterOptions["onOpened"];
  /** Drops what else is kept of namespaces that nobody uses. */
  readonly dropIdle?: () => void;
}

function partsOf(options: EngineOptions, setting: Setting) {
  const { journal, limits, onFailure } = options;
  const { clock, looks } = setting.time;
  const { now } = clock;
  const { tails, memory, node, isOnDuty, isReachable, onCommitted, onOpened } = setting;
  journal.history.onBack((error) => {
    tails.forgetAll();
    onFailure(error);
  });
  const leases = new Leases();
  const committer = new Committer({
    journal,
    limits,
    leases,
    node,
    now,
    onCommitted,
    onUncertain: (namespace) => tails.forget(namespace),
    onImpossible: onFailure,
    ...(onOpened && { onOpened }),
    onFailedTry: (error) => {
      // Any other error goes to the callers, and into the log of their calls.
      if (isUnavailable(error)) onFailure(error);
    },
    notifications: journal.notifications,
    onTimeAhead: standstillLog(options.onClock),
  });
  const cancellations = new Cancellations({ journal, committer, node });
  const deletions = new Deletions({
    journal,
    committer,
    node,
    onMarked: (namespace) => tails.forget(namespace),
  });
  const retention = new Retention({
    journal,
    deletions,
    isOnDuty,
    onFailure,
    now: () => clock.steadyNow(),
    intervalMs: limits.retentionIntervalMs,
  });
  const unfinished = new Unfinished({
    journal,
    node,
    isOnDuty,
    deletions,
    cancellations,
    onFailure,
    intervalMs: limits.unfinishedIntervalMs,
  });
  const leaseClock = new LeaseClock({
    journal,
    committer,
    leases,
    node,
    isReachable,
    isOnDuty,
    onFailure,
    intervalMs: limits.unfinishedIntervalMs,
    defaultLeaseMs: limits.defaultLeaseMs,
  });
  const waitClock = new WaitClock({ journal, committer, isOnDuty, now, onFailure });
  const idle = new Rounds({
    intervalMs: limits.idleNamespaceMs,
    onFailure,
    round() {
      tails.dropIdle();
      committer.dropIdle();
      setting.dropIdle?.();
      return Promise.resolve();
    },
  });
  return {
    journal,
    limits,
    node,
    tails,
    memory,
    committer,
    leases,
    retention,
    leaseClock,
    cancellations,
    deletions,
    clock,
    retentionSettings: new RetentionSettings(journal),
    kept: () => ({ tails: tails.count, ...committer.counts }),
    start() {
      looks?.start();
      leaseClock.start();
      retention.start();
      unfinished.start();
      waitClock.start();
      idle.start();
    },
    async stop() {
      const stopping = [
        leaseClock,
        retention,
        unfinished,
        waitClock,
        idle,
        cancellations,
        deletions,
      ];
      await Promise.all([looks?.stop(), ...stopping.map((part) => part.stop())]);
      await committer.stop();
    },
  };
}
