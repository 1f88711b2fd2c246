/** What senders of signals, and producers that handle them and wait, were promised. */
import { type Journal, told } from "./check-journal.ts";
import type { Entry, SeenRecord } from "./entry.ts";
import type { Violation } from "./violation.ts";

/** By run: its signals in the order of the journal. */
type Signals = ReadonlyMap<string, readonly SeenRecord[]>;

/** Checks signals, handled positions, waits and their ends. */
export function checkSignals(entries: readonly Entry[], journal: Journal): Violation[] {
  const signals: Signals = Map.groupBy(
    journal.records.filter(({ kind }) => kind === "signal"),
    ({ run }) => run,
  );
  const reports = reportsOf(entries);
  return [
    ...[...signals].flatMap(([run, all]) => checkNumbers(run, all, entries)),
    ...[...journal.byRun].flatMap(([run, records]) => checkRun(records, reports.get(run))),
    ...checkSenders(entries, signals),
    ...checkInboxes(entries, signals),
    ...checkAnswers(entries, journal),
    ...checkCancels(entries, journal),
  ];
}

/** 1, 2, 3 …, each id once, and nothing that nobody sent. */
function checkNumbers(
  run: string,
  all: readonly SeenRecord[],
  entries: readonly Entry[],
): Violation[] {
  const found: Violation[] = [];
  const sent = new Set(
    entries.flatMap((one) =>
      one.t === "signalling" && one.run === run ? [`${one.id} ${one.crc}`] : [],
    ),
  );
  const ids = new Map<string, SeenRecord>();
  for (const [index, record] of all.entries()) {
    const id = record.id ?? "";
    if (record.signalSeq !== index + 1) {
      const what = `${told(record)} has signal_seq ${record.signalSeq} at place ${index + 1}`;
      found.push({ promise: "signal_seq is dense", what });
    }
    const first = ids.get(id);
    if (first !== undefined) {
      const what = `${run}: ${id} is signal ${first.signalSeq} and ${record.signalSeq}`;
      found.push({ promise: "an acknowledged signal is there once", what });
    }
    ids.set(id, record);
    if (!sent.has(`${id} ${record.crc}`)) {
      found.push({ promise: "bytes are kept", what: `nobody sent ${told(record)}, ${id}` });
    }
  }
  return found;
}

/** What was answered to senders is there, at that place, with those bytes. */
function checkSenders(entries: readonly Entry[], signals: Signals): Violation[] {
  const found: Violation[] = [];
  const byId = new Map(
    [...signals].flatMap(([run, all]) => all.map((one) => [`${run} ${one.id}`, one] as const)),
  );
  const crcs = new Map<string, Set<number>>();
  for (const entry of entries) {
    if (entry.t === "signalling") {
      const key = `${entry.run} ${entry.id}`;
      crcs.set(key, (crcs.get(key) ?? new Set()).add(entry.crc));
    } else if (entry.t === "signalled") {
      const record = byId.get(`${entry.run} ${entry.id}`);
      if (
        record?.seq === entry.seq &&
        record.signalSeq === entry.signalSeq &&
        record.crc === entry.crc
      ) {
        continue;
      }
      const what = `${entry.id} to ${entry.run} was answered as signal ${entry.signalSeq} at ${entry.seq}; the journal has ${record?.signalSeq} at ${record?.seq}${record?.crc === entry.crc ? "" : " with other bytes"}`;
      found.push({ promise: "an acknowledged signal is there once", what });
    } else if (entry.t === "refused" && entry.reason === "SIGNAL_CONFLICT") {
      const isWarranted = [...crcs].some(
        ([key, all]) => key.startsWith(`${entry.run} ${entry.by}-`) && all.size > 1,
      );
      if (!isWarranted) {
        const what = `${entry.by} on ${entry.run}: SIGNAL_CONFLICT, and no id had two events`;
        found.push({ promise: "refusals are expected", what });
      }
    }
  }
  return found;
}

