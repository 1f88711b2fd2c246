import type { Run } from "./run.ts";
import { RunCancelledError } from "./run-types.ts";

/**
 * Runs a body as a run, and ends the run as the body ends, once that is durable:
 *
 * - CANCELLED where somebody asked it to stop before the body was over, however that ends; what it
 *   throws, other than the reason of `run.aborted`, is recorded as suppressed
 * - FAILED where it throws: with what was thrown first, and what cleanup threw as suppressed
 * - SUCCEEDED else
 *
 * A body that ends its run itself has the last word. Settles as the body does; rejects also where
 * the end of a body that returns cannot be recorded.
 */
export async function withRun<T>(run: Run, body: (run: Run) => T | PromiseLike<T>): Promise<T> {
  let value: T;
  try {
    value = await body(run);
  } catch (thrown) {
    // onError reports that a run cannot be ended: the body's failure comes first.
    await end(run, thrown).catch(() => undefined);
    throw thrown;
  }
  if (isCancelled(run)) await run.cancelled();
  else await run.finish();
  return value;
}

function end(run: Run, thrown: unknown): Promise<unknown> {
  if (!isCancelled(run)) return run.fail(thrown);
  return run.cancelled({ suppressed: thrown === run.aborted.reason ? [] : [thrown] });
}

function isCancelled({ aborted }: Run): boolean {
  return aborted.reason instanceof RunCancelledError;
}
