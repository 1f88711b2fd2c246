/**
 * What Ingest streams should do, in the simplest terms: one request at a time,
 * runs as arrays of payloads and of signals. The property compares the real thing with it.
 */
import { RunState } from "../../gen/runlog/v1/run_pb.js";
import type { Handled, ModelAnswer, ModelStep, SignalStep } from "./ingest-model-steps.ts";

/** A run: its payloads in order; run_seq is the index + 1. */
export interface ModelRun {
  readonly payloads: string[];
  /** What happened to it, in order. */
  readonly facts: string[];
  /** Its signals in order; signal_seq is the index + 1. */
  readonly signals: { readonly id: number; readonly text: string }[];
  handledSignalSeq: number;
  /** What it waits for; stays where the wait has become its end. */
  wait: { readonly code: string; readonly isBounded: boolean } | undefined;
  wasAskedToStop: boolean;
  epoch: number;
  /** Who opened it last. */
  taker: ModelAttempt | undefined;
  state: RunState;
  /** Since when it has been RUNNING without a producer; undefined while that is not so. */
  unheldSinceMs: number | undefined;
}

/** A producer's try to open a run. */
export interface ModelAttempt {
  readonly producer: number;
  readonly number: number;
}

interface Hold {
  readonly by: ModelAttempt | undefined;
  readonly receives: boolean;
  rejected: boolean;
}

type OpenStep = Extract<ModelStep, { kind: "open" }>;

/** One stream as the model sees it. */
class ModelStream {
  readonly holds = new Map<number, Hold>();
  readonly answers: ModelAnswer[] = [];
  /** The last run_seq that was acknowledged, by run. */
  readonly acked = new Map<number, number>();
  /** The last handled_signal_seq that came with it. */
  readonly ackedSignals = new Map<number, number>();
}

/** The payload that a producer sends as a run_seq. */
export function payloadOf(run: number, runSeq: number, differs: boolean): string {
  return `${run}:${runSeq}${differs ? ":other" : ""}`;
}

/** The text of a signal. */
export function signalTextOf({ run, id, differs }: SignalStep): string {
  return `${run}:signal ${id}${differs ? ":other" : ""}`;
}

function isOpen({ state }: ModelRun): boolean {
  return state === RunState.RUNNING || state === RunState.WAITING;
}

/** The model's state. */
export class IngestModel {
  readonly runs = new Map<number, ModelRun>();
  readonly streams: ModelStream[];
  readonly #leaseMs: number;
  readonly #maxPending: number;
  /** The newest attempt of each producer on each run. */
  readonly #attempts = new Map<string, number>();
  #clockMs = 0;

  /**
   * @param leaseMs how long a run may be without a producer
   * @param maxPending signals of a run that may await handling
   */
  constructor(streamCount: number, leaseMs: number, maxPending: number) {
    this.#leaseMs = leaseMs;
    this.#maxPending = maxPending;
    this.streams = Array.from({ length: streamCount }, () => new ModelStream());
  }

  /** Next run_seq of a run, from which the offsets of a step count. */
  next(run: number): number {
    return (this.runs.get(run)?.payloads.length ?? 0) + 1;
  }

  /** The signal_seq that a step reports as handled; 0 where it reports none. */
  handledOf(run: number, handled: Handled): number {
    const last = this.runs.get(run)?.signals.length ?? 0;
    return handled === undefined ? 0 : Math.max(0, last + handled);
  }

  /** Sends a signal; returns the sender's answer. */
  signal(step: SignalStep): string | number {
    const known = this.runs.get(step.run);
    if (known === undefined) return "run_not_found";
    const text = signalTextOf(step);
    const before = known.signals.findIndex(({ id }) => id === step.id);
    if (before !== -1) return known.signals[before]!.text === text ? before + 1 : "signal_conflict";
    if (!isOpen(known) && known.state !== RunState.LOST) return "run_finished";
    if (known.signals.length - known.handledSignalSeq >= this.#maxPending) return "quota";
    return known.signals.push({ id: step.id, text });
  }

  /** Somebody asks a run to stop. */
  cancel(run: number): void {
    const known = this.runs.get(run);
    if (known === undefined || !(isOpen(known) || known.state === RunState.LOST)) return;
    known.wasAskedToStop = true;
    if (known.state === RunState.WAITING) {
      this.#endWait(run, known, RunState.CANCELLED, "run_finished");
    }
  }

  /** All deadlines pass. */
  expire(): void {
    for (const [run, known] of this.runs) {
      if (known.state !== RunState.WAITING || known.wait?.isBounded !== true) continue;
      this.#endWait(run, known, RunState.LOST, "run_lost");
    }
  }

  #endWait(run: number, known: ModelRun, state: RunState, reason: string): void {
    known.state = state;
    known.facts.push("runFinished");
    for (const stream of this.streams) {
      if (stream.holds.get(run)?.rejected === false) this.#reject(stream, run, { reason });
    }
    this.#noteUnheld();
  }

