/**
 * Waiting for news. A wake-up carries no data and may come too often, so the
 * waiter looks again after each; it must be reset before looking, so that news
 * which arrive in between are not slept through.
 */

/** One waiter. */
export class Wakeup {
  #news = false;
  #resolve: (() => void) | undefined;

  /** Wakes the waiter, now or at its next wait. */
  readonly wake = (): void => {
    this.#news = true;
    this.#resolve?.();
  };

  /** Forgets news: call it before looking for them. */
  reset(): void {
    this.#news = false;
  }

  /** Waits for news, or until `signal` aborts. */
  async wait(signal: AbortSignal): Promise<void> {
    if (signal.aborted || this.#news) return;
    const { promise, resolve } = Promise.withResolvers<void>();
    const onAbort = () => resolve();
    this.#resolve = resolve;
    signal.addEventListener("abort", onAbort);
    try {
      await promise;
    } finally {
      signal.removeEventListener("abort", onAbort);
      this.#resolve = undefined;
    }
  }
}
