import type { IncomingMessage } from "node:http";
import type { ServerHttp2Stream } from "node:http2";
import { Code, ConnectError } from "@connectrpc/connect";
import { yieldToEventLoop } from "../../event-loop.ts";
import type { MemoryHold, MemoryShare } from "../../memory-budget.ts";
import { startTimer } from "../../timers.ts";
import { overloadedError } from "../errors.ts";
import type { TurnBudget } from "./turn-budget.ts";

/** Bytes that wait to be taken before the client is made to wait. */
const maxWaitingBytes = 1024 * 1024;
/** The same while there is no memory left for messages. */
const minWaitingBytes = 64 * 1024;
/** Small pieces that may wait as they are: so many of them cost less than to copy them. */
const maxSmallPieces = 16;
/** Bytes of a small piece. */
const smallBytes = 4 * 1024;
/** Bytes that small pieces are copied together into. */
const blockBytes = 16 * 1024;

const ignore = () => undefined;

/** A body, over either protocol. */
export type BodySource = ServerHttp2Stream | IncomingMessage;

/**
 * What arrives of a request's body, as much at a time as has arrived in a turn
 * of the event loop: a body of many small pieces costs no promise for each.
 *
 * Invariants: small pieces are copied together, so that what waits takes about
 * the memory of its bytes, however it was cut; the time that a message takes is
 * counted while the server waits for the client, not while the client waits for
 * the server; and what is here is counted as memory, of which a message that has been
 * arriving for longest gives way.
 *
 * Close it when the body is of no interest any more.
 */
export class Arrivals {
  readonly #source: BodySource;
  readonly #budget: TurnBudget | undefined;
  readonly #timeoutMs: number;
  #pieces: Uint8Array[] = [];
  #waitingBytes = 0;
  /** Small pieces, up to `#filled`; copied together until somebody takes them. */
  #block: Buffer | undefined;
  #filled = 0;
  #isOver = false;
  #isGone = false;
  #isClosed = false;
  #wake: () => void = () => undefined;
  /** Bounds the wait for the rest of a message. */
  #timer: ReturnType<typeof startTimer> | undefined;
  /** Milliseconds that were waited for the message that is not whole yet. */
  #waitedMs = 0;
  readonly #memory: MemoryShare;
  /** For the message that is not whole; made when there is one for the first time. */
  #hold: MemoryHold | undefined;
  #isEvicted = false;
  /** What was taken last: whoever did is busy with it. */
  #takenBytes = 0;

