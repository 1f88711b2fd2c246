/**
 * A limit on how much happens in a period. What happens fills a bucket, which leaks at the rate
 * of the limit and holds what one period allows: so after a pause as much may happen at once.
 */
export class Rate {
  readonly #periodMs: number;
  readonly #now: () => number;
  #level = 0;
  #atMs: number;

  /**
   * @param periodMs that limits are about
   * @param now milliseconds of a clock that does not go back
   */
  constructor(periodMs: number, now: () => number) {
    this.#periodMs = periodMs;
    this.#now = now;
    this.#atMs = now();
  }

  /**
   * What has happened and has not leaked by now.
   *
   * @param limit in a period; Infinity: nothing is remembered
   */
  level(limit: number): number {
    const nowMs = this.#now();
    const leaked = limit === Number.POSITIVE_INFINITY ? this.#level : this.#leak(limit, nowMs);
    this.#level = Math.max(0, this.#level - leaked);
    this.#atMs = nowMs;
    return this.#level;
  }

  #leak(limit: number, nowMs: number): number {
    return ((nowMs - this.#atMs) * limit) / this.#periodMs;
  }

  /**
   * Milliseconds until what has happened, and so much more, has leaked down to the limit;
   * Infinity where the limit is 0.
   */
  msUntil(limit: number, more: number): number {
    if (limit === Number.POSITIVE_INFINITY) return 0;
    if (limit === 0) return Number.POSITIVE_INFINITY;
    return (Math.max(0, this.level(limit) + more - limit) * this.#periodMs) / limit;
  }

  /**
   * So much happens now, whether it fits or not, unless what has happened before has still to
   * leak down to the limit.
   *
   * @returns whether it happens
   */
  tryAdd(limit: number, more: number): boolean {
    if (limit === Number.POSITIVE_INFINITY) return true;
    if (this.level(limit) > limit) return false;
    this.#level += more;
    return true;
  }
}
