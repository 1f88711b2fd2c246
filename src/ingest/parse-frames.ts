/**
 * Turns the frames of a producer into what it asks for, and checks them. What is
 * wrong with one is refused for its run alone.
 */
import type { FinishRun, WaitRun } from "../../gen/runlog/v1/ingest_pb.js";
import { RunResultSchema, WaitSchema } from "../../gen/runlog/v1/run_pb.js";
import type { Limits } from "../limits.ts";
import { invalidField } from "../refusal.ts";
import { checkMessage, checkPlace, checkResult, checkWait } from "../validate.ts";
import type { AppendBytes } from "../wire/append.ts";
import { checkEvents } from "./event-bytes.ts";
import type {
  AppendOperation,
  FinishOperation,
  HandledSignals,
  Producer,
  WaitOperation,
} from "./operation.ts";

/** Whose frame it is. */
export interface OnProducer {
  readonly namespace: string;
  readonly runId: string;
  readonly producer: Producer;
}

/**
 * Checks a report that signals are handled; undefined where there is none.
 *
 * @param field the path of the field that says so
 */
export function checkHandled(field: string, value: bigint): HandledSignals | undefined {
  const signalSeq = checkPlace(field, value);
  return signalSeq === 0 ? undefined : { signalSeq, field };
}

/** @throws RefusedError */
export function parseAppend(on: OnProducer, append: AppendBytes, limits: Limits): AppendOperation {
  const handled = checkHandled("append.handled_signal_seq", append.handledSignalSeq);
  const firstRunSeq = checkPlace("append.first_run_seq", append.firstRunSeq);
  if (append.events.length > 0) {
    if (firstRunSeq === 0) throw invalidField("append.first_run_seq", "must be 1 or more");
  } else if (handled === undefined) {
    throw invalidField("append.events", "is empty");
  }
  const { events, bytes } = checkEvents("append.events", append.events, limits);
  return { kind: "append", ...on, firstRunSeq, events, bytes, handled };
}

/** @throws RefusedError */
export function parseFinish(on: OnProducer, finish: FinishRun, limits: Limits): FinishOperation {
  if (finish.result !== undefined) checkMessage("finish.result", RunResultSchema, finish.result);
  const lastRunSeq = checkPlace("finish.last_run_seq", finish.lastRunSeq);
  const result = checkResult("finish.result", finish.result, limits.maxEventBytes);
  const handled = checkHandled("finish.handled_signal_seq", finish.handledSignalSeq);
  const { requireSignalsHandled } = finish;
  return { kind: "finish", ...on, result, lastRunSeq, handled, requireSignalsHandled };
}

/** @throws RefusedError */
export function parseWait(on: OnProducer, frame: WaitRun, limits: Limits): WaitOperation {
  if (frame.wait !== undefined) checkMessage("wait.wait", WaitSchema, frame.wait);
  const lastRunSeq = checkPlace("wait.last_run_seq", frame.lastRunSeq);
  const wait = checkWait("wait.wait", frame.wait, limits.maxEventBytes);
  const handled = checkHandled("wait.handled_signal_seq", frame.handledSignalSeq);
  const { requireSignalsHandled } = frame;
  return { kind: "wait", ...on, wait, lastRunSeq, handled, requireSignalsHandled };
}

/** Characters of a malformed run id that an answer repeats, so that the producer knows which frame it was. */
const maxShownCharacters = 1_024;

/** What is no run id, in an answer: not as long as a message, and never to be taken for an id. */
export function printableId(runId: string): string {
  const isLong = runId.length > maxShownCharacters;
  return isLong ? `${runId.slice(0, maxShownCharacters).toWellFormed()}…` : runId.toWellFormed();
}
