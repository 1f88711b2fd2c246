import { isMisdirected, isRenewable, isRetryable } from "./errors.ts";
import { minTokenUseMs, misdirectedTimeoutMs } from "./limits.ts";

/**
 * Decides which ends of calls are final, for a caller that repeats its call.
 *
 * Invariant: once the server has been reached, what a proxy answers in its place (401, 403,
 * 404 while it is being set up anew) ends nothing until it has lasted for a bounded time.
 */
export class Retries {
  readonly #now: () => number;
  #isKnown = false;
  #misdirectedSinceMs: number | undefined;
  #renewedAtMs = Number.NEGATIVE_INFINITY;

  /** @param now milliseconds of a clock that does not go back */
  constructor(now: () => number = () => performance.now()) {
    this.#now = now;
  }

  /** The server itself has answered. */
  answered(): void {
    this.#isKnown = true;
    this.#misdirectedSinceMs = undefined;
  }

  /** Whether this end of a call is only that of its token, so that the next one begins at once. */
  isEndOfToken(error: unknown): boolean {
    if (!isRenewable(error)) return false;
    const nowMs = this.#now();
    const isFirst = nowMs - this.#renewedAtMs >= minTokenUseMs;
    this.#renewedAtMs = nowMs;
    return isFirst;
  }

  /** Whether this end of a call is the last. */
  isFinal(error: unknown): boolean {
    if (isRetryable(error)) return false;
    if (!this.#isKnown || !isMisdirected(error)) return true;
    const nowMs = this.#now();
    this.#misdirectedSinceMs ??= nowMs;
    return nowMs - this.#misdirectedSinceMs >= misdirectedTimeoutMs;
  }
}
