/** Milliseconds that an answer may take: a late answer looks like a wrong clock. */
const maxAnswerMs = 1_000;

/**
 * The clock of the database, as a clock of this process: nodes whose own clocks
 * differ stamp records by the same one. It is read now and then; in between the
 * steady clock goes on from there.
 */
export class DatabaseTime {
  readonly #read: () => Promise<number>;
  readonly #steady: () => number;
  /** Milliseconds from the steady clock to the database's. */
  #offsetMs: number | undefined;

  /** @param read asks the database: milliseconds since 1970 */
  constructor(read: () => Promise<number>, steady: () => number) {
    this.#read = read;
    this.#steady = steady;
  }

  /** Reads the database's clock. */
  async look(): Promise<void> {
    const askedMs = this.#steady();
    const timeMs = await this.#read();
    const answeredMs = this.#steady();
    const isPrecise = answeredMs - askedMs <= maxAnswerMs;
    // The first look is better than none.
    if (isPrecise || this.#offsetMs === undefined) {
      this.#offsetMs = timeMs - (askedMs + answeredMs) / 2;
    }
  }

  /** Milliseconds since 1970, whole. Look before. */
  now(): number {
    if (this.#offsetMs === undefined) throw new Error("the database's clock was never read");
    return Math.floor(this.#offsetMs + this.#steady());
  }
}
