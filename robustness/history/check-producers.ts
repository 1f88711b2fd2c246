/** What producers were promised: acknowledgements, ends, epochs, fencing and refusals. */
import { type Journal, told } from "./check-journal.ts";
import type { Entry } from "./entry.ts";
import type { Violation } from "./violation.ts";

type EntryOf<T extends Entry["t"]> = Extract<Entry, { t: T }>;

/** An answered open. */
interface Opening {
  readonly by: string;
  readonly attempt: number;
  readonly epoch: number;
  readonly lastRunSeq: number;
  readonly sentAt: number;
  readonly answeredAt: number;
}

/** Reasons that a correct producer may get at any time. */
const passing = new Set(["DRAINING", "JOURNAL_UNAVAILABLE", "OVERLOADED", "QUOTA"]);
/** gRPC's codes. */
const codes = { unknown: 2, internal: 13, dataLoss: 15 } as const;

/** Checks every answer that a producer got. */
export function checkProducers(entries: readonly Entry[], journal: Journal): Violation[] {
  const found: Violation[] = [];
  const openings = openingsOf(entries);
  for (const [run, all] of openings.answered) found.push(...checkEpochs(run, all));
  for (const [run, all] of openings.answered) found.push(...checkOwners(run, all, journal));
  for (const entry of entries) {
    if (entry.t === "acked") found.push(...checkAck(entry, journal));
    if (entry.t === "ended") found.push(...checkEnd(entry, journal));
    if (entry.t === "refused") found.push(...checkRefusal(entry, openings.askers, journal));
    if (entry.t === "run") found.push(...checkState(entry, journal));
  }
  found.push(...checkSent(entries, journal));
  return found;
}

function checkAck({ run, runSeq, seq, by }: EntryOf<"acked">, { byRun }: Journal): Violation[] {
  if (runSeq === 0) return [];
  const events = (byRun.get(run) ?? []).filter(({ kind }) => kind === "event");
  const record = events[runSeq - 1];
  if (record === undefined) {
    return [{ promise: "acknowledged is durable", what: `${run} #${runSeq} of ${by} is missing` }];
  }
  if (seq !== 0 && record.seq !== seq) {
    const what = `${run} #${runSeq} was acknowledged at ${seq} and is at ${record.seq}`;
    return [{ promise: "acknowledged is durable", what }];
  }
  return [];
}

function checkEnd({ run, by, state, output }: EntryOf<"ended">, { byRun }: Journal): Violation[] {
  const end = byRun.get(run)?.findLast(({ kind }) => kind === "finished");
  if (end === undefined) {
    return [{ promise: "acknowledged is durable", what: `the end of ${run} is missing` }];
  }
  if (end.state === state && end.output === output) return [];
  const what = `${by} heard ${state} ${output} of ${run}, which ended ${end.state} ${end.output}`;
  return [{ promise: "the first result stands", what }];
}

function checkState(entry: EntryOf<"run">, { byRun }: Journal): Violation[] {
  const records = byRun.get(entry.run) ?? [];
  const last = records.findLast(({ kind }) => kind !== "event" && kind !== "signal");
  const running = last?.kind === "waiting" ? "WAITING" : "RUNNING";
  const state = last?.kind === "finished" ? last.state : running;
  const events = records.filter(({ kind }) => kind === "event").length;
  if (entry.state === state && entry.lastRunSeq === events) return [];
  const what = `${entry.node} says ${entry.run} is ${entry.state} with ${entry.lastRunSeq} events; its records say ${state}, ${events}`;
  return [{ promise: "every reader sees one journal", what }];
}

/** By run: the opens that were answered, and all who ever asked. */
function openingsOf(entries: readonly Entry[]) {
  const answered = new Map<string, Opening[]>();
  const askers = new Map<string, Set<string>>();
  const sentAt = new Map<string, number>();
  for (const entry of entries) {
    if (entry.t === "opening") {
      sentAt.set(`${entry.run} ${entry.by} ${entry.attempt}`, entry.at);
      askers.set(entry.run, (askers.get(entry.run) ?? new Set()).add(entry.by));
    } else if (entry.t === "opened") {
      const all = answered.get(entry.run) ?? [];
      const sent = sentAt.get(`${entry.run} ${entry.by} ${entry.attempt}`) ?? entry.at;
      all.push({ ...entry, sentAt: sent, answeredAt: entry.at });
      answered.set(entry.run, all);
    }
  }
  return { answered, askers };
}

