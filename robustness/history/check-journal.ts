/** The journal as it was read in the end: one, dense, and each run well formed. */
import { expectedCrc } from "../load/event-bytes.ts";
import type { Entry, SeenRecord } from "./entry.ts";
import type { Violation } from "./violation.ts";

/** All records in the order of their seq, of the reader that came first. */
export interface Journal {
  readonly records: readonly SeenRecord[];
  readonly byRun: ReadonlyMap<string, readonly SeenRecord[]>;
}

/** The journal of a history; empty where it was never read to the end. */
export function journalOf(entries: readonly Entry[]): Journal {
  const entry = entries.find((one) => one.t === "journal");
  const records = entry?.t === "journal" ? entry.records : [];
  return { records, byRun: Map.groupBy(records, ({ run }) => run) };
}

/** Checks what was read in the end, without a look at what was promised. */
export function checkJournal(entries: readonly Entry[], journal: Journal): Violation[] {
  const found: Violation[] = [];
  const readers = entries.filter((entry) => entry.t === "journal");
  if (readers.length === 0) {
    found.push({
      promise: "every reader sees one journal",
      what: "nobody read the journal to its end",
    });
  }
  for (const { reader, node, records } of readers.slice(1)) {
    const at = firstDifference(journal.records, records);
    if (at !== undefined) {
      found.push({
        promise: "every reader sees one journal",
        what: `${reader} at ${node} differs at place ${at}: ${told(records[at])} instead of ${told(journal.records[at])}`,
      });
    }
  }
  let timeMs = 0;
  for (const [index, record] of journal.records.entries()) {
    if (record.seq !== index + 1) {
      found.push({ promise: "seq is dense", what: `${told(record)} at place ${index + 1}` });
      break;
    }
    if ((record.timeMs ?? timeMs) < timeMs) {
      found.push({ promise: "record_time does not go back", what: `at ${told(record)}` });
    }
    timeMs = Math.max(timeMs, record.timeMs ?? 0);
  }
  for (const [run, records] of journal.byRun) found.push(...checkRun(run, records));
  return found;
}

function checkRun(run: string, records: readonly SeenRecord[]): Violation[] {
  const found: Violation[] = [];
  if (records[0]?.kind !== "started") {
    found.push({ promise: "run_seq is dense", what: `${run} does not begin with its start` });
  }
  let last = 0;
  let isEnded = false;
  let isLost = false;
  let isWaiting = false;
  for (const record of records) {
    if (isEnded && !(isLost && (record.kind === "resumed" || record.kind === "signal"))) {
      found.push({ promise: "nothing after the end", what: told(record) });
    }
    switch (record.kind) {
      case "event":
        if (record.runSeq !== last + 1) {
          found.push({ promise: "run_seq is dense", what: `${told(record)} after ${last}` });
        }
        if (isWaiting) {
          found.push({ promise: "nothing after the end", what: `${told(record)} while it waits` });
        }
        last = record.runSeq;
        if (record.crc !== expectedCrc(run, record.runSeq, record.by ?? "")) {
          found.push({ promise: "bytes are kept", what: told(record) });
        }
        break;
      case "finished":
        isEnded = true;
        isWaiting = false;
        isLost = record.state === "LOST";
        if (record.lastRunSeq !== last) {
          found.push({
            promise: "nothing after the end",
            what: `${told(record)} says ${record.lastRunSeq} events, there are ${last}`,
          });
        }
        break;
      case "resumed":
        if (!isEnded && !isWaiting) {
          found.push({ promise: "nothing after the end", what: `${told(record)} while it ran` });
        }
        isEnded = false;
        isWaiting = false;
        break;
      case "waiting":
        isWaiting = true;
        break;
      case "signal":
        break;
      case "started":
        if (record !== records[0]) {
          found.push({ promise: "run_seq is dense", what: `${told(record)}: started again` });
        }
    }
  }
  return found;
}

/** The first place at which two sequences differ. */
function firstDifference(
  expected: readonly SeenRecord[],
  seen: readonly SeenRecord[],
): number | undefined {
  const count = Math.max(expected.length, seen.length);
  for (let at = 0; at < count; at++) if (!isSame(expected[at], seen[at])) return at;
  return undefined;
}

/** Whether two readers saw the same record. */
export function isSame(a: SeenRecord | undefined, b: SeenRecord | undefined): boolean {
  return (
    a !== undefined &&
    b !== undefined &&
    a.seq === b.seq &&
    a.run === b.run &&
    a.runSeq === b.runSeq &&
    a.kind === b.kind &&
    a.crc === b.crc &&
    a.state === b.state &&
    a.output === b.output &&
    a.id === b.id &&
    a.signalSeq === b.signalSeq &&
    a.handled === b.handled
  );
}

/** A record in few words. */
export function told(record: SeenRecord | undefined): string {
  return record === undefined
    ? "nothing"
    : `${record.seq} (${record.run} ${record.kind === "event" ? `#${record.runSeq} by ${record.by}` : record.kind})`;
}
