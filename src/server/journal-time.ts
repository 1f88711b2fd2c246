/** The journal's time as a server keeps it, and what it tells people of it. */

import { uptime } from "node:os";
import type { CommitterOptions } from "../ingest/committer.ts";
import type { Journal } from "../journal/journal.ts";
import type { Limits } from "../limits.ts";
import { DatabaseTime } from "../maintenance/database-time.ts";
import { clockToleranceMs, JournalClock, type Jump } from "../maintenance/journal-clock.ts";
import { Rounds } from "../maintenance/rounds.ts";

/** What a server's time is made of. */
export interface JournalTimeOptions {
  readonly journal: Journal;
  readonly limits: Limits;
  /** Milliseconds since 1970, where the database has no clock of its own. */
  readonly now: () => number;
  /** Told of what went wrong beside all calls; it is tried again. */
  readonly onFailure: (error: unknown) => void;
  /** Told of what the clock did, for people. */
  readonly onClock?: (text: string) => void;
}

/** Milliseconds between looks at the database's clock. */
const timeIntervalMs = 1_000;
/** Milliseconds between two lines about a record_time that stands still. */
const standstillLogMs = 60_000;

/** The journal's time, and what keeps it right. */
export interface JournalTime {
  readonly clock: JournalClock;
  readonly looks: Rounds | undefined;
}

/** Reads the database's clock where it has one, so that all nodes go by the same. */
export async function timeOf({
  journal,
  limits,
  now,
  onFailure,
  onClock,
}: JournalTimeOptions): Promise<JournalTime> {
  const steady = () => performance.now();
  const { readTime } = journal;
  const databaseTime = readTime && new DatabaseTime(readTime, steady);
  await databaseTime?.look();
  const clock = new JournalClock({
    wall: databaseTime === undefined ? now : () => databaseTime.now(),
    steady,
    uptime: () => uptime() * 1_000,
    settleMs: limits.clockSettleMs,
    pauseMs: limits.retentionPauseMs,
    onJump: (jump) => onClock?.(textOfJump(jump, limits)),
  });
  const looks =
    databaseTime &&
    new Rounds({ intervalMs: timeIntervalMs, onFailure, round: () => databaseTime.look() });
  return { clock, looks };
}

function textOfJump({ t, ms }: Jump, { clockSettleMs, retentionPauseMs }: Limits): string {
  const way = `${Math.abs(ms / 1_000).toFixed(1)} s ${ms > 0 ? "forward" : "back"}`;
  const pause = `retention pauses for ${retentionPauseMs / 1_000} s`;
  switch (t) {
    case "seen":
      return `the clock jumped ${way}: record_time goes on without it for ${clockSettleMs / 1_000} s, ${pause}`;
    case "undone":
      return `the clock was set back from its jump ${way}; ${pause}`;
    case "believed":
      return `the clock stayed where it jumped, ${way}: record_time follows it, ${pause}`;
  }
}

/** Says now and then that a namespace's record_time waits for the clock. */
export function standstillLog(
  onClock: JournalTimeOptions["onClock"],
): CommitterOptions["onTimeAhead"] {
  let nextMs = 0;
  return (namespace, aheadMs) => {
    const nowMs = performance.now();
    if (aheadMs <= clockToleranceMs || nowMs < nextMs) return;
    nextMs = nowMs + standstillLogMs;
    onClock?.(
      `record_time of namespace ${namespace} is ${(aheadMs / 1_000).toFixed(1)} s ahead of the clock: it stands still until the clock is there`,
    );
  };
}
