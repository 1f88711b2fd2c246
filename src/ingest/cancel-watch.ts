/**
 * Tells producers that are connected here of requests to stop that were made at
 * other nodes. The namespace counts the requests, so nothing is looked for while
 * there are none.
 */
import type { Journal } from "../journal/journal.ts";
import type { NamespaceRow } from "../journal/namespaces.ts";
import { findCancelled, type NodeIdentity } from "../journal/nodes.ts";
import type { Committer } from "./committer.ts";

/** What the watch works with. */
export interface CancelWatchOptions {
  readonly journal: Journal;
  readonly committer: Committer;
  readonly node: NodeIdentity;
  /** Told where the journal could not be read; the next look tries again. */
  readonly onFailure: (error: unknown) => void;
}

/** See the head of this file. */
export class CancelWatch {
  readonly #options: CancelWatchOptions;
  /** By namespace, the requests of which producers have been told. */
  readonly #told = new Map<string, number>();
  readonly #underWay = new Set<Promise<void>>();
  #isStopped = false;

  constructor(options: CancelWatchOptions) {
    this.#options = options;
  }

  /** Told how a namespace is now. */
  onRow({ name, namespace_id: namespaceId, cancel_count: count }: NamespaceRow): void {
    if (this.#isStopped || this.#told.get(name) === count) return;
    this.#told.set(name, count);
    if (count === 0) return;
    const telling = this.#tell(name, namespaceId)
      .catch((error: unknown) => {
        this.#told.delete(name);
        if (!this.#isStopped) this.#options.onFailure(error);
      })
      .finally(() => {
        this.#underWay.delete(telling);
      });
    this.#underWay.add(telling);
  }

  /**
   * A producer has opened a run: what was asked between its commit and now may
   * have been noticed before there was somebody to tell.
   */
  onOpened(namespace: string): void {
    this.#told.delete(namespace);
  }

  /** Resolves when nobody is being told any more. */
  async stop(): Promise<void> {
    this.#isStopped = true;
    await Promise.all(this.#underWay);
  }

  async #tell(namespace: string, namespaceId: number): Promise<void> {
    const { journal, committer, node } = this.#options;
    for (const run of await findCancelled(journal.db, namespaceId, node.nodeKey)) {
      committer.holderOf(namespace, run.run_id)?.cancelNoticed(run.cancel_reason ?? "");
    }
  }
}
