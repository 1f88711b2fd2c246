/** Seeded randomness: the same seed gives the same choices. */

/** Chooses numbers. */
export interface Random {
  /** What it began with; print it. */
  readonly seed: number;
  /** A whole number from min to max, both included. */
  between(min: number, max: number): number;
}

/** mulberry32, https://gist.github.com/tommyettinger/46a874533244883189143505d203312c */
export function randomOf(seed: number): Random {
  let state = seed;
  const next = (): number => {
    state = (state + 0x6d2b79f5) | 0;
    let mixed = Math.imul(state ^ (state >>> 15), state | 1);
    mixed ^= mixed + Math.imul(mixed ^ (mixed >>> 7), mixed | 61);
    return ((mixed ^ (mixed >>> 14)) >>> 0) / 2 ** 32;
  };
  return { seed, between: (min, max) => min + Math.floor(next() * (max - min + 1)) };
}

/** The seed in RUNLOG_TEST_SEED, or a new one. */
export function chosenSeed(): number {
  const given = process.env["RUNLOG_TEST_SEED"];
  return given === undefined ? Math.floor(Math.random() * 2 ** 31) : Number(given);
}
