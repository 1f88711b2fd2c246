import { findUnfinishedCancellations } from "../journal/cancellations.ts";
import type { Journal } from "../journal/journal.ts";
import type { NodeIdentity } from "../journal/nodes.ts";
import { findMarkedTrees } from "../journal/trees.ts";
import type { Cancellations } from "./cancellations.ts";
import type { Deletions } from "./delete-tree.ts";
import { Rounds } from "./rounds.ts";

/** Deletions, and requests, that are looked for at once. */
const pageSize = 64;

/** What it works with. */
export interface UnfinishedOptions {
  readonly journal: Journal;
  readonly node: NodeIdentity;
  /** Whether this node also looks for what nodes that are gone have left. */
  readonly isOnDuty: () => boolean;
  readonly deletions: Deletions;
  readonly cancellations: Cancellations;
  /** Milliseconds between looks. */
  readonly intervalMs: number;
  /** Told of what failed again; it is tried at the next look. */
  readonly onFailure: (error: unknown) => void;
}

/**
 * Resumes unfinished work: deletions of trees, and requests
 * to stop families. Each node looks for its own, since a database that failed it
 * does not kill it; the node on duty also for those of nodes that are gone.
 */
export class Unfinished {
  readonly #options: UnfinishedOptions;
  readonly #rounds: Rounds;

  constructor(options: UnfinishedOptions) {
    this.#options = options;
    const { intervalMs, onFailure } = options;
    const round = async (signal: AbortSignal) => {
      // One that takes long does not keep the others waiting.
      await Promise.all([this.#deletions(signal), this.#cancellations(signal)]);
    };
    this.#rounds = new Rounds({ intervalMs, onFailure, round });
  }

  /** Looks now, and from time to time. */
  start(): void {
    this.#rounds.start();
  }

  /** Resolves when no look is under way. Stop the deletions and cancellations as well. */
  stop(): Promise<void> {
    return this.#rounds.stop();
  }

  #deletions(signal: AbortSignal): Promise<void> {
    const { journal, node, isOnDuty, deletions } = this.#options;
    return this.#each(
      signal,
      (after) => findMarkedTrees(journal.scans, node.nodeKey, isOnDuty(), after, pageSize),
      (tree) => [tree.namespace_id, tree.root_key],
      (tree) => deletions.resume(tree),
    );
  }

  #cancellations(signal: AbortSignal): Promise<void> {
    const { journal, node, isOnDuty, cancellations } = this.#options;
    return this.#each(
      signal,
      (after) =>
        findUnfinishedCancellations(journal.scans, node.nodeKey, isOnDuty(), after, pageSize),
      (family) => [family.namespaceId, family.runKey],
      (family) => cancellations.resume(family.namespace, family),
    );
  }

  /** Goes through what `find` finds, a page at a time; what fails does not stop the rest. */
  async #each<T>(
    signal: AbortSignal,
    find: (after: Place) => Promise<readonly T[]>,
    placeOf: (one: T) => Place,
    resume: (one: T) => Promise<void>,
  ): Promise<void> {
    for (let after: Place = [0, 0]; ; ) {
      const page = await find(after);
      for (const one of page) {
        if (signal.aborted) return;
        try {
          await resume(one);
        } catch (error) {
          if (!signal.aborted) this.#options.onFailure(error);
        }
      }
      const last = page.at(-1);
      if (last === undefined || page.length < pageSize) return;
      after = placeOf(last);
    }
  }
}

/** A namespace, and a key of a run in it. */
type Place = readonly [namespaceId: number, runKey: number];
