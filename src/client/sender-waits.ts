import type { Mark, SendBuffer } from "./send-buffer.ts";

/** A caller that waits for its events to be durable. */
interface Flush {
  /** Behind the last of them. */
  readonly mark: Mark;
  readonly resume: () => void;
}

/**
 * The callers that wait for a sender's buffer: until it has room, or until what it
 * holds is durable.
 *
 * Invariant: each wait ends once what it is for has come, or the sender is over.
 */
export class SenderWaits {
  readonly #buffer: SendBuffer;
  readonly #throwIfOver: () => void;
  #roomWaiters: (() => void)[] = [];
  /** By the place that they wait for, the first one first. */
  readonly #flushes: Flush[] = [];

  /** @param throwIfOver throws once the sender is over: waits reject with its error */
  constructor(buffer: SendBuffer, throwIfOver: () => void) {
    this.#buffer = buffer;
    this.#throwIfOver = throwIfOver;
  }

  /** Resolves once the buffer has room; rejects once the sender is over. */
  async untilRoom(): Promise<void> {
    while (!this.#buffer.hasRoom) {
      this.#throwIfOver();
      await new Promise<void>((resume) => this.#roomWaiters.push(resume));
    }
    this.#throwIfOver();
  }

  /** Resolves once everything that is in the buffer now is durable; rejects once the sender is over before. */
  async untilDurable(): Promise<void> {
    const mark = this.#buffer.mark();
    while (!this.#buffer.isDurable(mark)) {
      this.#throwIfOver();
      await new Promise<void>((resume) => this.#flushes.push({ mark, resume }));
    }
  }

  /** Events have left the buffer: ends the waits for that. */
  note(): void {
    while (this.#flushes.length > 0 && this.#buffer.isDurable(this.#flushes[0]!.mark)) {
      this.#flushes.shift()!.resume();
    }
    if (this.#buffer.hasRoom) this.#resumeRoomWaiters();
  }

  /** The sender is over: ends all waits. */
  end(): void {
    this.#resumeRoomWaiters();
    for (const { resume } of this.#flushes.splice(0)) resume();
  }

  #resumeRoomWaiters(): void {
    const waiters = this.#roomWaiters;
    this.#roomWaiters = [];
    for (const resume of waiters) resume();
  }
}
