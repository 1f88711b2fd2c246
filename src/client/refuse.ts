/** What every server refuses is refused here, at once and with the same data. */
import { create, toBinary } from "@bufbuild/protobuf";
import { ErrorDetailSchema, Reason } from "../../gen/runlog/v1/error_pb.js";
import { RunResultSchema, RunState } from "../../gen/runlog/v1/run_pb.js";
import { maxRunIdBytes } from "../limits.ts";
import { RunlogError } from "./errors.ts";
import type { ResultInit } from "./sender-types.ts";

/** Throws RunlogError where nothing can be called that. */
export function refuseInvalidRunId(runId: string): void {
  const isValid =
    runId !== "" &&
    runId.isWellFormed() &&
    !runId.includes("\0") &&
    new TextEncoder().encode(runId).length <= maxRunIdBytes;
  if (isValid) return;
  const problem = `must be 1 to ${maxRunIdBytes} bytes of UTF-8, without U+0000`;
  throw refusal(Reason.INVALID_FIELD, "run_id", problem, maxRunIdBytes);
}

/**
 * Throws RunlogError where no run can end so.
 *
 * @param maxBytes of the encoded result
 * @throws what protobuf-es throws where the result is no valid message
 */
export function refuseInvalidResult(init: ResultInit, maxBytes: number): void {
  const result = create(RunResultSchema, init);
  const { length } = toBinary(RunResultSchema, result);
  const isEnd =
    result.state === RunState.SUCCEEDED ||
    result.state === RunState.FAILED ||
    result.state === RunState.CANCELLED;
  if (!isEnd) {
    const problem = "must be SUCCEEDED, FAILED or CANCELLED";
    throw refusal(Reason.INVALID_FIELD, "finish.result.state", problem);
  }
  if (result.failure !== undefined && result.state !== RunState.FAILED) {
    const problem = "is allowed with the state FAILED only";
    throw refusal(Reason.INVALID_FIELD, "finish.result.failure", problem);
  }
  if (length > maxBytes) {
    const problem = `has ${length} bytes, the limit is ${maxBytes}`;
    throw refusal(Reason.TOO_LARGE, "finish.result", problem, maxBytes);
  }
}

function refusal(reason: Reason, field: string, problem: string, limit = 0): RunlogError {
  const detail = create(ErrorDetailSchema, { reason, field, limit: BigInt(limit) });
  return new RunlogError(`${field}: ${problem}`, undefined, detail);
}