/** After an open: exactly the signals after the handled one, in order, as the journal has them. */
function checkInboxes(entries: readonly Entry[], signals: Signals): Violation[] {
  const found: Violation[] = [];
  const next = new Map<string, number>();
  for (const entry of entries) {
    if (entry.t === "opened" && entry.handled !== undefined) {
      next.set(`${entry.run} ${entry.by} ${entry.attempt}`, entry.handled + 1);
    } else if (entry.t === "inbox") {
      const key = `${entry.run} ${entry.by} ${entry.attempt}`;
      const expected = next.get(key);
      const record = signals.get(entry.run)?.[entry.signalSeq - 1];
      const { id, crc, seq } = entry;
      if (entry.signalSeq !== expected) {
        const what = `${entry.by} received signal ${entry.signalSeq} of ${entry.run} instead of ${expected}`;
        found.push({ promise: "a producer receives what is not handled", what });
      } else if (record?.id !== id || record.crc !== crc || record.seq !== seq) {
        const what = `${entry.by} received signal ${entry.signalSeq} of ${entry.run} as ${id} at ${seq}; the journal has ${record?.id} at ${record?.seq}`;
        found.push({ promise: "a producer receives what is not handled", what });
      }
      next.set(key, entry.signalSeq + 1);
    }
  }
  return found;
}

/** What producers of a run said of its signals. */
interface Reports {
  /** By producer and the last event of an append: the positions that went with it. */
  readonly appends: Map<string, Set<number>>;
  /** Whether each FinishRun asked that every signal be handled. */
  isConditional: boolean;
  /** The furthest position that anybody reported. */
  furthest: number;
}

function reportsOf(entries: readonly Entry[]): Map<string, Reports> {
  const all = new Map<string, Reports>();
  for (const entry of entries) {
    if (entry.t !== "sent" && entry.t !== "finishing" && entry.t !== "waits") continue;
    const own = all.get(entry.run) ?? { appends: new Map(), isConditional: true, furthest: 0 };
    all.set(entry.run, own);
    own.furthest = Math.max(own.furthest, entry.handled ?? 0);
    if (entry.t === "finishing") own.isConditional &&= entry.isConditional === true;
    if (entry.t !== "sent") continue;
    const key = `${entry.by} ${entry.to}`;
    own.appends.set(key, (own.appends.get(key) ?? new Set()).add(entry.handled ?? 0));
  }
  return all;
}

/** A run's records: what they say is handled, whom its wait and its end passed over, how a wait ended. */
function checkRun(records: readonly SeenRecord[], reports: Reports | undefined): Violation[] {
  const found: Violation[] = [];
  let signals = 0;
  let handled = 0;
  let wait: SeenRecord | undefined;
  for (const record of records) {
    if (record.kind === "signal") signals++;
    const position = record.handled;
    if (position !== undefined) {
      if (position < handled) {
        const what = `${told(record)} says ${position} after ${handled}`;
        found.push({ promise: "the handled position does not go back", what });
      }
      if (position > signals || position > (reports?.furthest ?? 0)) {
        const what = `${told(record)} says ${position} of ${signals} signals; producers said ${reports?.furthest ?? 0}`;
        found.push({ promise: "the handled position does not go back", what });
      }
      handled = Math.max(handled, position);
    }
    if (record.kind === "event" && position !== undefined) {
      const said = reports?.appends.get(`${record.by} ${record.runSeq}`);
      if (said?.has(position) !== true) {
        const what = `${told(record)} handles ${position}, which nobody sent with it`;
        found.push({ promise: "the handled position does not go back", what });
      }
    }
    // Producers of waits ask that every signal be handled, always; of ends, where they say so.
    const isByProducer = record.state === "SUCCEEDED" || record.state === "FAILED";
    const isConditional =
      record.kind === "waiting" || (isByProducer && reports?.isConditional === true);
    if (isConditional && (position ?? 0) < signals) {
      const what = `${told(record)} with ${position} of ${signals} signals handled`;
      found.push({ promise: "no end or wait passes over a signal", what });
    }
    if (record.kind === "waiting") wait = record;
    else if (record.kind === "finished") {
      if (wait !== undefined && record.state === "LOST") {
        const isExpired = wait.hasDeadline === true && record.failure === "wait_expired";
        if (!isExpired) {
          const what = `${told(record)} ${record.failure ?? "by its lease"} after ${told(wait)}`;
          found.push({ promise: "a wait has no lease", what });
        }
      }
      wait = undefined;
    } else if (record.kind === "resumed") wait = undefined;
  }
  return found;
}

