/**
 * Lets everything else that is ready run first. The embedded database answers
 * at once, so a loop over it never waits for anything by itself, and would keep
 * the whole process from running until it ends.
 */
export function yieldToEventLoop(): Promise<void> {
  return new Promise((resolve) => setImmediate(resolve));
}
