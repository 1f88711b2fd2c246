/**
 * What an Ingest stream still has to tell its producer. Acknowledgements are
 * cumulative, so one that has not been sent yet is replaced by the next of its
 * run: a producer that reads slowly costs an entry per run, not per append. So is
 * what else only the newest of matters, a request to stop for one.
 */

import type { MemoryShare } from "../memory-budget.ts";

/** The newest durable event of a run. */
export interface Ack {
  readonly runId: string;
  readonly runSeq: number;
  readonly seq: number;
  /** The last signal whose handling is recorded. */
  readonly handledSignalSeq: number;
}

/** Bytes that a waiting acknowledgement takes, about. */
const ackBytes = 300;

/** A queue of frames with one reader. */
export class ResponseQueue<Frame> {
  readonly #frames: ({ frame: Frame } | { ack: Ack })[] = [];
  readonly #acks = new Map<string, { ack: Ack }>();
  /** Frames that the next one of their key replaces. */
  readonly #replaceable = new Map<unknown, { frame: Frame }>();
  readonly #bytesOf: (frame: Frame) => number;
  readonly #memory: MemoryShare;
  #bytes = 0;
  #isClosed = false;
  #ended: { readonly error?: unknown } | undefined;
  #wake: (() => void) | undefined;

  /**
   * @param bytesOf bytes of memory that a frame takes while it waits, about
   * @param memory for answers that are not read
   */
  constructor(bytesOf: (frame: Frame) => number, memory: MemoryShare) {
    this.#bytesOf = bytesOf;
    this.#memory = memory;
  }

  /** Bytes that the waiting frames take, about. */
  get bytes(): number {
    return this.#bytes;
  }

  /** Frames that wait. */
  get size(): number {
    return this.#frames.length;
  }

  /** Adds a frame behind all others. */
  push(frame: Frame): void {
    // A later acknowledgement stays behind this frame.
    this.#acks.clear();
    this.#count(this.#bytesOf(frame));
    this.#frames.push({ frame });
    this.#notify();
  }

  /** Adds a frame, or puts it in the place of the one of its key that waits. */
  replace(key: unknown, frame: Frame): void {
    const waiting = this.#replaceable.get(key);
    if (waiting !== undefined) {
      waiting.frame = frame;
      return;
    }
    const entry = { frame };
    this.#replaceable.set(key, entry);
    this.#count(this.#bytesOf(frame));
    this.#frames.push(entry);
    this.#notify();
  }

  /** Adds an acknowledgement, or moves the run's waiting one on. */
  ack(ack: Ack): void {
    const waiting = this.#acks.get(ack.runId);
    if (waiting !== undefined) {
      waiting.ack = ack;
      return;
    }
    const entry = { ack };
    this.#acks.set(ack.runId, entry);
    this.#count(ackBytes);
    this.#frames.push(entry);
    this.#notify();
  }

  /** No more frames will come; with an error, the reader throws it after the last one. */
  end(outcome: { readonly error?: unknown } = {}): void {
    this.#ended ??= outcome;
    this.#notify();
  }

  /** Takes all frames that wait, or waits for some; undefined at the end. */
  async take(toFrame: (ack: Ack) => Frame): Promise<Frame[] | undefined> {
    while (this.#frames.length === 0) {
      if (this.#ended !== undefined) {
        if ("error" in this.#ended) throw this.#ended.error;
        return undefined;
      }
      await new Promise<void>((resolve) => {
        this.#wake = resolve;
      });
    }
    this.#acks.clear();
    this.#replaceable.clear();
    this.#count(-this.#bytes);
    return this.#frames
      .splice(0)
      .map((entry) => ("ack" in entry ? toFrame(entry.ack) : entry.frame));
  }

  /** Nobody takes frames any more. */
  close(): void {
    this.#count(-this.#bytes);
    this.#isClosed = true;
  }

  #count(bytes: number): void {
    if (this.#isClosed) return;
    this.#bytes += bytes;
    if (bytes > 0) this.#memory.take(bytes);
    else this.#memory.give(-bytes);
  }

  #notify(): void {
    this.#wake?.();
    this.#wake = undefined;
  }
}