/** Acknowledged positions: no later open knows less, and what was handled with an event stands on it. */
function checkAnswers(entries: readonly Entry[], { byRun }: Journal): Violation[] {
  const found: Violation[] = [];
  /** By run: the furthest acknowledged position, and by opening what it was when it was sent. */
  const known = new Map<string, number>();
  const knownAt = new Map<string, number>();
  const goesBack = (what: string) =>
    found.push({ promise: "the handled position does not go back", what });
  for (const entry of entries) {
    if (entry.t === "opening") {
      knownAt.set(`${entry.run} ${entry.by} ${entry.attempt}`, known.get(entry.run) ?? 0);
    } else if ((entry.t === "opened" || entry.t === "acked") && entry.handled !== undefined) {
      const before =
        entry.t === "opened"
          ? (knownAt.get(`${entry.run} ${entry.by} ${entry.attempt}`) ?? 0)
          : (known.get(entry.run) ?? 0);
      if (entry.handled < before) {
        goesBack(`${entry.by} heard ${entry.handled} of ${entry.run} after ${before}`);
      }
      known.set(entry.run, Math.max(known.get(entry.run) ?? 0, entry.handled));
    }
  }
  for (const entry of entries) {
    if (entry.t !== "run" || entry.handled === undefined) continue;
    const last = known.get(entry.run) ?? 0;
    const written = Math.max(0, ...(byRun.get(entry.run) ?? []).map((one) => one.handled ?? 0));
    if (entry.handled < Math.max(last, written)) {
      goesBack(
        `${entry.node} says ${entry.handled} of ${entry.run}; ${last} was acknowledged, ${written} is in its records`,
      );
    }
  }
  return found;
}

/** A run that was asked to stop does not wait. */
function checkCancels(entries: readonly Entry[], { byRun }: Journal): Violation[] {
  const found: Violation[] = [];
  const cancelled = new Set<string>();
  const asked = new Set<string>();
  /** Waits that were sent after the run was asked to stop. */
  const late = new Set<string>();
  const waitsOn = (what: string) => found.push({ promise: "a cancelled run does not wait", what });
  for (const entry of entries) {
    if (entry.t === "cancelling") asked.add(entry.run);
    if (entry.t === "cancelled") cancelled.add(entry.run);
    const isLate = entry.t === "waits" && cancelled.has(entry.run);
    if (isLate) late.add(`${entry.run} ${entry.code}`);
    if (entry.t === "waiting" && late.has(`${entry.run} ${entry.code}`)) {
      waitsOn(`${entry.run} waits for ${entry.code}, after it was asked to stop`);
    }
  }
  for (const [run, records] of byRun) {
    const facts = records.filter(({ kind }) => kind !== "event" && kind !== "signal");
    const last = facts.at(-1);
    if (last?.kind === "waiting" && cancelled.has(run)) {
      waitsOn(`${told(last)} and was asked to stop`);
    }
    // From a wait only the server ends a run CANCELLED, and only where somebody asked.
    if (last?.state === "CANCELLED" && facts.at(-2)?.kind === "waiting" && !asked.has(run)) {
      waitsOn(`${told(last)} CANCELLED, and nobody asked`);
    }
  }
  return found;
}
