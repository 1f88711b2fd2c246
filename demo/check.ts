/**
 * The check: what the processes say they sent against what the journal holds,
 * and what was seen live against a replay from the beginning.
 */
import { readdirSync, readFileSync } from "node:fs";
import { join } from "node:path";
import type { SequencedEvent } from "../gen/runlog/v1/record_pb.js";
import { RunState } from "../gen/runlog/v1/run_pb.js";
import { hashOf, type SentLine } from "./recorder.ts";

/** What was found. */
export interface CheckResult {
  /** Empty where everything holds. */
  readonly mistakes: readonly string[];
  readonly runs: number;
  readonly processes: number;
  readonly events: number;
  /** Events that two processes of one run sent, because the first was killed. */
  readonly sentTwice: number;
  readonly reconnects: number;
  readonly resent: number;
}

interface Sent {
  /** Hash by run_seq, per run. */
  readonly runs: ReadonlyMap<string, ReadonlyMap<number, string>>;
  readonly processes: number;
  readonly sentTwice: number;
  readonly reconnects: number;
  readonly resent: number;
  readonly mistakes: readonly string[];
}

/** A record in one line that is equal where the record is. */
export function fingerprint(record: SequencedEvent): string {
  const { seq, runId, runSeq, record: fact } = record;
  const what = fact.case === "event" ? hashOf(fact.value.type, fact.value.data) : fact.case;
  return `${seq} ${runId} ${runSeq} ${what}`;
}

/**
 * Checks a journal that holds one family and nothing else: `live` are the
 * fingerprints of what a follower saw, `replay` is everything from seq 0 on.
 */
export function check(
  sentDirectory: string,
  live: readonly string[],
  replay: readonly SequencedEvent[],
): CheckResult {
  const sent = readSent(sentDirectory);
  const mistakes = [...sent.mistakes];
  const recorded = new Map<string, number>();
  const ended = new Map<string, RunState>();
  let seq = 0n;
  let events = 0;
  for (const record of replay) {
    seq++;
    if (record.seq !== seq) {
      mistakes.push(`seq ${record.seq} stands where ${seq} belongs`);
      seq = record.seq;
    }
    if (record.record.case === "runFinished") {
      if (ended.has(record.runId)) {
        mistakes.push(`run ${record.runId} ended twice`);
      }
      ended.set(record.runId, record.record.value.result?.state ?? RunState.UNSPECIFIED);
    }
    if (record.record.case === "event") {
      events++;
      const expected = (recorded.get(record.runId) ?? 0) + 1;
      recorded.set(record.runId, expected);
      if (record.runSeq !== BigInt(expected)) {
        mistakes.push(
          `run ${record.runId}: run_seq ${record.runSeq} stands where ${expected} belongs`,
        );
      }
      const { type, data } = record.record.value;
      if (sent.runs.get(record.runId)?.get(Number(record.runSeq)) !== hashOf(type, data)) {
        mistakes.push(`run ${record.runId}: event ${record.runSeq} is not what was sent`);
      }
    }
  }
  for (const [runId, hashes] of sent.runs) {
    if (recorded.get(runId) !== hashes.size) {
      mistakes.push(
        `run ${runId}: ${hashes.size} events sent, ${recorded.get(runId) ?? 0} recorded`,
      );
    }
    if (ended.get(runId) !== RunState.SUCCEEDED) {
      mistakes.push(`run ${runId} did not succeed`);
    }
  }
  mistakes.push(...firstDifference(live, replay.map(fingerprint)));
  const { processes, sentTwice, reconnects, resent } = sent;
  return { mistakes, runs: sent.runs.size, processes, events, sentTwice, reconnects, resent };
}

function firstDifference(live: readonly string[], replay: readonly string[]): string[] {
  for (let i = 0; i < Math.max(live.length, replay.length); i++) {
    if (live[i] !== replay[i]) {
      return [`live and replay differ at record ${i + 1}: ${live[i]} and ${replay[i]}`];
    }
  }
  return [];
}

function readSent(directory: string): Sent {
  const runs = new Map<string, Map<number, string>>();
  const mistakes: string[] = [];
  const files = readdirSync(directory).sort();
  let sentTwice = 0;
  let reconnects = 0;
  let resent = 0;
  for (const file of files) {
    const runId = file.slice(0, file.indexOf("."));
    const hashes = runs.get(runId) ?? new Map<number, string>();
    runs.set(runId, hashes);
    for (const line of linesOf(join(directory, file))) {
      if ("stats" in line) {
        reconnects += line.stats.reconnects;
        resent += line.stats.resent;
        continue;
      }
      const before = hashes.get(line.runSeq);
      if (before !== undefined) {
        sentTwice++;
      }
      if (before !== undefined && before !== line.hash) {
        mistakes.push(
          `run ${runId}: two processes sent different events as run_seq ${line.runSeq}`,
        );
      }
      hashes.set(line.runSeq, line.hash);
    }
  }
  return { runs, processes: files.length, sentTwice, reconnects, resent, mistakes };
}

/** A process that was killed while it wrote leaves half a line: it never sent that event. */
function linesOf(file: string): SentLine[] {
  const text = readFileSync(file, "utf8");
  return text
    .slice(0, text.lastIndexOf("\n") + 1)
    .split("\n")
    .filter((line) => line !== "")
    .map((line) => JSON.parse(line) as SentLine);
}
