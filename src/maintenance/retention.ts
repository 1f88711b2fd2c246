import type { Journal } from "../journal/journal.ts";
import { findNamespaces, listKeptNamespaces, type NamespaceRow } from "../journal/namespaces.ts";
import { type EndedRoot, findEndedRoots } from "../journal/trees.ts";
import { RefusedError } from "../refusal.ts";
import type { Deletions } from "./delete-tree.ts";
import { Rounds } from "./rounds.ts";

/** Namespaces that are looked up at once. */
const namespacesPerPage = 100;
/** Roots that are looked up at once, and that one look goes through in a namespace. */
const rootsPerPage = 32;
const rootsPerLook = 1_024;

/** What retention works with. */
export interface RetentionOptions {
  readonly journal: Journal;
  readonly deletions: Deletions;
  /** Whether this node is the one that looks; one of several is enough. */
  readonly isOnDuty: () => boolean;
  /** Milliseconds since 1970; undefined while the time is in doubt, and nothing is deleted. */
  readonly now: () => number | undefined;
  /** Milliseconds between looks for trees whose time is over. */
  readonly intervalMs: number;
  /** Called when a look failed; the next one comes anyway. */
  readonly onFailure: (error: unknown) => void;
}

/** Where a look at a namespace goes on. */
type Place = Pick<EndedRoot, "end_time_ms" | "run_key">;

const beginning: Place = { end_time_ms: -1, run_key: 0 };

/**
 * Deletes trees whose retention is over, in steps: each look goes through some of
 * a namespace's ended roots and the next one goes on from there, so that trees
 * which cannot be deleted yet keep nobody waiting.
 */
export class Retention {
  readonly #options: RetentionOptions;
  readonly #everywhere: Rounds;
  readonly #somewhere: Rounds;
  /** Namespaces whose retention has changed. */
  readonly #due = new Set<string>();
  /** By namespace. */
  readonly #places = new Map<number, Place>();

  constructor(options: RetentionOptions) {
    this.#options = options;
    const { intervalMs, onFailure } = options;
    const round = (signal: AbortSignal) => this.#lookEverywhere(signal);
    this.#everywhere = new Rounds({ intervalMs, onFailure, round });
    const some = (signal: AbortSignal) => this.#lookAtDue(signal);
    this.#somewhere = new Rounds({ intervalMs, onFailure, round: some });
  }

  /** Looks now, and from time to time. */
  start(): void {
    this.#everywhere.start();
  }

  /** Looks at a namespace whose retention has changed. */
  lookAt(namespace: string): void {
    this.#due.add(namespace);
    this.#somewhere.now();
  }

  /** Stops; resolves when no look is under way any more. Stop the deletions as well. */
  async stop(): Promise<void> {
    await Promise.all([this.#everywhere.stop(), this.#somewhere.stop()]);
  }

  async #lookEverywhere(signal: AbortSignal): Promise<void> {
    const { scans } = this.#options.journal;
    for (let afterName: string | undefined = ""; afterName !== undefined; ) {
      if (!this.#options.isOnDuty()) return;
      const page = await listKeptNamespaces(scans, afterName, namespacesPerPage);
      for (const row of page) await this.#lookThrough(row, signal);
      if (signal.aborted) return;
      afterName = page.length < namespacesPerPage ? undefined : page.at(-1)?.name;
    }
  }

  async #lookAtDue(signal: AbortSignal): Promise<void> {
    const due = [...this.#due];
    this.#due.clear();
    if (!this.#options.isOnDuty()) return;
    for (const row of await findNamespaces(this.#options.journal.scans, due)) {
      await this.#lookThrough(row, signal);
    }
  }

  async #lookThrough(row: NamespaceRow, signal: AbortSignal): Promise<void> {
    const { journal, now } = this.#options;
    const { namespace_id: id, name, retention_ms: retentionMs } = row;
    if (retentionMs === null) return;
    let place = this.#places.get(id) ?? beginning;
    this.#places.delete(id);
    for (let looked = 0; looked < rootsPerLook; looked += rootsPerPage) {
      const nowMs = now();
      if (signal.aborted || nowMs === undefined) return;
      const endedByMs = nowMs - retentionMs;
      const roots = await findEndedRoots(journal.scans, id, endedByMs, place, rootsPerPage);
      for (const root of roots) {
        if (signal.aborted) return;
        await this.#delete(name, root.run_id, endedByMs);
        place = root;
      }
      if (roots.length < rootsPerPage) return;
    }
    this.#places.set(id, place);
  }

  async #delete(namespace: string, rootRunId: string, endedByMs: number): Promise<void> {
    const { deletions, onFailure } = this.#options;
    try {
      await deletions.delete(namespace, rootRunId, endedByMs);
    } catch (error) {
      if (!(error instanceof RefusedError)) {
        // The next tree may do.
        onFailure(error);
        return;
      }
      switch (error.refusal.reason) {
        // Opened again, forked or deleted since it was found.
        case "tree_in_use":
        case "run_not_found":
          return;
        default:
          throw error;
      }
    }
  }
}
