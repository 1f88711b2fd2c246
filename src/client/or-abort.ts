/** Waiting that ends at once where nobody wants the answer any more, and in time where none comes. */
import { startTimer } from "../timers.ts";
import { NoAnswerError } from "./errors.ts";

/**
 * Waits for the answer to a call, not longer than the signal and the bound allow; what
 * comes of it later is dropped.
 *
 * @param what the caller waits for, in the words of the error
 * @throws the signal's reason, NoAnswerError
 */
export function orAbort<T>(
  answer: Promise<T>,
  signal: AbortSignal | undefined,
  timeoutMs?: number,
  what = "answer",
): Promise<T> {
  return new Promise((resolve, reject) => {
    const timer =
      timeoutMs === undefined
        ? undefined
        : startTimer(() => end(new NoAnswerError(what, Math.ceil(timeoutMs))), timeoutMs);
    const onAbort = () => end(signal?.reason);
    const settle = () => {
      clearTimeout(timer);
      signal?.removeEventListener("abort", onAbort);
    };
    const end = (reason: unknown) => {
      settle();
      reject(reason);
    };
    answer.then((value) => {
      settle();
      resolve(value);
    }, end);
    if (signal?.aborted) onAbort();
    else signal?.addEventListener("abort", onAbort, { once: true });
  });
}
