/**
 * Whether a history keeps every promise. Pure: entries in, violations out.
 */
import { checkJournal, journalOf } from "./check-journal.ts";
import { checkProducers } from "./check-producers.ts";
import { checkSignals } from "./check-signals.ts";
import { checkSubscribers } from "./check-subscribers.ts";
import { type CheckBounds, checkSurroundings } from "./check-surroundings.ts";
import type { Entry } from "./entry.ts";
import type { Violation } from "./violation.ts";

/** What a history comes to. */
export interface Verdict {
  readonly violations: readonly Violation[];
  /** Events whose acknowledgement was checked, and records of all subscribers. */
  readonly ackedEvents: number;
  readonly seenRecords: number;
  /** Signals whose acknowledgement was checked. */
  readonly ackedSignals: number;
  /** By fault: how often, and the longest time in milliseconds without any acknowledgement from its begin to the next one's. */
  readonly faults: ReadonlyMap<string, { readonly times: number; readonly worstStallMs: number }>;
}

/** Checks a history. */
export function checkHistory(entries: readonly Entry[], bounds: CheckBounds): Verdict {
  const journal = journalOf(entries);
  return {
    violations: [
      ...checkJournal(entries, journal),
      // Where nobody could read the journal, that is the finding.
      ...(journal.records.length === 0 ? [] : checkProducers(entries, journal)),
      ...(journal.records.length === 0 ? [] : checkSignals(entries, journal)),
      ...(journal.records.length === 0 ? [] : checkSubscribers(entries, journal)),
      ...checkSurroundings(entries, bounds),
    ],
    ackedEvents: countAcked(entries),
    seenRecords: entries.reduce((sum, e) => sum + (e.t === "records" ? e.records.length : 0), 0),
    ackedSignals: new Set(
      entries.flatMap((one) => (one.t === "signalled" ? [`${one.run} ${one.id}`] : [])),
    ).size,
    faults: stallsOf(entries),
  };
}

function countAcked(entries: readonly Entry[]): number {
  const acked = new Map<string, number>();
  for (const entry of entries) {
    if (entry.t === "acked")
      acked.set(entry.run, Math.max(acked.get(entry.run) ?? 0, entry.runSeq));
  }
  return [...acked.values()].reduce((sum, count) => sum + count, 0);
}

function stallsOf(entries: readonly Entry[]): Verdict["faults"] {
  const faults = new Map<string, { times: number; worstStallMs: number }>();
  let current: string | undefined;
  let lastAckAt: number | undefined;
  for (const entry of entries) {
    if (entry.t === "fault" && entry.phase === "begin") {
      current = entry.name;
      const fault = faults.get(current) ?? { times: 0, worstStallMs: 0 };
      faults.set(current, { ...fault, times: fault.times + 1 });
    } else if (entry.t === "acked") {
      if (current !== undefined && lastAckAt !== undefined) {
        const fault = faults.get(current)!;
        fault.worstStallMs = Math.max(fault.worstStallMs, entry.at - lastAckAt);
      }
      lastAckAt = entry.at;
    }
  }
  return faults;
}
