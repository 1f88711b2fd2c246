/**
 * A wake-up carries no data and may come too often: whoever wakes looks again.
 *
 * Invariant: a wake-up that comes while nobody waits is kept (one, however
 * many came), so none can fall between looking and waiting.
 */

/** One waiter, any number of wakers. */
export class Wakeup {
  #pending = false;
  #resume: (() => void) | undefined;

  /** Ends the present wait, or the next one at once. */
  wake(): void {
    const resume = this.#resume;
    if (resume === undefined) {
      this.#pending = true;
      return;
    }
    this.#resume = undefined;
    resume();
  }

  /** Waits for the next wake-up. Its owner must wake it when it ends. */
  wait(): Promise<void> {
    if (this.#pending) {
      this.#pending = false;
      return Promise.resolve();
    }
    return new Promise((resolve) => {
      this.#resume = resolve;
    });
  }
}
