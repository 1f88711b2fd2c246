/** Properties over random histories: the tests that take longest, each bounded in time. */
import fc from "fast-check";
import { isThorough } from "./thorough.ts";

/** How long one property tries histories: CI has more time than somebody who waits for it. */
const boundMs = isThorough ? 30_000 : process.env["CI"] ? 3_000 : 1_000;
/** How much more than a property asks for is tried where there is time. */
const factor = isThorough ? 10 : 1;
/** How long a property that failed looks for a shorter history that fails. */
const shrinkMs = 10_000;

/**
 * Asserts what `check` asserts over `atMost` histories (ten times as many in a thorough run),
 * or over those that begin within the bound: a slow machine tries fewer rather than none. They
 * differ from run to run; a failure tells the seed that shows it again.
 */
export async function assertHistories<History extends [unknown, ...unknown[]]>(
  atMost: number,
  arbitraries: { [K in keyof History]: fc.Arbitrary<History[K]> },
  check: (...history: History) => Promise<void>,
): Promise<void> {
  let until = performance.now() + boundMs;
  let tried = 0;
  let hasFailed = false;
  const property = fc.asyncProperty(fc.tuple<History>(...arbitraries), async (history) => {
    if (performance.now() > until) return;
    tried++;
    try {
      await check(...history);
    } catch (error) {
      if (!hasFailed) until = performance.now() + shrinkMs;
      hasFailed = true;
      throw error;
    }
  });
  const numRuns = atMost * factor;
  await fc.assert(property, { numRuns });
  if (tried < numRuns) console.log(`      ${tried} of ${numRuns} histories in ${boundMs / 1000} s`);
}
