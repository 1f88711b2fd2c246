import { startTimer } from "./timers.ts";

/**
 * Notices that nothing was sent on a stream for a while. What else happens on the
 * stream, a wake-up that brings nothing for one, does not put it off.
 *
 * A note costs one reading of the clock: the timer runs on, and compares with the
 * last note when it fires.
 *
 * Close it with its stream.
 */
export class QuietTimer {
  readonly #intervalMs: number;
  readonly #onQuiet: () => void;
  #sentMs = performance.now();
  #timer: NodeJS.Timeout;

  /**
   * @param intervalMs milliseconds without a note, below 2^31
   * @param onQuiet called after each interval without a note; must not throw
   */
  constructor(intervalMs: number, onQuiet: () => void) {
    this.#intervalMs = intervalMs;
    this.#onQuiet = onQuiet;
    this.#timer = startTimer(fire, intervalMs, this);
  }

  /** Something was sent. */
  note(): void {
    this.#sentMs = performance.now();
  }

  /** Stops. */
  close(): void {
    clearTimeout(this.#timer);
  }

  /** Called by the timer. */
  look(): void {
    const nowMs = performance.now();
    // A timer may fire a fraction of a millisecond early.
    const leftMs = Math.ceil(this.#sentMs + this.#intervalMs - nowMs);
    if (leftMs > 1) {
      this.#timer = startTimer(fire, leftMs, this);
      return;
    }
    this.#sentMs = nowMs;
    this.#timer = startTimer(fire, this.#intervalMs, this);
    this.#onQuiet();
  }
}

/** One function for all timers: ten thousand subscriptions have one each. */
function fire(timer: QuietTimer): void {
  timer.look();
}