  /** How the next open names itself; an attempt that another stream holds by is not sent again. */
  attemptOf({ stream, run, producer, attempt }: OpenStep): ModelAttempt | undefined {
    if (producer === undefined) return undefined;
    const newest = this.#attempts.get(`${run} ${producer}`) ?? 0;
    const number = { next: newest + 1, same: newest, older: Math.max(0, newest - 1) }[attempt];
    const isHeld = this.streams.some(({ holds }, index) => {
      const { by, rejected } = holds.get(run) ?? { by: undefined, rejected: true };
      return index !== stream && !rejected && by?.producer === producer && by.number === number;
    });
    return { producer, number: isHeld ? newest + 1 : number };
  }

  /** A stream's connection is lost; a new one takes its place. */
  drop(stream: number): void {
    this.streams[stream] = new ModelStream();
    this.#noteUnheld();
  }

  /** Time passes: leases run out. */
  pass(ms: number): void {
    this.#clockMs += ms;
    for (const known of this.runs.values()) {
      const { unheldSinceMs } = known;
      if (unheldSinceMs === undefined || this.#clockMs - unheldSinceMs < this.#leaseMs) continue;
      known.state = RunState.LOST;
      known.facts.push("runFinished");
    }
    this.#noteUnheld();
  }

  #noteUnheld(): void {
    for (const [run, known] of this.runs) {
      const isHeld = this.streams.some(({ holds }) => {
        const hold = holds.get(run);
        return hold !== undefined && !hold.rejected;
      });
      if (isHeld || known.state !== RunState.RUNNING) known.unheldSinceMs = undefined;
      else known.unheldSinceMs ??= this.#clockMs;
    }
  }

  apply(step: ModelStep): void {
    this.#apply(step);
    this.#noteUnheld();
  }

