/**
 * uint64 is bigint on the wire; run_seq is a number inside the client.
 * 2^53 events of one run would take 285 years at a million a second.
 */

/** Returns a uint64 as a number. Throws RangeError where a number cannot hold it exactly. */
export function toNumber(value: bigint, what: string): number {
  if (value > BigInt(Number.MAX_SAFE_INTEGER)) {
    throw new RangeError(`${what} ${value} is beyond 2^53 - 1`);
  }
  return Number(value);
}
