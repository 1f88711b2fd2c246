/**
 * What Ingest streams should do, in the simplest terms: one request at a time,
 * runs as arrays of payloads. The property compares the real thing with it.
 */
import { RunState } from "../../gen/runlog/v1/run_pb.js";

/** A request of a producer; `stream` and `run` are indexes. */
export type ModelStep =
  | {
      readonly kind: "open";
      readonly stream: number;
      readonly run: number;
      readonly create: boolean;
      /** Which of a few producers it is; undefined does not name itself. */
      readonly producer: number | undefined;
      /** Which of the producer's attempts, beside the newest one that there has been. */
      readonly attempt: "next" | "same" | "older";
    }
  | {
      readonly kind: "append";
      readonly stream: number;
      readonly run: number;
      /** Where the batch begins, relative to the next run_seq. */
      readonly offset: number;
      readonly count: number;
      /** Sends other payloads than usual under these run_seqs. */
      readonly differs: boolean;
    }
  | {
      readonly kind: "release";
      readonly stream: number;
      readonly run: number;
    }
  | {
      /** An append that is wrong whatever the run's state. */
      readonly kind: "bad";
      readonly stream: number;
      readonly run: number;
    }
  | {
      readonly kind: "finish";
      readonly stream: number;
      readonly run: number;
      readonly offset: number;
      readonly state: RunState.SUCCEEDED | RunState.FAILED;
    };

/** What a stream is told, acknowledgements apart. */
export type ModelAnswer =
  | {
      readonly t: "opened";
      readonly run: number;
      readonly epoch: number;
      readonly lastRunSeq: number;
    }
  | {
      readonly t: "rejected";
      readonly run: number;
      readonly reason: string;
      readonly expected?: number;
      readonly epoch?: number;
    }
  | { readonly t: "released"; readonly run: number }
  | { readonly t: "ended"; readonly run: number; readonly state: RunState };

/** A run: its payloads in order; run_seq is the index + 1. */
export interface ModelRun {
  readonly payloads: string[];
  /** What happened to it, in order. */
  readonly facts: string[];
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
  rejected: boolean;
}

type OpenStep = Extract<ModelStep, { kind: "open" }>;

/** One stream as the model sees it. */
class ModelStream {
  readonly holds = new Map<number, Hold>();
  readonly answers: ModelAnswer[] = [];
  /** The last run_seq that was acknowledged, by run. */
  readonly acked = new Map<number, number>();
}

/** The payload that a producer sends as a run_seq. */
export function payloadOf(run: number, runSeq: number, differs: boolean): string {
  return `${run}:${runSeq}${differs ? ":other" : ""}`;
}

/** The model's state. */
export class IngestModel {
  readonly runs = new Map<number, ModelRun>();
  readonly streams: ModelStream[];
  readonly #leaseMs: number;
  /** The newest attempt of each producer on each run. */
  readonly #attempts = new Map<string, number>();
  #clockMs = 0;

  /** @param leaseMs how long a run may be without a producer */
  constructor(streamCount: number, leaseMs: number) {
    this.#leaseMs = leaseMs;
    this.streams = Array.from({ length: streamCount }, () => new ModelStream());
  }

  /** Next run_seq of a run, from which the offsets of a step count. */
  next(run: number): number {
    return (this.runs.get(run)?.payloads.length ?? 0) + 1;
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
        stream.holds.set(step.run, { by: undefined, rejected: false });
        this.#reject(stream, step.run, { reason: "run_not_open" });
      } else if (!hold.rejected) {
        if (step.kind === "append") this.#append(stream, step);
        else if (step.kind === "bad") this.#reject(stream, step.run, { reason: "invalid_field" });
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
    stream.holds.set(run, { by, rejected: false });
    let known = this.runs.get(run);
    if (known === undefined && !step.create) {
      this.#reject(stream, run, { reason: "run_not_found" });
      return;
    }
    if (known === undefined) {
      known = {
        payloads: [],
        facts: ["runStarted"],
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
      known.state = RunState.RUNNING;
      known.facts.push("runResumed");
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
    });
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
    if (isBeyondEnd && known.state !== RunState.RUNNING) {
      this.#reject(stream, step.run, { reason: "run_finished" });
      return;
    }
    for (let runSeq = first; runSeq < first + step.count; runSeq++) {
      const payload = payloadOf(step.run, runSeq, step.differs);
      const durable = known.payloads[runSeq - 1];
      if (durable === undefined) added.push(payload);
      else if (durable !== payload) {
        this.#reject(stream, step.run, { reason: "conflict", expected });
        return;
      }
    }
    known.payloads.push(...added);
    stream.acked.set(step.run, known.payloads.length);
  }

  #finish(stream: ModelStream, step: Extract<ModelStep, { kind: "finish" }>): void {
    const known = this.runs.get(step.run)!;
    const last = known.payloads.length;
    const claimed = Math.max(0, last + step.offset);
    if (known.state !== RunState.RUNNING) {
      if (known.state === step.state && claimed === last) {
        stream.answers.push({ t: "ended", run: step.run, state: known.state });
      } else this.#reject(stream, step.run, { reason: "run_finished" });
      return;
    }
    if (claimed > last) this.#reject(stream, step.run, { reason: "seq_gap", expected: last + 1 });
    else if (claimed < last) this.#reject(stream, step.run, { reason: "invalid_field" });
    else {
      known.state = step.state;
      known.facts.push("runFinished");
      stream.answers.push({ t: "ended", run: step.run, state: step.state });
    }
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
