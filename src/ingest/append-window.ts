/**
 * AppendEvents: one window of events for one run, for callers without a
 * bidirectional stream. The same operations as on an Ingest stream, one call at
 * a time; the epoch travels with the caller instead of living on the stream.
 */
import type { AppendEventsRequest } from "../../gen/runlog/v1/ingest_pb.js";
import { invalidField, RefusedError } from "../journal/refusal.ts";
import type { Limits } from "../limits.ts";
import type { Committer } from "./committer.ts";
import { type Operation, type Outcome, Producer } from "./operation.ts";
import {
  checkEvents,
  checkNamespace,
  checkPlace,
  checkResult,
  checkRunId,
  checkSpec,
} from "./validate.ts";

/** What became of a window; everything in it is durable. */
export interface AppendedWindow {
  readonly epoch: number;
  readonly lastRunSeq: number;
  /** seq of the event with lastRunSeq; 0 while there is none. */
  readonly seq: number;
}

/**
 * Opens the run where the request says so, appends the window and finishes the
 * run where the request says so.
 *
 * @throws RefusedError with the first refusal; what came before it is durable
 */
export async function appendWindow(
  committer: Committer,
  limits: Limits,
  request: AppendEventsRequest,
): Promise<AppendedWindow> {
  const namespace = checkNamespace("namespace", request.namespace);
  const { runId } = request;
  checkRunId("run_id", runId);
  const given = checkPlace("epoch", request.epoch);
  const spec = given === 0 ? request.create : undefined;
  if (spec !== undefined) checkSpec("create", spec);
  const { events, bytes } = checkEvents("events", request.events, limits);
  const firstRunSeq = checkPlace("first_run_seq", request.firstRunSeq);
  if (events.length > 0 && firstRunSeq === 0) throw invalidField("first_run_seq", "is from 1 on");
  if (events.length === 0 && firstRunSeq !== 0) {
    throw invalidField("first_run_seq", "is 0 where there are no events");
  }
  const result =
    request.finish === undefined
      ? undefined
      : checkResult("finish", request.finish, limits.maxEventBytes);

  const producer = new Producer(runId);
  const on = { namespace, runId, producer };
  const submit = async (operation: Operation): Promise<Exclude<Outcome, { t: "refused" }>> => {
    const outcome = await committer.submit(operation);
    if (outcome.t === "refused") throw new RefusedError(outcome.refusal);
    return outcome;
  };
  try {
    // An epoch from an earlier answer is checked by whatever follows.
    producer.epoch = given === 0 ? undefined : given;
    let window = { epoch: given, lastRunSeq: 0, seq: 0 };
    if (given === 0 || events.length === 0) {
      const outcome = await submit(
        given === 0 ? { kind: "open", ...on, spec } : { kind: "check", ...on },
      );
      if (outcome.t === "opened") {
        window = {
          epoch: outcome.epoch,
          lastRunSeq: outcome.lastRunSeq,
          seq: outcome.lastEventSeq,
        };
      }
    }
    if (events.length > 0) {
      const outcome = await submit({ kind: "append", ...on, firstRunSeq, events, bytes });
      if (outcome.t === "durable") {
        window = { ...window, lastRunSeq: outcome.runSeq, seq: outcome.seq };
      }
    }
    if (result !== undefined) {
      await submit({ kind: "finish", ...on, lastRunSeq: window.lastRunSeq, result });
    }
    return window;
  } finally {
    committer.release(namespace, producer);
  }
}
