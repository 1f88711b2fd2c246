/**
 * Timers. Node and browsers take a wait of more than 2^31 - 1 ms, about 25 days,
 * for one of 1 ms; here it ends after those 25 days, or never, where a deadline
 * that far off is as good as none.
 */

/** Milliseconds: the longest wait of a timer. */
export const longestTimerMs = 2 ** 31 - 1;

/** Calls back once, after so many milliseconds, or after the longest wait that there is. */
export function startTimer<Args extends unknown[]>(
  run: (...args: Args) => void,
  ms: number,
  ...args: Args
): ReturnType<typeof setTimeout> {
  return setTimeout(run, Math.min(ms, longestTimerMs), ...args);
}
