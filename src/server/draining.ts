/**
 * Tells long calls that the server is going away, in two steps: first they are
 * asked to finish what is in flight, then, at the deadline, they are ended.
 */

/** A step that is taken once. */
class Step {
  readonly #listeners = new Set<() => void>();
  taken = false;

  on(listener: () => void): () => void {
    if (this.taken) listener();
    else this.#listeners.add(listener);
    return () => this.#listeners.delete(listener);
  }

  take(): void {
    if (this.taken) return;
    this.taken = true;
    for (const listener of [...this.#listeners]) listener();
    this.#listeners.clear();
  }
}

/** The server's way out. */
export class Draining {
  readonly #start = new Step();
  readonly #deadline = new Step();

  /** Whether the server has begun to go away. */
  get started(): boolean {
    return this.#start.taken;
  }

  /** Calls `listener` when draining starts, at once if it has; the result takes it back. */
  onStart(listener: () => void): () => void {
    return this.#start.on(listener);
  }

  /** Calls `listener` when the time for finishing is over; the result takes it back. */
  onDeadline(listener: () => void): () => void {
    return this.#deadline.on(listener);
  }

  /** Starts draining. */
  start(): void {
    this.#start.take();
  }

  /** Ends what has not ended by itself. */
  end(): void {
    this.#start.take();
    this.#deadline.take();
  }
}
