import type { JournalHealth } from "../journal/journal-health.ts";
import type { Limits } from "../limits.ts";
import type { Draining } from "./draining.ts";

/** Milliseconds between looks at the time for which the database has been away. */
const lookIntervalMs = 250;

/** Who tells. */
export interface ReadinessOptions {
  readonly draining: Draining;
  /** Where the journal is this node's own. */
  readonly health: JournalHealth | undefined;
  /** Milliseconds for which the database of several nodes has not answered. */
  readonly awayMs: (() => number) | undefined;
  readonly limits: Pick<Limits, "databaseWaitMs">;
}

/**
 * Whether this node should get calls. Calls themselves cannot report its state: a node
 * that is not ready gets none. So checks that run by themselves report it, and nothing
 * here waits for what it vouches for.
 *
 * A cause of the node itself, such as a full disk, counts at once. A database that
 * is away counts only after the time for which calls wait for it: a failover of
 * seconds must not make every node unready.
 */
export class Readiness {
  readonly #options: ReadinessOptions;
  readonly #listeners = new Set<() => void>();
  readonly #timer: NodeJS.Timeout | undefined;
  #known: string | undefined;

  constructor(options: ReadinessOptions) {
    this.#options = options;
    const look = () => this.#look();
    options.draining.onStart(look);
    options.health?.onChange(look);
    if (options.awayMs === undefined) return;
    this.#timer = setInterval(look, lookIntervalMs);
    this.#timer.unref();
  }

  /** Why the node should not be sent calls, in a line; undefined where it should. */
  get problem(): string | undefined {
    const { draining, health, awayMs, limits } = this.#options;
    if (draining.started) return "draining";
    if (health?.problem !== undefined) return health.problem.message;
    if (awayMs !== undefined && awayMs() > limits.databaseWaitMs) {
      return "the journal's database does not answer";
    }
    return undefined;
  }

  /** Whether the node goes away. */
  get isDraining(): boolean {
    return this.#options.draining.started;
  }

  /** Calls back when the node has become ready, or is not any more; the result takes it back. */
  onChange(listener: () => void): () => void {
    this.#listeners.add(listener);
    return () => this.#listeners.delete(listener);
  }

  /** Looks no longer. */
  stop(): void {
    clearInterval(this.#timer);
  }

  #look(): void {
    const { problem } = this;
    const isNews = (problem === undefined) !== (this.#known === undefined);
    this.#known = problem;
    if (!isNews) return;
    for (const listener of [...this.#listeners]) listener();
  }
}
