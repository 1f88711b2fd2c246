/**
 * What the journal does with a producer's request: pure functions over plain
 * values, so that ordering, fencing and finishing can be tested against a
 * model. One transaction (commit.ts) applies what they decide.
 */
import { RunState } from "../../gen/runlog/v1/run_pb.js";
import { isLeasedState, isOpenState } from "../journal/run-conditions.ts";
import type { Refusal } from "../refusal.ts";
import type { Attempt } from "../validate.ts";
import type { HandledSignals } from "./operation.ts";

/** The part of a run's state that decisions need. */
export interface RunStanding {
  readonly runId: string;
  readonly state: RunState;
  readonly epoch: number;
  /** The node that has its producer, or its lease. */
  readonly nodeKey: number;
  /** The run's last event; 0 while there is none. */
  readonly lastRunSeq: number;
  /** The producer that opened it last; null where it gave no id. */
  readonly producerId: string | null;
  /** In which of its attempts; null where producerId is. */
  readonly producerAttempt: number | null;
  /** Its last signal, and the last one that is handled; 0 while there is none. */
  readonly lastSignalSeq: number;
  readonly handledSignalSeq: number;
  /** Why it was asked to stop; null while nobody did. */
  readonly cancelReason: string | null;
  /** Whether it waits, or has ended while it did. */
  readonly hasWait: boolean;
}

/** What a producer claims that asks for something on a run. */
export interface Claim {
  /** The epoch that its open was answered with. */
  readonly epoch: number;
  /** How it named itself when it opened the run. */
  readonly producerId: string | undefined;
}

/** A refusal as a decision. */
export interface Refused {
  readonly t: "refused";
  readonly refusal: Refusal;
  /** Where the run ended since somebody asked it to stop: why. */
  readonly cancelReason?: string;
}

function refused(refusal: Refusal): Refused {
  return { t: "refused", refusal };
}

/** What becomes of an open. */
export type OpenDecision =
  | { readonly t: "create" }
  | {
      readonly t: "take";
      readonly resumed: boolean;
      /** It has the run already, by the same attempt: nobody is fenced, the epoch stays. */
      readonly repeated: boolean;
    }
  | Refused;

/**
 * Decides an open. An ended run can be opened: that is how a producer which
 * missed its RunEnded asks again.
 *
 * Of one producer the newest attempt wins, in whatever order they arrive: one
 * that was given up may be decided long after the producer has opened the run
 * elsewhere, and must not take it from there.
 *
 * @param spec whether the request carries a spec, and whether it is the run's
 * @param attempt undefined where the producer does not name itself
 */
export function decideOpen(
  runId: string,
  run: RunStanding | undefined,
  spec: "absent" | "equal" | "different",
  attempt: Attempt | undefined,
): OpenDecision {
  if (run === undefined) {
    return spec === "absent" ? refused({ reason: "run_not_found", runId }) : { t: "create" };
  }
  if (spec === "different") return refused({ reason: "run_exists", runId });
  const before = attempt?.producerId === run.producerId ? (run.producerAttempt ?? 0) : undefined;
  if (attempt !== undefined && before !== undefined && attempt.number < before) {
    return refused({ reason: "superseded", epoch: run.epoch });
  }
  const repeated = attempt !== undefined && attempt.number === before;
  return { t: "take", resumed: run.state === RunState.LOST, repeated };
}

/** Decides whether a producer still holds a run; undefined means that it does. */
export function decideCheck(run: RunStanding, { epoch, producerId }: Claim): Refused | undefined {
  if (epoch === run.epoch) return undefined;
  const reason = takenBy(producerId, run.producerId);
  return refused({ reason, epoch: run.epoch });
}

/**
 * Decides whether a producer still holds a run that nobody else has ended;
 * undefined means that it does.
 */
export function decideHold(run: RunStanding, claim: Claim): Refused | undefined {
  return decideCheck(run, claim) ?? refusedIfEndedByOthers(run);
}

function refusedIfEndedByOthers(run: RunStanding): Refused | undefined {
  const { state, runId, hasWait, cancelReason } = run;
  if (state === RunState.LOST) return refused({ reason: "run_lost", runId });
  if (state !== RunState.CANCELLED || !hasWait) return undefined;
  return { ...refused({ reason: "run_finished", runId }), cancelReason: cancelReason ?? "" };
}

/**
 * Why a producer has lost its run to another hold on it.
 *
 * @param before as the producer named itself
 * @param now as the one named itself that has the run
 */
export function takenBy(
  before: string | undefined,
  now: string | null | undefined,
): "fenced" | "superseded" {
  return before !== undefined && before === now ? "superseded" : "fenced";
}

/** Refuses a run that takes nothing more, or not before it is opened again. */
function refusedUnlessOpen({ state, runId }: RunStanding): Refused | undefined {
  if (isOpenState(state)) return undefined;
  return refused({ reason: state === RunState.LOST ? "run_lost" : "run_finished", runId });
}

/** What becomes of a report that signals are handled: the position to which it moves the run's. */
export type HandledDecision = { readonly t: "handled"; readonly signalSeq: number } | Refused;

