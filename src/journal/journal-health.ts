/** Why nothing is acknowledged. */
export interface JournalProblem {
  /**
   * `passing` may be over by itself; `damaged` needs its operator, and reads go
   * on as far as they can; with `fatal` this process will never write again.
   */
  readonly kind: "passing" | "damaged" | "fatal";
  /** One line for people, with what to do. */
  readonly message: string;
  readonly cause?: unknown;
}

/**
 * Whether a journal can be written, as its own process has last seen it. Its reports come
 * from a watch that tries, so that a journal that nobody uses does not pass for one that
 * works.
 */
export class JournalHealth {
  readonly #listeners = new Set<() => void>();
  #problem: JournalProblem | undefined;

  /** Undefined while it can be written. */
  get problem(): JournalProblem | undefined {
    return this.#problem;
  }

  /** Reports a problem. One that needs an operator is not replaced by one that may pass. */
  failed(problem: JournalProblem): void {
    const before = this.#problem;
    if (before !== undefined && severityOf(before) > severityOf(problem)) return;
    this.#problem = problem;
    if (before?.message !== problem.message) this.#tell();
  }

  /** Notes a write that succeeded: a passing problem is over. */
  worked(): void {
    if (this.#problem?.kind !== "passing") return;
    this.#problem = undefined;
    this.#tell();
  }

  /** Calls back after each change, until the returned function is called. */
  onChange(listener: () => void): () => void {
    this.#listeners.add(listener);
    return () => this.#listeners.delete(listener);
  }

  #tell(): void {
    for (const listener of [...this.#listeners]) listener();
  }
}

function severityOf({ kind }: JournalProblem): number {
  return ["passing", "damaged", "fatal"].indexOf(kind);
}
