import { create, equals, fromBinary, toBinary } from "@bufbuild/protobuf";
import { RunResultSchema, RunState, WaitSchema } from "../../gen/runlog/v1/run_pb.js";
import { isOpenState } from "../journal/run-conditions.ts";
import type { Db } from "../journal/schema.ts";
import { isDataLoss, type Refusal } from "../refusal.ts";
import { firstConflict } from "./conflict.ts";
import { type Claim, decideAppend, decideFinish, decideHandled, decideWait } from "./decide.ts";
import type { AppendOperation, FinishOperation, Outcome, WaitOperation } from "./operation.ts";
import type { RecordBuilder } from "./record-builder.ts";
import type { RunFacts } from "./run-facts.ts";
import {
  leaseMsOf,
  lookAfter,
  type StagedRun,
  signalStanding,
  specOfRun,
  standing,
  viewOf,
} from "./staged-run.ts";

/** What frames are decided with. */
export interface ProducerFramesOptions {
  /** The database, to tell a new run from a deleted one of the same id. */
  readonly tx: Db;
  readonly builder: RecordBuilder;
  readonly facts: RunFacts;
  readonly nodeKey: number;
  /** Milliseconds; the lease of a run whose spec has none. */
  readonly defaultLeaseMs: number;
}

/** How a run ends that was asked to stop and waits. */
export const cancelled = create(RunResultSchema, { state: RunState.CANCELLED });

/** What producers send for runs that they hold, decided one after the other. */
export class ProducerFrames {
  /** Bytes of the events that were added. */
  eventBytes = 0;
  readonly #tx: Db;
  readonly #builder: RecordBuilder;
  readonly #facts: RunFacts;
  readonly #nodeKey: number;
  readonly #defaultLeaseMs: number;

  constructor({ tx, builder, facts, nodeKey, defaultLeaseMs }: ProducerFramesOptions) {
    this.#tx = tx;
    this.#builder = builder;
    this.#facts = facts;
    this.#nodeKey = nodeKey;
    this.#defaultLeaseMs = defaultLeaseMs;
  }

  /**
   * Appends events.
   *
   * @returns the outcome, whose place gets its seq when the records are sealed; a
   *   promise only where something has to be read
   */
  append(operation: AppendOperation, staged: StagedRun, claim: Claim): Outcome | Promise<Outcome> {
    const { firstRunSeq, events } = operation;
    const run = standing(staged);
    const decision = decideAppend(run, claim, firstRunSeq, events.length);
    const handled = decideHandled(run, operation.handled);
    if (decision.t === "refused") return decision;
    if (handled.t === "refused") return handled;
    lookAfter(staged, this.#nodeKey);
    const skip = decision.t === "duplicate" ? events.length : decision.skip;
    return skip > 0
      ? this.#appendBehind(operation, staged, skip, handled.signalSeq)
      : this.#add(operation, staged, 0, handled.signalSeq);
  }

  /** Adds events of which the first ones are sent again. */
  async #appendBehind(
    operation: AppendOperation,
    staged: StagedRun,
    skip: number,
    handledSignalSeq: number,
  ): Promise<Outcome> {
    const { firstRunSeq } = operation;
    const refusal = await this.#refusalOfRepeated(operation, staged, firstRunSeq, skip);
    return refusal === undefined
      ? this.#add(operation, staged, skip, handledSignalSeq)
      : { t: "refused", refusal };
  }

  /** Why the first `skip` events are not those that are durable, if they are not. */
  async #refusalOfRepeated(
    { events }: AppendOperation,
    staged: StagedRun,
    firstRunSeq: number,
    skip: number,
  ): Promise<Refusal | undefined> {
    try {
      const runSeq = await firstConflict(this.#tx, staged, firstRunSeq, events.slice(0, skip));
      if (runSeq === undefined) return undefined;
      return { reason: "conflict", runSeq, expectedRunSeq: staged.row.last_run_seq + 1 };
    } catch (error) {
      // One run's damage is not the other operations'.
      if (isDataLoss(error)) return error.refusal;
      throw error;
    }
  }

  #add(
    { events }: AppendOperation,
    staged: StagedRun,
    skip: number,
    handledSignalSeq: number,
  ): Outcome {
    const goesOn = skip < events.length && staged.row.state === RunState.WAITING;
    if (goesOn) this.#facts.resumed(staged);
    const hasMoved = moveHandled(staged, handledSignalSeq);
    for (let i = skip; i < events.length; i++) {
      const event = events[i]!;
      this.eventBytes += event.bytes.length;
      const isLast = i === events.length - 1;
      this.#builder.addEvent(staged, event, isLast && hasMoved ? handledSignalSeq : undefined);
    }
    const signals = signalStanding(staged);
    const leaseMs = goesOn ? leaseMsOf(specOfRun(staged), this.#defaultLeaseMs) : undefined;
    return { t: "durable", last: this.#builder.placeOfLast(staged), signals, leaseMs };
  }

  /** Finishes a run. */
  finish(operation: FinishOperation, staged: StagedRun, claim: Claim): Outcome {
    const { row } = staged;
    const { result, lastRunSeq = row.last_run_seq } = operation;
    const isSame =
      row.result !== null &&
      equals(RunResultSchema, fromBinary(RunResultSchema, row.result), result);
    const decision = decideFinish(standing(staged), claim, lastRunSeq, isSame);
    if (decision.t === "refused") return decision;
    if (decision.t === "finish") {
      const held = this.#handle(operation, staged);
      if (held !== undefined) return held;
      this.#facts.ended(staged, result);
    }
    return { t: "ended", run: viewOf(staged) };
  }

  /** Lets a run wait. */
  wait(operation: WaitOperation, staged: StagedRun, claim: Claim): Outcome {
    const { row } = staged;
    const { wait, lastRunSeq = row.last_run_seq } = operation;
    const isSame =
      row.waiting !== null && equals(WaitSchema, fromBinary(WaitSchema, row.waiting), wait);
    const decision = decideWait(standing(staged), claim, lastRunSeq, isSame);
    if (decision.t === "refused") return decision;
    // Asked again, too: what it was asked for first may be handled by now, or a signal have come.
    if (isOpenState(row.state)) {
      const held = this.#handle(operation, staged);
      if (held !== undefined) return held;
    }
    lookAfter(staged, this.#nodeKey);
    if (decision.t === "wait") this.#facts.waits(staged, wait);
    if (decision.t === "cancel") {
      this.#facts.ended(staged, cancelled, toBinary(WaitSchema, wait));
    }
    return { t: row.state === RunState.WAITING ? "waiting" : "ended", run: viewOf(staged) };
  }

  /** Moves the run's position in its signals; what keeps it from ending or waiting, if anything does. */
  #handle(operation: FinishOperation | WaitOperation, staged: StagedRun): Outcome | undefined {
    const handled = decideHandled(standing(staged), operation.handled);
    if (handled.t === "refused") return handled;
    moveHandled(staged, handled.signalSeq);
    const signals = signalStanding(staged);
    const isPending = signals.handledSignalSeq < signals.lastSignalSeq;
    return operation.requireSignalsHandled === true && isPending
      ? { t: "signals_pending", signals }
      : undefined;
  }
}

/** Moves a run's position in its signals; whether it has moved. */
function moveHandled(staged: StagedRun, signalSeq: number): boolean {
  if (signalSeq === staged.row.handled_signal_seq) return false;
  staged.row.handled_signal_seq = signalSeq;
  staged.changed = true;
  return true;
}