/** An open that was sent after another one was answered has a greater epoch. */
function checkEpochs(run: string, all: readonly Opening[]): Violation[] {
  const found: Violation[] = [];
  for (const later of all) {
    for (const earlier of all) {
      if (later === earlier || later.sentAt <= earlier.answeredAt) continue;
      // The same attempt again is answered as it was.
      if (later.by === earlier.by && later.attempt === earlier.attempt) continue;
      if (later.epoch <= earlier.epoch) {
        const what = `${run}: ${later.by} got epoch ${later.epoch} after ${earlier.by} had ${earlier.epoch}`;
        found.push({ promise: "epochs grow", what });
      } else if (later.lastRunSeq < earlier.lastRunSeq) {
        const what = `${run}: last_run_seq went from ${earlier.lastRunSeq} back to ${later.lastRunSeq}`;
        found.push({ promise: "acknowledged is durable", what });
      }
    }
  }
  return found;
}

/** What lies between the events of two epochs was written by the owner of the first. */
function checkOwners(run: string, all: readonly Opening[], { byRun }: Journal): Violation[] {
  const found: Violation[] = [];
  const byEpoch = all.toSorted((a, b) => a.epoch - b.epoch);
  const epochs = new Map<number, Opening>();
  for (const opening of byEpoch) {
    const other = epochs.get(opening.epoch);
    if (other !== undefined && other.by !== opening.by) {
      const what = `${run}: ${other.by} and ${opening.by} both had epoch ${opening.epoch}`;
      found.push({ promise: "epochs grow", what });
    }
    epochs.set(opening.epoch, opening);
  }
  for (const record of byRun.get(run) ?? []) {
    if (record.kind !== "event") continue;
    const owner = byEpoch.findLast(({ lastRunSeq }) => lastRunSeq < record.runSeq);
    if (owner !== undefined && owner.by !== record.by) {
      const what = `${told(record)} belongs to epoch ${owner.epoch} of ${owner.by}`;
      found.push({ promise: "producers do not interleave", what });
    }
  }
  return found;
}

/** Nothing is there that nobody sent. */
function checkSent(entries: readonly Entry[], { byRun }: Journal): Violation[] {
  const sent = new Map<string, number>();
  for (const entry of entries) {
    if (entry.t !== "sent") continue;
    const key = `${entry.run} ${entry.by}`;
    sent.set(key, Math.max(sent.get(key) ?? 0, entry.to));
  }
  const found: Violation[] = [];
  for (const records of byRun.values()) {
    for (const record of records) {
      if (record.kind !== "event") continue;
      if (record.runSeq > (sent.get(`${record.run} ${record.by}`) ?? 0)) {
        found.push({ promise: "bytes are kept", what: `nobody sent ${told(record)}` });
      }
    }
  }
  return found;
}

function checkRefusal(
  entry: EntryOf<"refused">,
  askers: ReadonlyMap<string, ReadonlySet<string>>,
  journal: Journal,
): Violation[] {
  const { run = "", by, reason, code, message } = entry;
  if (entry.isLocal === true || passing.has(reason)) return [];
  if (reason === "FENCED") {
    if ((askers.get(run)?.size ?? 0) > 1) return [];
    return [{ promise: "FENCED takes two owners", what: `${run} has ${by} alone: ${message}` }];
  }
  if (reason === "RUN_FINISHED") {
    const isFinished = journal.byRun.get(run)?.some(({ kind }) => kind === "finished");
    if (isFinished === true) return [];
  }
  // The deadline of a wait passed, or a lease: the producer has to open the run again.
  if (reason === "RUN_NOT_OPEN") {
    if (journal.byRun.get(run)?.some(({ state }) => state === "LOST") === true) return [];
  }
  // Two events under one signal id are refused; check-signals.ts looks for that.
  if (reason === "SIGNAL_CONFLICT") return [];
  if (reason === "") {
    // Broken connections come as almost any code; these ones only from a server that failed.
    if (code !== codes.internal && code !== codes.unknown && code !== codes.dataLoss) return [];
    if (/RST_STREAM|Stream removed|stream closed|GOAWAY/i.test(message)) return [];
  }
  const what = `${by} on ${run === "" ? "a call" : run}: ${reason} ${code ?? ""} ${message}`;
  return [{ promise: "refusals are expected", what }];
}
