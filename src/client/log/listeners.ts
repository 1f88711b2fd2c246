import { warnOfListener } from "../warning.ts";

/** Tells a caller's function, which keeps nobody from going on when it throws. */
export function tell<Args extends readonly unknown[]>(
  listener: ((...args: Args) => void) | undefined,
  ...args: Args
): void {
  try {
    listener?.(...args);
  } catch (error) {
    warnOfListener(error);
  }
}

/** Those who want to hear of changes. */
export class Listeners<Args extends readonly unknown[]> {
  readonly #listeners = new Set<(...args: Args) => void>();

  /** The result removes it. */
  add(listener: (...args: Args) => void): () => void {
    this.#listeners.add(listener);
    return () => this.#listeners.delete(listener);
  }

  tell(...args: Args): void {
    for (const listener of [...this.#listeners]) tell(listener, ...args);
  }
}
