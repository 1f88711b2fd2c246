/**
 * Checks what producers send before it gets near the journal. `field` names
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
import { invalidField, RefusedError } from "../journal/refusal.ts";
import {
  type Limits,
  maxContentTypeBytes,
  maxKeyBytes,
  maxLabelValueBytes,
  maxLeaseMs,
  maxNamespaceBytes,
  maxProducerIdBytes,
  maxRunIdBytes,
  maxSpecStringBytes,
  maxSuppressed,
  minLeaseMs,
} from "../limits.ts";
import type { Attempt } from "./operation.ts";

/** Bytes of a string in UTF-8, without encoding the usual short one. */
function exceeds(text: string, limit: number): boolean {
  // A UTF-16 unit takes one to three bytes of UTF-8.
  if (text.length > limit) return true;
  return text.length * 3 > limit && Buffer.byteLength(text, "utf8") > limit;
}

/** Checks the length of a text in UTF-8. */
export function checkLength(field: string, text: string, limit: number): void {
  if (exceeds(text, limit)) throw invalidField(field, `is longer than ${limit} bytes`, limit);
}

/** Returns the namespace's name; empty means "default". */
export function checkNamespace(field: string, name: string): string {
  if (name === "") return "default";
  checkLength(field, name, maxNamespaceBytes);
  if (!/^[A-Za-z0-9][A-Za-z0-9._-]*$/.test(name)) {
    throw invalidField(field, "takes letters, digits, '.', '_' and '-', a letter or digit first");
  }
  return name;
}

/** Checks a run id: 1 to 128 visible ASCII characters. */
export function checkRunId(field: string, runId: string): void {
  if (runId === "") throw invalidField(field, "is missing");
  checkLength(field, runId, maxRunIdBytes);
  checkVisible(field, runId);
}

function checkVisible(field: string, text: string): void {
  if (!/^[\x21-\x7e]+$/.test(text)) {
    throw invalidField(field, "takes visible ASCII characters without spaces");
  }
}

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

/** Turns a uint64 that names a place into a number; places stay below 2^53. */
export function checkPlace(field: string, value: bigint): number {
  if (value > BigInt(Number.MAX_SAFE_INTEGER)) throw invalidField(field, "is beyond 2^53 - 1");
  return Number(value);
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
      throw invalidField(`${field}.lease`, `is from ${minLeaseMs} ms to ${maxLeaseMs} ms`);
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
        throw invalidField(`${field}.failure`, "goes with the state FAILED only");
      }
      break;
    case RunState.FAILED:
      break;
    default:
      throw invalidField(`${field}.state`, "is SUCCEEDED, FAILED or CANCELLED");
  }
  if (result.suppressed.length > maxSuppressed) {
    throw invalidField(`${field}.suppressed`, `takes at most ${maxSuppressed}`, maxSuppressed);
  }
  checkLength(`${field}.output_content_type`, result.outputContentType, maxContentTypeBytes);
  const bytes = toBinary(RunResultSchema, result).length;
  if (bytes > maxBytes) throw new RefusedError({ reason: "too_large", field, limit: maxBytes });
  return result;
}
