/** Properties over random histories: the tests that take longest, each bounded in time. */
import fc from "fast-check";

/** How long one property tries histories, and again how long it looks for a shorter failing one. */
const boundMs = 10_000;

/**
 * Asserts what `check` asserts over `atMost` histories, or over those that begin within the
 * bound: a slow machine tries fewer rather than none. They differ from run to run; a failure
 * tells the seed that shows it again.
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
      if (!hasFailed) until = performance.now() + boundMs;
      hasFailed = true;
      throw error;
    }
  });
  await fc.assert(property, { numRuns: atMost });
  if (tried < atMost) console.log(`      ${tried} of ${atMost} histories in ${boundMs / 1000} s`);
}
