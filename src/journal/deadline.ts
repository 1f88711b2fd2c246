/** A moment until which something has to be over, on the monotonic clock. */
export class Deadline {
  readonly #atMs: number;

  /** @param inMs milliseconds from now */
  constructor(inMs: number) {
    this.#atMs = performance.now() + inMs;
  }

  /** Whole milliseconds that are left, at least 1: where a time-out is 0 there is none. */
  get leftMs(): number {
    return Math.max(1, Math.ceil(this.#atMs - performance.now()));
  }

  /** Whether it is over. */
  get isOver(): boolean {
    return performance.now() >= this.#atMs;
  }
}