/** Decides a report that signals are handled. The position never goes back. */
export function decideHandled(
  run: RunStanding,
  handled: HandledSignals | undefined,
): HandledDecision {
  const { lastSignalSeq, handledSignalSeq } = run;
  if (handled === undefined || handled.signalSeq <= handledSignalSeq) {
    return { t: "handled", signalSeq: handledSignalSeq };
  }
  const { signalSeq, field } = handled;
  if (signalSeq > lastSignalSeq) {
    const problem = `the run's last signal is ${lastSignalSeq}, not ${signalSeq}`;
    return refused({ reason: "invalid_field", field, problem });
  }
  return refusedUnlessOpen(run) ?? { t: "handled", signalSeq };
}

/** What becomes of an append: `skip` events are durable already. */
export type AppendDecision =
  | { readonly t: "append"; readonly skip: number }
  | { readonly t: "duplicate" }
  | Refused;

/**
 * Decides an append of `count` events from `firstRunSeq` on. The caller still
 * compares skipped events with the durable bytes.
 */
export function decideAppend(
  run: RunStanding,
  claim: Claim,
  firstRunSeq: number,
  count: number,
): AppendDecision {
  const fenced = decideCheck(run, claim);
  if (fenced !== undefined) return fenced;
  const expectedRunSeq = run.lastRunSeq + 1;
  if (firstRunSeq > expectedRunSeq) {
    return refused({ reason: "seq_gap", expectedRunSeq, gotRunSeq: firstRunSeq });
  }
  const skip = expectedRunSeq - firstRunSeq;
  if (skip >= count) return { t: "duplicate" };
  return refusedUnlessOpen(run) ?? { t: "append", skip };
}

/** What becomes of a finish; `repeat` answers as the first one was answered. */
export type FinishDecision = { readonly t: "finish" } | { readonly t: "repeat" } | Refused;

/**
 * Decides a finish.
 *
 * @param sameResult whether the run has ended with an equal result
 */
export function decideFinish(
  run: RunStanding,
  claim: Claim,
  lastRunSeq: number,
  sameResult: boolean,
): FinishDecision {
  const fenced = decideCheck(run, claim);
  if (fenced !== undefined) return fenced;
  if (sameResult && lastRunSeq === run.lastRunSeq) return { t: "repeat" };
  return refusedUnlessOpen(run) ?? refusedUnlessLast(run, "finish", lastRunSeq) ?? { t: "finish" };
}

/** What becomes of a wait; `repeat` answers as the first one was answered. */
export type WaitDecision = { readonly t: "wait" | "cancel" | "repeat" } | Refused;

/**
 * Decides a wait. A run that was asked to stop ends instead.
 *
 * @param sameWait whether the run waits for the same, or ended while it did
 */
export function decideWait(
  run: RunStanding,
  claim: Claim,
  lastRunSeq: number,
  sameWait: boolean,
): WaitDecision {
  const fenced = decideCheck(run, claim);
  if (fenced !== undefined) return fenced;
  const isOver = run.state === RunState.WAITING || run.state === RunState.CANCELLED;
  if (sameWait && isOver && lastRunSeq === run.lastRunSeq) return { t: "repeat" };
  const refusal = refusedUnlessOpen(run) ?? refusedUnlessLast(run, "wait", lastRunSeq);
  return refusal ?? { t: run.cancelReason === null ? "wait" : "cancel" };
}

/** Refuses what does not stand behind the run's last event. */
function refusedUnlessLast(
  run: RunStanding,
  frame: "finish" | "wait",
  lastRunSeq: number,
): Refused | undefined {
  if (lastRunSeq > run.lastRunSeq) {
    return refused({
      reason: "seq_gap",
      expectedRunSeq: run.lastRunSeq + 1,
      gotRunSeq: lastRunSeq,
    });
  }
  if (lastRunSeq < run.lastRunSeq) {
    return refused({
      reason: "invalid_field",
      field: `${frame}.last_run_seq`,
      problem: `the run's last event is ${run.lastRunSeq}, not ${lastRunSeq}`,
    });
  }
  return undefined;
}

/** What becomes of a signal whose id is new to the run. */
export type SignalDecision = { readonly t: "signal" } | Refused;

/**
 * Decides a signal whose id is new to the run.
 *
 * @param refuses whether the run's spec says that it takes none
 * @param maxPending signals that may await handling
 */
export function decideSignal(
  { runId, state, lastSignalSeq, handledSignalSeq }: RunStanding,
  refuses: boolean,
  maxPending: number,
): SignalDecision {
  if (!isOpenState(state) && state !== RunState.LOST) {
    return refused({ reason: "run_finished", runId });
  }
  if (refuses) return refused({ reason: "signals_refused", runId });
  return lastSignalSeq - handledSignalSeq < maxPending
    ? { t: "signal" }
    : refused({
        reason: "quota",
        what: "signals of one run that await handling: its producer has to go on first",
        limit: maxPending,
      });
}

/**
 * Decides whether a run whose lease has run out is lost.
 *
 * @param epoch the run's when the lease began: whoever opened it since has one of its own
 * @param nodeKey the node that had the lease: the run may have a producer at another one by now
 */
export function decideLose(run: RunStanding, epoch: number, nodeKey: number): boolean {
  return isLookedAfter(run, nodeKey) && run.epoch === epoch;
}

/** Whether a run is one of those that a node has the producer or the lease of. */
export function isLookedAfter({ state, nodeKey: own }: RunStanding, nodeKey: number): boolean {
  return isLeasedState(state) && own === nodeKey;
}
