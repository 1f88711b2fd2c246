/**
 * Waiting for news. A wake-up carries no data and may come too often, so the
 * waiter looks again after each; it must be reset before looking, so that news
 * which arrive in between are not slept through.
 */

/** Why a wait ended. */
export type Woken = "news" | "timeout" | "aborted";

/** One waiter. */
export class Wakeup {
  #news = false;
  #resolve: ((woken: Woken) => void) | undefined;

  /** Wakes the waiter, now or at its next wait. */
  readonly wake = (): void => {
    this.#news = true;
    this.#resolve?.("news");
  };

  /** Forgets news: call it before looking for them. */
  reset(): void {
    this.#news = false;
  }

  /** Waits for news, for `timeoutMs` milliseconds at most, or until `signal` aborts. */
  async wait(timeoutMs: number, signal: AbortSignal): Promise<Woken> {
    if (signal.aborted) return "aborted";
    if (this.#news) return "news";
    const { promise, resolve } = Promise.withResolvers<Woken>();
    this.#resolve = resolve;
    const timer = setTimeout(resolve, timeoutMs, "timeout");
    const onAbort = () => resolve("aborted");
    signal.addEventListener("abort", onAbort);
    try {
      return await promise;
    } finally {
      clearTimeout(timer);
      signal.removeEventListener("abort", onAbort);
      this.#resolve = undefined;
    }
  }
}
