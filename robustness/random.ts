/** Seeded choices: the same seed gives the same ones, in the same order. */

/** Chooses. */
export interface Random {
  readonly seed: number;
  /** A whole number from min to max, both included. */
  between(min: number, max: number): number;
  /** One of them. */
  pick<T>(all: readonly T[]): T;
  /** Choices of its own for somebody, which no one else's calls move on. */
  fork(name: string): Random;
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
  const between = (min: number, max: number) => min + Math.floor(next() * (max - min + 1));
  return {
    seed,
    between,
    pick: (all) => {
      const one = all[between(0, all.length - 1)];
      if (one === undefined) throw new RangeError("nothing to choose from");
      return one;
    },
    fork: (name) => {
      let hash = seed;
      for (const letter of name) hash = (Math.imul(hash, 31) + letter.charCodeAt(0)) | 0;
      return randomOf(hash);
    },
  };
}
