/**
 * What the journal does with a producer's request: pure functions over plain
 * values, so that ordering, fencing and finishing can be tested against a
 * model. One transaction (commit.ts) applies what they decide.
 */
import { RunState } from "../../gen/runlog/v1/run_pb.js";
import type { Refusal } from "../refusal.ts";
import type { Attempt } from "../validate.ts";

/** Where a run stands, as far as decisions need it. */
export interface RunStanding {
  readonly runId: string;
  readonly state: RunState;
  readonly epoch: number;
  /** The node that has its producer, or its lease. */
  readonly nodeKey: number;
  /** The run's last event; 0 while there is none. */
  readonly lastRunSeq: number;
  /** The producer that opened it last; null where that did not name itself. */
  readonly producerId: string | null;
  /** In which of its attempts; null where producerId is. */
  readonly producerAttempt: number | null;
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

/** Decides whether a producer still holds a run that was not lost; undefined means that it does. */
export function decideHold(run: RunStanding, claim: Claim): Refused | undefined {
  const { state, runId } = run;
  const lost = state === RunState.LOST ? refused({ reason: "run_lost", runId }) : undefined;
  return decideCheck(run, claim) ?? lost;
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
function refusedUnlessRunning({ state, runId }: RunStanding): Refused | undefined {
  switch (state) {
    case RunState.RUNNING:
      return undefined;
    case RunState.LOST:
      return refused({ reason: "run_lost", runId });
    default:
      return refused({ reason: "run_finished", runId });
  }
}

/** What becomes of an append: `skip` events are durable already. */
export type AppendDecision =
  | { readonly t: "append"; readonly skip: number }
  | { readonly t: "duplicate" }
  | Refused;

/**
 * Decides an append of `count` events from `firstRunSeq` on. The caller still
 * compares what is skipped with the durable bytes.
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
  return refusedUnlessRunning(run) ?? { t: "append", skip };
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
  const ended = refusedUnlessRunning(run);
  if (ended !== undefined) return ended;
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
      field: "finish.last_run_seq",
      problem: `the run's last event is ${run.lastRunSeq}, not ${lastRunSeq}`,
    });
  }
  return { t: "finish" };
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
  return state === RunState.RUNNING && own === nodeKey;
}
