/** Deletes trees whose retention is over. */

import type { Journal } from "../journal/journal.ts";
import { eachNamespace } from "../journal/namespaces.ts";
import { RefusedError } from "../journal/refusal.ts";
import { findEndedTrees } from "../journal/trees.ts";
import type { Deletions } from "./delete-tree.ts";

/** Trees that are looked for at once. */
const treesPerLook = 32;

/** What retention works with. */
export interface RetentionOptions {
  readonly journal: Journal;
  readonly deletions: Deletions;
  /** Whether this node is the one that looks; one of several is enough. */
  readonly isOnDuty: () => boolean;
  /** Milliseconds since 1970. */
  readonly now: () => number;
  /** Milliseconds between looks for trees whose time is over. */
  readonly intervalMs: number;
  /** Told where a look failed; the next one comes anyway. */
  readonly onFailure: (error: unknown) => void;
}

/** See the head of this file. */
export class Retention {
  readonly #options: RetentionOptions;
  readonly #stopping = new AbortController();
  #timer: NodeJS.Timeout | undefined;
  #looking: Promise<void> | undefined;

  constructor(options: RetentionOptions) {
    this.#options = options;
  }

  /** Looks now, and from time to time. */
  start(): void {
    this.#timer = setInterval(() => this.look(), this.#options.intervalMs);
    this.look();
  }

  /** Looks now, unless a look is under way. */
  look(): void {
    if (!this.#options.isOnDuty()) return;
    this.#looking ??= this.#look()
      .catch((error: unknown) => {
        if (!this.#stopping.signal.aborted) this.#options.onFailure(error);
      })
      .finally(() => {
        this.#looking = undefined;
      });
  }

  /** Stops; resolves when no look is under way any more. Stop the deletions first. */
  async stop(): Promise<void> {
    clearInterval(this.#timer);
    this.#stopping.abort();
    await this.#looking;
  }

  async #look(): Promise<void> {
    const { journal, now } = this.#options;
    const { signal } = this.#stopping;
    for await (const { namespace_id: id, name, retention_ms: retentionMs } of eachNamespace(
      journal.db,
    )) {
      if (retentionMs === null) continue;
      const endedByMs = now() - retentionMs;
      for (let deleted = treesPerLook; deleted > 0; ) {
        deleted = 0;
        for (const rootRunId of await findEndedTrees(journal.db, id, endedByMs, treesPerLook)) {
          if (signal.aborted) return;
          if (await this.#delete(name, rootRunId, endedByMs)) deleted++;
        }
      }
    }
  }

  /** Whether the tree is gone. */
  async #delete(namespace: string, rootRunId: string, endedByMs: number): Promise<boolean> {
    try {
      const { deletions } = this.#options;
      return (await deletions.delete(namespace, rootRunId, endedByMs)) !== undefined;
    } catch (error) {
      if (!(error instanceof RefusedError)) throw error;
      switch (error.refusal.reason) {
        // Opened again, forked or deleted since it was found.
        case "tree_in_use":
        case "run_not_found":
          return false;
        default:
          throw error;
      }
    }
  }
}
