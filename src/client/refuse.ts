/** What every server refuses is refused here, at once, by the same rules and with the same data. */
import { create } from "@bufbuild/protobuf";
import { ErrorDetailSchema, Reason } from "../../gen/runlog/v1/error_pb.js";
import { RunResultSchema, WaitSchema } from "../../gen/runlog/v1/run_pb.js";
import { RefusedError } from "../refusal.ts";
import { checkMessage, checkResult, checkRunId, checkWait } from "../validate.ts";
import { RunlogError } from "./errors.ts";
import type { ResultInit, WaitInit } from "./sender-types.ts";

/** Throws RunlogError where nothing can be called that. */
export function refuseInvalidRunId(runId: string): void {
  refusing(() => checkRunId("run_id", runId));
}

/**
 * Throws RunlogError where no run can end so.
 *
 * @param maxBytes of the encoded result
 * @throws what protobuf-es throws where the result is no valid message
 */
export function refuseInvalidResult(init: ResultInit, maxBytes: number): void {
  const result = create(RunResultSchema, init);
  refusing(() => {
    checkMessage("finish.result", RunResultSchema, result);
    checkResult("finish.result", result, maxBytes);
  });
}

/**
 * Throws RunlogError where no run can wait for this.
 *
 * @param maxBytes of the encoded wait
 * @throws what protobuf-es throws where it is no valid message
 */
export function refuseInvalidWait(init: WaitInit, maxBytes: number): void {
  const wait = create(WaitSchema, init);
  refusing(() => {
    checkMessage("wait.wait", WaitSchema, wait);
    checkWait("wait.wait", wait, maxBytes);
  });
}

function refusing(check: () => void): void {
  try {
    check();
  } catch (error) {
    throw error instanceof RefusedError ? toRunlogError(error) : error;
  }
}

function toRunlogError({ message, refusal }: RefusedError): RunlogError {
  // These rules know two reasons.
  if (refusal.reason !== "invalid_field" && refusal.reason !== "too_large") {
    throw new Error(`no rule refuses with ${refusal.reason}`);
  }
  const detail = create(ErrorDetailSchema, {
    reason: refusal.reason === "too_large" ? Reason.TOO_LARGE : Reason.INVALID_FIELD,
    field: refusal.field,
    limit: BigInt(refusal.limit ?? 0),
  });
  return new RunlogError(message, undefined, detail);
}