  /**
   * @param timeoutMs milliseconds that one message may be waited for
   * @param memory for messages that have not arrived whole
   */
  constructor(
    source: BodySource,
    budget: TurnBudget | undefined,
    timeoutMs: number,
    memory: MemoryShare,
  ) {
    this.#source = source;
    this.#budget = budget;
    this.#timeoutMs = timeoutMs;
    this.#memory = memory;
    source.on("data", this.#onData).on("end", this.#onEnd);
    source.on("error", this.#onGone).on("close", this.#onGone);
    if (source.destroyed) this.#onGone();
  }

  /** A message has ended: the next one has all its time. */
  startMessage(): void {
    this.#waitedMs = 0;
  }

  /**
   * Takes the pieces that have arrived; waits where there are none.
   *
   * @param heldBytes memory of a message that has begun: the wait is counted, and bounded;
   *   0 where none has
   * @returns undefined at the end
   * @throws ConnectError where the message is late, its memory is needed for others, or
   *   the client disconnected
   */
  async take(heldBytes: number): Promise<readonly Uint8Array[] | undefined> {
    const isInside = heldBytes > 0;
    this.#giveTaken();
    if (isInside) this.#hold ??= this.#memory.hold(this.#onEvicted);
    this.#hold?.set(heldBytes);
    if (this.#isEvicted) throw overloadedError("messages that arrive slowly");
    while (this.#waitingBytes === 0) {
      if (this.#isOver) return undefined;
      if (this.#isGone) throw new ConnectError("the client disconnected", Code.Canceled);
      await (isInside ? this.#waitInTime() : this.#wait());
      if (this.#isEvicted) throw overloadedError("messages that arrive slowly");
      // Node hands over one frame at a time, each in a turn of its promises:
      // after one of the event loop all are there that have arrived.
      await yieldToEventLoop();
    }
    this.#seal();
    const taken = this.#pieces;
    this.#pieces = [];
    this.#takenBytes = this.#waitingBytes;
    this.#memory.take(this.#takenBytes);
    this.#waitingBytes = 0;
    if (this.#source.isPaused()) this.#source.resume();
    return taken;
  }

  #giveTaken(): void {
    this.#memory.give(this.#takenBytes);
    this.#takenBytes = 0;
  }

  /** Leaves the body; discards the pieces that still arrive. */
  close(): void {
    if (this.#isClosed) return;
    this.#isClosed = true;
    // Nobody waits for the rest of a message any more.
    clearTimeout(this.#timer);
    const source = this.#source;
    source.off("data", this.#onData).off("end", this.#onEnd);
    source.off("error", this.#onGone).off("close", this.#onGone);
    // Its end is only seen where it is read, and nobody is to notice that it is.
    source.on("error", ignore).on("data", this.#onUnwanted).resume();
    this.#pieces = [];
    this.#block = undefined;
    this.#giveTaken();
    this.#hold?.release();
  }

  #wait(): Promise<void> {
    return new Promise<void>((resolve) => {
      this.#wake = resolve;
    });
  }

  async #waitInTime(): Promise<void> {
    const startedMs = performance.now();
    const leftMs = Math.max(0, this.#timeoutMs - this.#waitedMs);
    this.#timer = startTimer(() => this.#wake(), leftMs);
    await this.#wait();
    clearTimeout(this.#timer);
    this.#waitedMs += performance.now() - startedMs;
    const hasNews = this.#waitingBytes > 0 || this.#isOver || this.#isGone || this.#isEvicted;
    if (hasNews || this.#waitedMs < this.#timeoutMs) return;
    const problem = `a message took longer than ${this.#timeoutMs} ms to arrive`;
    throw new ConnectError(problem, Code.DeadlineExceeded);
  }

  readonly #onData = (piece: Uint8Array): void => {
    this.#budget?.spend();
    const { length } = piece;
    if (length === 0) return;
    if (length >= smallBytes || this.#pieces.length < maxSmallPieces) {
      this.#seal();
      this.#pieces.push(piece);
    } else {
      this.#copy(piece);
    }
    this.#waitingBytes += length;
    if (this.#waitingBytes > (this.#memory.isOver ? minWaitingBytes : maxWaitingBytes)) {
      this.#source.pause();
    }
    this.#wake();
  };

  #copy(piece: Uint8Array): void {
    if (this.#filled + piece.length > blockBytes) this.#seal();
    this.#block ??= Buffer.allocUnsafe(blockBytes);
    this.#block.set(piece, this.#filled);
    this.#filled += piece.length;
  }

  #seal(): void {
    if (this.#block === undefined) return;
    this.#pieces.push(this.#block.subarray(0, this.#filled));
    this.#block = undefined;
    this.#filled = 0;
  }

  readonly #onEvicted = (): void => {
    this.#isEvicted = true;
    this.#wake();
  };

  readonly #onUnwanted = (): void => {
    this.#budget?.spend();
  };

  readonly #onEnd = (): void => {
    this.#isOver = true;
    this.#wake();
  };

  readonly #onGone = (): void => {
    this.#isGone = true;
    this.#wake();
  };
}

/** Pieces as one. */
export function joined(pieces: readonly Uint8Array[]): Uint8Array {
  const [only] = pieces;
  return only !== undefined && pieces.length === 1 ? only : Buffer.concat(pieces);
}
