/**
 * AppendEvents: one window of events for one run, for callers without a
 * bidirectional stream. The same operations as on an Ingest stream, one call at
 * a time; the epoch travels with the caller instead of living on the stream.
 */
import type { AppendEventsRequest } from "../../gen/runlog/v1/ingest_pb.js";
import type { Limits } from "../limits.ts";
import { type MemoryBudget, retryAfterMs } from "../memory-budget.ts";
import type { Usage } from "../quotas.ts";
import { invalidField, RefusedError } from "../refusal.ts";
import type { Within } from "../subtree.ts";
import {
  checkAttempt,
  checkNamespace,
  checkPlace,
  checkResult,
  checkRunId,
  checkSpec,
  checkWait,
} from "../validate.ts";
import type { Committer } from "./committer.ts";
import { checkEvents } from "./event-bytes.ts";
import { bytesOf, type Operation, Producer, type SignalStanding } from "./operation.ts";
import { checkHandled } from "./parse-frames.ts";

/** A window whose events are still encoded. */
export type AppendEventsBytes = Omit<AppendEventsRequest, "$typeName" | "events"> & {
  readonly events: readonly Uint8Array[];
};

/** What windows are taken with. */
export interface WindowOptions {
  readonly committer: Committer;
  readonly memory: Pick<MemoryBudget, "appends">;
  readonly limits: Limits;
  /** What the caller's identity uses. Default: nobody counts. */
  readonly usage?: Usage | undefined;
}

/** What became of a window; everything in it is durable. */
export interface AppendedWindow {
  readonly epoch: number;
  readonly lastRunSeq: number;
  /** seq of the event with lastRunSeq; 0 while there is none. */
  readonly seq: number;
  readonly handledSignalSeq: number;
  readonly lastSignalSeq: number;
  /** Whether somebody asked for the run to stop. */
  readonly cancelRequested: boolean;
}

/**
 * Opens the run where the request says so, appends the window, and finishes the
 * run or lets it wait where the request says so.
 *
 * @param signal aborts once the caller has left: the run is then not opened for it
 * @param within where the caller may write
 * @throws RefusedError with the first refusal; what came before it is durable
 */
export async function appendWindow(
  { committer, memory, limits, usage }: WindowOptions,
  request: AppendEventsBytes,
  signal: AbortSignal,
  within?: Within,
): Promise<AppendedWindow> {
  const namespace = checkNamespace("namespace", request.namespace);
  const { runId } = request;
  checkRunId("run_id", runId);
  const given = checkPlace("epoch", request.epoch);
  const spec = given === 0 ? request.create : undefined;
  if (spec !== undefined) checkSpec("create", spec, limits);
  const { events, bytes } = checkEvents("events", request.events, limits);
  const firstRunSeq = checkPlace("first_run_seq", request.firstRunSeq);
  if (events.length > 0 && firstRunSeq === 0)
    throw invalidField("first_run_seq", "must be 1 or more");
  if (events.length === 0 && firstRunSeq !== 0) {
    throw invalidField("first_run_seq", "must be 0 if there are no events");
  }
  const result =
    request.finish === undefined
      ? undefined
      : checkResult("finish", request.finish, limits.maxEventBytes);

  const wait =
    request.wait === undefined ? undefined : checkWait("wait", request.wait, limits.maxEventBytes);
  if (wait !== undefined && result !== undefined)
    throw invalidField("wait", "is not allowed with finish");
  const handled = checkHandled("handled_signal_seq", request.handledSignalSeq);

  const producer = new Producer(runId);
  producer.attempt = checkAttempt("", request);
  const on = { namespace, runId, producer };
  // An epoch from an earlier answer is checked by whatever follows.
  producer.epoch = given === 0 ? undefined : given;
  // Submitted together, they go into one commit; what comes after a refusal is discarded.
  const operations: Operation[] = [
    given === 0
      ? { kind: "open", ...on, within, spec, creation: spec && usage?.creation() }
      : { kind: "check", ...on, within, mustRun: false },
  ];
  const { requireSignalsHandled } = request;
  const behind = { lastRunSeq: undefined, handled, requireSignalsHandled };
  const isPause = result !== undefined || wait !== undefined;
  // With the events, if there are any: they are what answers the signals.
  if (events.length > 0 || (handled !== undefined && !isPause)) {
    operations.push({ kind: "append", ...on, firstRunSeq, events, bytes, handled });
  }
  if (result !== undefined) operations.push({ kind: "finish", ...on, ...behind, result });
  if (wait !== undefined) operations.push({ kind: "wait", ...on, ...behind, wait });
  const memoryBytes = operations.reduce((sum, operation) => sum + bytesOf(operation), 0);
  if (!memory.appends.tryTake(memoryBytes)) {
    throw new RefusedError({ reason: "overloaded", what: "windows", retryAfterMs });
  }
  try {
    await usage?.admitWindow(bytes, limits.maxPendingBytesPerStream, signal);
    const window = {
      epoch: given,
      lastRunSeq: 0,
      seq: 0,
      handledSignalSeq: 0,
      lastSignalSeq: 0,
      cancelRequested: false,
    };
    const note = ({ handledSignalSeq, lastSignalSeq }: SignalStanding) => {
      window.handledSignalSeq = handledSignalSeq;
      window.lastSignalSeq = lastSignalSeq;
    };
    const submitted = operations.map((one) => committer.submit(one, signal));
    for (const outcome of await Promise.all(submitted)) {
      if (outcome.t === "refused") throw new RefusedError(outcome.refusal);
      if (outcome.t === "opened") {
        window.epoch = outcome.epoch;
        window.lastRunSeq = outcome.lastRunSeq;
        window.seq = outcome.lastEventSeq;
        window.cancelRequested = outcome.cancelReason !== undefined;
        note(outcome.signals);
      } else if (outcome.t === "durable") {
        window.lastRunSeq = outcome.last.runSeq;
        window.seq = outcome.last.seq;
        note(outcome.signals);
      } else if (outcome.t === "signals_pending") {
        const { lastSignalSeq } = outcome.signals;
        throw new RefusedError({ reason: "signals_pending", runId, lastSignalSeq });
      } else if (outcome.t === "ended" || outcome.t === "waiting") {
        window.handledSignalSeq = outcome.run.handled_signal_seq;
        window.lastSignalSeq = outcome.run.last_signal_seq;
      }
    }
    return window;
  } finally {
    memory.appends.give(memoryBytes);
    committer.release(namespace, producer);
  }
}
