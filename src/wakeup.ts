/**
 * Wakes one waiter. A wake-up carries no data and may come too often, so the
 * waiter looks again after each.
 *
 * Invariant: a wake-up that comes while nobody waits ends the next wait at once
 * (one, however many came), so none can fall between looking and waiting.
 */
export class Wakeup {
  #isWoken = false;
  #resume: (() => void) | undefined;

  /** Ends the present wait, or the next one at once. */
  readonly wake = (): void => {
    this.#isWoken = true;
    this.#resume?.();
  };

  /** Forgets earlier wake-ups. Before a look that finds what they told of, it saves another one. */
  reset(): void {
    this.#isWoken = false;
  }

  /** Waits for a wake-up, or until `signal` aborts; without a signal, its owner wakes it when it ends. */
  async wait(signal?: AbortSignal): Promise<void> {
    if (!this.#isWoken && signal?.aborted !== true) {
      const { promise, resolve } = Promise.withResolvers<void>();
      this.#resume = resolve;
      const onAbort = () => resolve();
      signal?.addEventListener("abort", onAbort);
      await promise;
      signal?.removeEventListener("abort", onAbort);
      this.#resume = undefined;
    }
    this.#isWoken = false;
  }
}
