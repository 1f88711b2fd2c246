/** What a producer wants of its run beside taking events, and how it asks the server. */
import { create } from "@bufbuild/protobuf";
import { ErrorDetailSchema, Reason } from "../../gen/runlog/v1/error_pb.js";
import { RunlogError } from "./errors.ts";
import { type MessageFrame, messageFrame } from "./ingest-transport.ts";
import type { Mark } from "./send-buffer.ts";
import type { ResultInit, WaitInit } from "./sender-types.ts";

/** What the producer wants: to go on, to leave, or to end the run. */
export type Goal = { readonly t: "stream" | "close" } | FinishGoal;

/** A run is to end, once all its events are durable. */
export interface FinishGoal {
  readonly t: "finish";
  readonly result: ResultInit;
  /** Only if every signal of the run is handled. */
  readonly requireSignalsHandled: boolean;
}

/** A run is to wait, once its events before a place are durable and before any later one. */
export interface WaitGoal {
  /** In the buffer. */
  readonly mark: Mark;
  readonly wait: WaitInit;
  /** Only if every signal of the run is handled. */
  readonly requireSignalsHandled: boolean;
}

/**
 * Asks the server to let the run wait.
 *
 * @param lastRunSeq the run's last event, which is durable
 * @param maxBytes of a message that the server reads
 * @throws RunlogError where it is larger
 */
export function waitFrame(
  runId: string,
  lastRunSeq: number,
  { wait, requireSignalsHandled }: WaitGoal,
  maxBytes: number,
): MessageFrame {
  const value = { runId, lastRunSeq: BigInt(lastRunSeq), wait, requireSignalsHandled };
  return checkSize(messageFrame({ case: "wait", value }), "wait", maxBytes);
}

/** Asks the server to end the run; the parameters are those of waitFrame. */
export function finishFrame(
  runId: string,
  lastRunSeq: number,
  { result, requireSignalsHandled }: FinishGoal,
  maxBytes: number,
): MessageFrame {
  const value = { runId, lastRunSeq: BigInt(lastRunSeq), result, requireSignalsHandled };
  return checkSize(messageFrame({ case: "finish", value }), "finish", maxBytes);
}

/**
 * Refuses what the server would not even read: it would end the call, and with
 * it the calls of other runs.
 */
export function checkSize(frame: MessageFrame, field: string, limit: number): MessageFrame {
  const { length } = frame.encoded;
  if (length <= limit) return frame;
  const data = { reason: Reason.TOO_LARGE, field, limit: BigInt(limit) };
  const message = `${field} has ${length} bytes, the limit is ${limit}`;
  throw new RunlogError(message, undefined, create(ErrorDetailSchema, data));
}
