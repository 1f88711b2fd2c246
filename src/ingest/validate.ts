/**
 * Checks what producers send before it gets near the journal; what is checked of
 * every message, whoever sends it, is in `src/validate.ts`. `field` names
 * the place of the value in the request, as a path, and goes into the refusal.
 *
 * Each function throws RefusedError with the field, what is wrong, and the limit.
 */
import { toBinary } from "@bufbuild/protobuf";
import {
  type RunResult,
  RunResultSchema,
  type RunSpec,
  RunState,
} from "../../gen/runlog/v1/run_pb.js";
import {
  type Limits,
  maxContentTypeBytes,
  maxKeyBytes,
  maxLabelValueBytes,
  maxLeaseMs,
  maxProducerIdBytes,
  maxSpecStringBytes,
  maxSuppressed,
  minLeaseMs,
} from "../limits.ts";
import { invalidField, RefusedError } from "../refusal.ts";
import { checkLength, checkPlace, checkRunId, checkVisible } from "../validate.ts";
import type { Attempt } from "./operation.ts";

/**
 * Checks how a producer names itself; undefined where it does not.
 *
 * @param path of the message that holds both fields, with its dot
 */
export function checkAttempt(
  path: string,
  { producerId, attempt }: { readonly producerId: string; readonly attempt: bigint },
): Attempt | undefined {
  if (producerId === "") return undefined;
  checkLength(`${path}producer_id`, producerId, maxProducerIdBytes);
  checkVisible(`${path}producer_id`, producerId);
  return { producerId, number: checkPlace(`${path}attempt`, attempt) };
}

/** Checks a map of texts: its size, its keys and its values. */
export function checkPairs(
  field: string,
  pairs: Readonly<Record<string, string>>,
  maxPairs: number,
  maxValueBytes: number,
): void {
  let count = 0;
  for (const key in pairs) {
    if (++count > maxPairs) throw invalidField(field, `has more than ${maxPairs} pairs`, maxPairs);
    if (key === "") throw invalidField(field, "has an empty key");
    checkLength(`${field} (a key)`, key, maxKeyBytes);
    checkLength(`${field}[${JSON.stringify(key)}]`, pairs[key] ?? "", maxValueBytes);
  }
}

/** Checks what a caller says of a new run. */
export function checkSpec(
  field: string,
  spec: RunSpec,
  { maxLabels }: Pick<Limits, "maxLabels">,
): void {
  if (spec.parentRunId !== "") checkRunId(`${field}.parent_run_id`, spec.parentRunId);
  checkLength(`${field}.conversation_id`, spec.conversationId, maxSpecStringBytes);
  checkLength(`${field}.agent_id`, spec.agentId, maxSpecStringBytes);
  checkLength(`${field}.agent_version`, spec.agentVersion, maxSpecStringBytes);
  checkLength(`${field}.display_name`, spec.displayName, maxSpecStringBytes);
  checkPairs(`${field}.labels`, spec.labels, maxLabels, maxLabelValueBytes);
  if (spec.lease !== undefined) {
    const leaseMs = Number(spec.lease.seconds) * 1000 + spec.lease.nanos / 1e6;
    if (!(leaseMs >= minLeaseMs && leaseMs <= maxLeaseMs)) {
      throw invalidField(`${field}.lease`, `must be from ${minLeaseMs} ms to ${maxLeaseMs} ms`);
    }
  }
}

/** Checks a producer's result. */
export function checkResult(
  field: string,
  result: RunResult | undefined,
  maxBytes: number,
): RunResult {
  if (result === undefined) throw invalidField(field, "is missing");
  switch (result.state) {
    case RunState.SUCCEEDED:
    case RunState.CANCELLED:
      if (result.failure !== undefined) {
        throw invalidField(`${field}.failure`, "is allowed with the state FAILED only");
      }
      break;
    case RunState.FAILED:
      break;
    default:
      throw invalidField(`${field}.state`, "must be SUCCEEDED, FAILED or CANCELLED");
  }
  if (result.suppressed.length > maxSuppressed) {
    throw invalidField(
      `${field}.suppressed`,
      `has more than ${maxSuppressed} failures`,
      maxSuppressed,
    );
  }
  checkLength(`${field}.output_content_type`, result.outputContentType, maxContentTypeBytes);
  const bytes = toBinary(RunResultSchema, result).length;
  if (bytes > maxBytes) throw new RefusedError({ reason: "too_large", field, limit: maxBytes });
  return result;
}
