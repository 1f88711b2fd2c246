/** What rounds are made of. */
export interface RoundsOptions {
  /** Milliseconds from the beginning of a round to the next one; a longer round delays it. */
  readonly intervalMs: number;
  /** One round; it ends soon once the signal is aborted. */
  readonly round: (signal: AbortSignal) => Promise<void>;
  /** Called when a round failed; the next one comes anyway. */
  readonly onFailure: (error: unknown) => void;
}

/** Work that is done from time to time, one round after the other. */
export class Rounds {
  readonly #options: RoundsOptions;
  readonly #stopping = new AbortController();
  #timer: NodeJS.Timeout | undefined;
  #underWay: Promise<void> | undefined;
  #isDue = false;

  constructor(options: RoundsOptions) {
    this.#options = options;
  }

  /** Begins with a round. */
  start(): void {
    this.#timer = setInterval(() => this.now(), this.#options.intervalMs);
    this.now();
  }

  /** Makes a round now; where one is under way, another one behind it. */
  now(): void {
    if (this.#stopping.signal.aborted) return;
    this.#isDue = true;
    this.#underWay ??= this.#run().finally(() => {
      this.#underWay = undefined;
    });
  }

  /** Makes no more rounds; resolves when none is under way any more. */
  async stop(): Promise<void> {
    clearInterval(this.#timer);
    this.#stopping.abort();
    await this.#underWay;
  }

  async #run(): Promise<void> {
    const { round, onFailure } = this.#options;
    const { signal } = this.#stopping;
    while (this.#isDue && !signal.aborted) {
      this.#isDue = false;
      try {
        await round(signal);
      } catch (error) {
        if (!signal.aborted) onFailure(error);
      }
    }
  }
}