  #apply(step: ModelStep): void {
    const stream = this.streams[step.stream]!;
    if (step.kind === "open") this.#open(stream, step);
    else if (step.kind === "release") {
      stream.holds.delete(step.run);
      stream.answers.push({ t: "released", run: step.run });
    } else {
      const hold = stream.holds.get(step.run);
      if (hold === undefined) {
        stream.holds.set(step.run, { by: undefined, receives: false, rejected: false });
        this.#reject(stream, step.run, { reason: "run_not_open" });
      } else if (!hold.rejected) {
        if (step.kind === "append") this.#append(stream, step);
        else if (step.kind === "handle") this.#handleOnly(stream, step);
        else if (step.kind === "bad") this.#reject(stream, step.run, { reason: "invalid_field" });
        else if (step.kind === "wait") this.#wait(stream, step);
        else this.#finish(stream, step);
      }
    }
  }

  #open(stream: ModelStream, step: OpenStep): void {
    const { run } = step;
    const by = this.attemptOf(step);
    if (by !== undefined) {
      const key = `${run} ${by.producer}`;
      this.#attempts.set(key, Math.max(by.number, this.#attempts.get(key) ?? 0));
    }
    stream.holds.set(run, { by, receives: step.receives, rejected: false });
    let known = this.runs.get(run);
    if (known === undefined && !step.create) {
      this.#reject(stream, run, { reason: "run_not_found" });
      return;
    }
    if (known === undefined) {
      known = {
        payloads: [],
        facts: ["runStarted"],
        signals: [],
        handledSignalSeq: 0,
        wait: undefined,
        wasAskedToStop: false,
        epoch: 0,
        taker: undefined,
        state: RunState.RUNNING,
        unheldSinceMs: undefined,
      };
      this.runs.set(run, known);
    }
    const { taker } = known;
    const isSame = taker !== undefined && by?.producer === taker.producer;
    if (isSame && by.number < taker.number) {
      this.#reject(stream, run, { reason: "superseded", epoch: known.epoch });
      return;
    }
    if (!isSame || by.number > taker.number) known.epoch++;
    known.taker = by;
    if (known.state === RunState.LOST) {
      this.#resume(known);
    }
    for (const other of this.streams) {
      const hold = other.holds.get(run);
      if (other !== stream && hold !== undefined && !hold.rejected) {
        const isItself = by !== undefined && hold.by?.producer === by.producer;
        const reason = isItself ? "superseded" : "fenced";
        this.#reject(other, run, { reason, epoch: known.epoch });
      }
    }
    stream.answers.push({
      t: "opened",
      run,
      epoch: known.epoch,
      lastRunSeq: known.payloads.length,
      handledSignalSeq: known.handledSignalSeq,
      lastSignalSeq: known.signals.length,
    });
  }

  #resume(known: ModelRun): void {
    known.state = RunState.RUNNING;
    known.wait = undefined;
    known.facts.push("runResumed");
  }

  /** Whether a report that signals are handled is refused; if not, it is taken. */
  #refusesHandled(stream: ModelStream, run: number, signalSeq: number): boolean {
    const known = this.runs.get(run)!;
    if (signalSeq <= known.handledSignalSeq) return false;
    const reason = signalSeq > known.signals.length ? "invalid_field" : "run_finished";
    if (reason === "invalid_field" || !isOpen(known)) {
      this.#reject(stream, run, { reason });
      return true;
    }
    known.handledSignalSeq = signalSeq;
    return false;
  }

  #handleOnly(stream: ModelStream, { run, handled }: Extract<ModelStep, { kind: "handle" }>): void {
    const signalSeq = this.handledOf(run, handled);
    if (signalSeq === 0) this.#reject(stream, run, { reason: "invalid_field" });
    else if (!this.#refusesHandled(stream, run, signalSeq)) this.#ack(stream, run);
  }

  #ack(stream: ModelStream, run: number): void {
    const { payloads, handledSignalSeq } = this.runs.get(run)!;
    stream.acked.set(run, payloads.length);
    stream.ackedSignals.set(run, handledSignalSeq);
  }

  #append(stream: ModelStream, step: Extract<ModelStep, { kind: "append" }>): void {
    const known = this.runs.get(step.run)!;
    const expected = known.payloads.length + 1;
    const first = Math.max(1, expected + step.offset);
    if (first > expected) {
      this.#reject(stream, step.run, { reason: "seq_gap", expected });
      return;
    }
    const added: string[] = [];
    const isBeyondEnd = first + step.count > expected;
    if (isBeyondEnd && !isOpen(known)) {
      this.#reject(stream, step.run, { reason: "run_finished" });
      return;
    }
    const before = known.handledSignalSeq;
    if (this.#refusesHandled(stream, step.run, this.handledOf(step.run, step.handled))) return;
    for (let runSeq = first; runSeq < first + step.count; runSeq++) {
      const payload = payloadOf(step.run, runSeq, step.differs);
      const durable = known.payloads[runSeq - 1];
      if (durable === undefined) added.push(payload);
      else if (durable !== payload) {
        known.handledSignalSeq = before;
        this.#reject(stream, step.run, { reason: "conflict", expected });
        return;
      }
    }
    if (added.length > 0 && known.state === RunState.WAITING) this.#resume(known);
    known.payloads.push(...added);
    this.#ack(stream, step.run);
  }

  /** Whether a finish or a wait does not stand behind the run's last event, or behind its signals. */
  #refusesPause(
    stream: ModelStream,
    step: Extract<ModelStep, { kind: "finish" | "wait" }>,
    claimed: number,
  ): boolean {
    const { run } = step;
    const known = this.runs.get(run)!;
    const last = known.payloads.length;
    if (claimed > last) this.#reject(stream, run, { reason: "seq_gap", expected: last + 1 });
    else if (claimed < last) this.#reject(stream, run, { reason: "invalid_field" });
    else if (!this.#refusesHandled(stream, run, this.handledOf(run, step.handled))) {
      const { handledSignalSeq, signals } = known;
      if (!step.require || handledSignalSeq === signals.length) return false;
      const lastSignalSeq = signals.length;
      stream.answers.push({ t: "signals_pending", run, handledSignalSeq, lastSignalSeq });
    }
    return true;
  }

  #wait(stream: ModelStream, step: Extract<ModelStep, { kind: "wait" }>): void {
    const { run, code, isBounded } = step;
    const known = this.runs.get(run)!;
    const claimed = Math.max(0, known.payloads.length + step.offset);
    const isSame = known.wait?.code === code && known.wait.isBounded === isBounded;
    const isOver = known.state === RunState.WAITING || known.state === RunState.CANCELLED;
    const isRepeat = isSame && isOver && claimed === known.payloads.length;
    if (!isRepeat && !isOpen(known)) {
      this.#reject(stream, run, { reason: "run_finished" });
      return;
    }
    if (isOpen(known) && this.#refusesPause(stream, step, claimed)) return;
    if (!isRepeat) {
      known.wait = { code, isBounded };
      known.state = known.wasAskedToStop ? RunState.CANCELLED : RunState.WAITING;
      known.facts.push(known.wasAskedToStop ? "runFinished" : "runWaiting");
    }
    stream.answers.push(
      known.state === RunState.WAITING
        ? { t: "waiting", run, code }
        : { t: "ended", run, state: known.state },
    );
  }

  #finish(stream: ModelStream, step: Extract<ModelStep, { kind: "finish" }>): void {
    const known = this.runs.get(step.run)!;
    const last = known.payloads.length;
    const claimed = Math.max(0, last + step.offset);
    if (!isOpen(known)) {
      if (known.state === step.state && claimed === last) {
        stream.answers.push({ t: "ended", run: step.run, state: known.state });
      } else this.#reject(stream, step.run, { reason: "run_finished" });
      return;
    }
    if (this.#refusesPause(stream, step, claimed)) return;
    known.state = step.state;
    known.wait = undefined;
    known.facts.push("runFinished");
    stream.answers.push({ t: "ended", run: step.run, state: step.state });
  }

  #reject(
    stream: ModelStream,
    run: number,
    why: { reason: string; expected?: number; epoch?: number },
  ): void {
    stream.holds.get(run)!.rejected = true;
    stream.answers.push({ t: "rejected", run, ...why });
  }
}
