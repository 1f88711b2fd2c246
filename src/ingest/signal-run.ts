/** SignalRun: input to a run that is under way, from anybody. */
import { createHash } from "node:crypto";
import { create, fromBinary, toBinary } from "@bufbuild/protobuf";
import { v7 as uuidv7 } from "uuid";
import { EventSchema } from "../../gen/runlog/v1/event_pb.js";
import type { SignalRunRequest } from "../../gen/runlog/v1/run_pb.js";
import type { Limits } from "../limits.ts";
import { type MemoryBudget, retryAfterMs } from "../memory-budget.ts";
import { invalidField, isUnavailable, RefusedError } from "../refusal.ts";
import type { Within } from "../subtree.ts";
import { checkNamespace, checkRunId, checkSignalId } from "../validate.ts";
import type { Committer } from "./committer.ts";
import { checkEventBytes } from "./event-bytes.ts";
import { bytesOf, type SignalOperation } from "./operation.ts";

/** What signals are taken with. */
export interface SignalOptions {
  readonly committer: Committer;
  readonly memory: Pick<MemoryBudget, "appends">;
  readonly limits: Limits;
}

/** A signal that is durable. */
export interface SentSignal {
  readonly seq: number;
  readonly signalSeq: number;
  readonly signalId: string;
}

/**
 * Sends a signal to a run.
 *
 * @param sender as the server knows the caller; empty where it does not
 * @param within where the caller may send signals
 * @throws RefusedError with why it was refused; journal_unavailable where it may be
 *   durable all the same, and may be sent again under the same id
 */
export async function signalRun(
  { committer, memory, limits }: SignalOptions,
  request: SignalRunRequest,
  sender: string,
  within?: Within,
): Promise<SentSignal> {
  const operation = { ...toOperation(request, sender, limits), within };
  const { namespace, runId, signalId } = operation;
  const bytes = bytesOf(operation);
  if (!memory.appends.tryTake(bytes)) {
    throw new RefusedError({ reason: "overloaded", what: "signals", retryAfterMs });
  }
  try {
    const outcome = await committer.submit(operation);
    if (outcome.t === "refused") throw new RefusedError(outcome.refusal);
    if (outcome.t !== "signalled") throw new Error(`a signal was answered ${outcome.t}`);
    return { seq: outcome.seq, signalSeq: outcome.signalSeq, signalId };
  } catch (error) {
    // It may be durable without a notification: the holder of the run looks.
    if (isUnavailable(error)) committer.holderOf(namespace, runId)?.signalled();
    throw error;
  } finally {
    memory.appends.give(bytes);
  }
}

function toOperation(
  { namespace, runId, signalId, event }: SignalRunRequest,
  sender: string,
  { maxEventBytes }: Limits,
): SignalOperation {
  checkRunId("run_id", runId);
  if (signalId !== "") checkSignalId("signal_id", signalId);
  if (event === undefined) throw invalidField("event", "is missing");
  const checked = checkEventBytes("event", toBinary(EventSchema, event), maxEventBytes);
  return {
    kind: "signal",
    namespace: checkNamespace("namespace", namespace),
    runId,
    signalId: signalId === "" ? uuidv7() : signalId,
    event: checked,
    digest: digestOf(checked.bytes),
    sender,
  };
}

/** Of what makes an event the same when it is sent again: not its time, nor the order of its attributes. */
function digestOf(bytes: Uint8Array): Uint8Array {
  const { type, data, contentType, attributes } = fromBinary(EventSchema, bytes);
  const sorted = Object.entries(attributes).toSorted(([a], [b]) => (a < b ? -1 : 1));
  const canonical = create(EventSchema, {
    type,
    data,
    contentType,
    attributes: Object.fromEntries(sorted),
  });
  return createHash("sha256").update(toBinary(EventSchema, canonical)).digest();
}
