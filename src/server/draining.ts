/**
 * Tells long calls that the server is going away, in two steps: first they are
 * asked to finish their work in flight; at the deadline the server ends them.
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
    const listeners = [...this.#listeners];
    this.#listeners.clear();
    const errors: unknown[] = [];
    for (const listener of listeners) {
      // One that fails is not to keep the others here.
      try {
        listener();
      } catch (error) {
        errors.push(error);
      }
    }
    if (errors.length > 0) throw new AggregateError(errors, "not all could be told to leave");
  }
}

/** The way out of the server, or of one of its connections. */
export class Draining {
  readonly #start = new Step();
  readonly #deadline = new Step();

  /** The exit of a part: it ends with the whole, or before. Call `leave` once it has ended. */
  part(): { readonly draining: Draining; readonly leave: () => void } {
    const draining = new Draining();
    const notStart = this.onStart(() => draining.start());
    const notDeadline = this.onDeadline(() => draining.end());
    return {
      draining,
      leave() {
        notStart();
        notDeadline();
      },
    };
  }

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

  /** Ends the parts that have not ended by themselves. */
  end(): void {
    this.#start.take();
    this.#deadline.take();
  }
}
