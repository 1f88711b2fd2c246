/** Calls that may be repeated, until one is answered. */
import type { Transport } from "@connectrpc/connect";
import { type BackoffOptions, defaultBackoff, delayMs, sleep } from "./backoff.ts";
import { isAnswered, retryAfterMsOf, toFinalError } from "./errors.ts";
import { nodeCountOf } from "./ingest-transport.ts";
import { defaultUnaryTimeoutMs, unaryAnswerTimeoutMs } from "./limits.ts";
import { Retries } from "./retries.ts";

/** How to repeat a call. */
export interface UnaryOptions {
  /** Gives up; what was asked for may be done all the same. */
  readonly signal?: AbortSignal;
  /** Milliseconds to go on trying for. Default: one minute. */
  readonly timeoutMs?: number;
  /** Waits between attempts. */
  readonly backoff?: BackoffOptions;
  /** Jitter of these waits, in [0, 1). Default: Math.random. */
  readonly random?: () => number;
}

/** What an attempt is called with. */
export interface AttemptOptions {
  readonly signal: AbortSignal;
  readonly timeoutMs: number;
}

/**
 * Calls again through outages. Only for calls that mean the same when they are repeated.
 *
 * @throws RunlogError where the server refuses, or none answered in time; the signal's reason
 */
export async function untilAnswered<T>(
  transport: Transport,
  call: (options: AttemptOptions) => Promise<T>,
  options: UnaryOptions = {},
): Promise<T> {
  const { signal = new AbortController().signal, timeoutMs = defaultUnaryTimeoutMs } = options;
  const { backoff = defaultBackoff, random = Math.random } = options;
  const retries = new Retries();
  const deadlineMs = performance.now() + timeoutMs;
  for (let attempt = 1; ; attempt++) {
    signal.throwIfAborted();
    const leftMs = Math.max(1, Math.ceil(deadlineMs - performance.now()));
    try {
      return await call({ signal, timeoutMs: Math.min(leftMs, unaryAnswerTimeoutMs) });
    } catch (error) {
      signal.throwIfAborted();
      if (retries.isFinal(error)) throw toFinalError(error);
      if (isAnswered(error)) retries.answered();
      const nodes = nodeCountOf(transport);
      const waitMs = delayMs(attempt, retryAfterMsOf(error), backoff, random, nodes);
      if (performance.now() + waitMs >= deadlineMs) throw toFinalError(error);
      await sleep(waitMs, signal);
    }
  }
}
