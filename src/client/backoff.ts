/**
 * Waiting between attempts: exponential with full jitter, so that thousands
 * of clients that lost the same server do not return in step.
 *
 * Invariant: every wait ends at once when its signal aborts.
 */
import { startTimer } from "../timers.ts";

/** How long to wait between attempts. */
export interface BackoffOptions {
  /** Milliseconds that the first wait takes at most. */
  readonly baseMs: number;
  /** Milliseconds that any wait takes at most. */
  readonly capMs: number;
}

/** Short enough that a server's restart is hardly seen, bounded so that an outage costs little. */
export const defaultBackoff: BackoffOptions = { baseMs: 200, capMs: 10_000 };

/** Milliseconds; a server that asks for more is asked again all the same. */
const maxRetryAfterMs = 5 * 60_000;

/**
 * Milliseconds to wait after `attempt` failed attempts in a row (1 is the
 * first), uniform in [0, min(cap, base · 2^(attempt − 1))). `random` returns
 * a number in [0, 1), as Math.random does. Source of the formula:
 * https://aws.amazon.com/blogs/architecture/exponential-backoff-and-jitter/
 */
export function backoffMs(attempt: number, options: BackoffOptions, random: () => number): number {
  // Beyond 2^30 the cap has long won; the bound only keeps the power finite.
  const ceiling = Math.min(
    options.capMs,
    options.baseMs * 2 ** Math.min(30, Math.max(0, attempt - 1)),
  );
  return Math.floor(random() * ceiling);
}

/**
 * Milliseconds to wait after a failed attempt: as backoffMs says, and as long as the server
 * asks at least. Jitter goes on top of that, so that clients it asked at the same time come back
 * one after the other. Where the next attempt goes to another node, which this failure says
 * nothing about, it is a first one; attempts are counted in rounds over all nodes.
 *
 * @param retryAfterMs 0 where the server asked for nothing
 * @param nodes that attempts go to in turn
 */
export function delayMs(
  attempt: number,
  retryAfterMs: number,
  options: BackoffOptions,
  random: () => number,
  nodes = 1,
): number {
  if (attempt % nodes !== 0) return backoffMs(1, options, random);
  const ownMs = backoffMs(attempt / nodes, options, random);
  if (retryAfterMs === 0) return ownMs;
  const asked = Math.min(retryAfterMs, maxRetryAfterMs);
  return Math.max(ownMs, Math.floor(asked * (1 + random() / 2)));
}

/** Resolves after `ms` milliseconds; rejects with the signal's reason once it aborts. */
export function sleep(ms: number, signal: AbortSignal): Promise<void> {
  return new Promise((resolve, reject) => {
    if (signal.aborted) {
      reject(signal.reason);
      return;
    }
    const onAbort = () => {
      clearTimeout(timer);
      reject(signal.reason);
    };
    const timer = startTimer(() => {
      signal.removeEventListener("abort", onAbort);
      resolve();
    }, ms);
    signal.addEventListener("abort", onAbort, { once: true });
  });
}
