/**
 * Deletes trees of ended runs: whole trees only, in steps so short that appends
 * go on in between.
 */

import type { Committer } from "../ingest/committer.ts";
import type { Journal } from "../journal/journal.ts";
import { lockNamespace } from "../journal/namespaces.ts";
import type { NodeIdentity } from "../journal/nodes.ts";
import { invalidField, RefusedError } from "../journal/refusal.ts";
import { findRuns, findRunsByKey } from "../journal/runs.ts";
import type { Db } from "../journal/schema.ts";
import {
  deleteRecords,
  deleteRuns,
  findForkOfTree,
  findRunningInTree,
  type MarkedTree,
  markTree,
  summarizeTree,
  unmarkTree,
} from "../journal/trees.ts";
import { nextTurn } from "../turn.ts";

/** Runs that one step deletes: each takes a row in the closure per ancestor, and its labels. */
const runsPerStep = 100;
/** Records that one step deletes, and their bytes: some milliseconds of the database. */
const rowsPerStep = 500;
const bytesPerStep = 2 * 1024 * 1024;

/** What deletions work with. */
export interface DeletionsOptions {
  readonly journal: Journal;
  readonly committer: Committer;
  readonly node: NodeIdentity;
  /** Told once a tree is not there any more, while its rows still are. */
  readonly onMarked: (namespace: string) => void;
}

/** What was deleted. */
export interface DeletedTree {
  readonly runCount: number;
  /** Events and facts. */
  readonly recordCount: number;
}

/** See the head of this file. */
export class Deletions {
  readonly #options: DeletionsOptions;
  readonly #stopping = new AbortController();
  /** Trees whose rows are being deleted here, so that no two do it. */
  readonly #active = new Map<string, Promise<number>>();

  constructor(options: DeletionsOptions) {
    this.#options = options;
  }

  /**
   * Deletes a tree and resolves when nothing is left of it.
   *
   * @param endedByMs milliseconds since 1970; a tree that ended later is left alone
   * @returns undefined where it was left alone
   * @throws RefusedError run_not_found; invalid_field where the run is no root;
   *   tree_in_use; draining where the server stops before the end
   */
  async delete(
    namespace: string,
    rootRunId: string,
    endedByMs = Number.POSITIVE_INFINITY,
  ): Promise<DeletedTree | undefined> {
    const { committer, node, onMarked } = this.#options;
    const marked = await committer.alone(
      namespace,
      (tx) => mark(tx, namespace, rootRunId, endedByMs, node.nodeKey),
      (tree) => {
        if (tree !== undefined) onMarked(namespace);
      },
    );
    if (marked === undefined) return undefined;
    return { runCount: marked.runCount, recordCount: await this.#finish(marked.tree) };
  }

  /** Goes on with a deletion that was begun, or waits for the one that is under way here. */
  async resume(tree: MarkedTree): Promise<void> {
    await this.#finish(tree);
  }

  /** Stops between two steps; what was begun is left marked. */
  async stop(): Promise<void> {
    this.#stopping.abort();
    await Promise.allSettled(this.#active.values());
  }

  async #finish(tree: MarkedTree): Promise<number> {
    const underWay = this.#active.get(keyOf(tree));
    if (underWay !== undefined) return underWay;
    const finishing = this.#deleteRows(tree);
    this.#active.set(keyOf(tree), finishing);
    try {
      return await finishing;
    } finally {
      this.#active.delete(keyOf(tree));
    }
  }

  async #deleteRows(tree: MarkedTree): Promise<number> {
    const { journal } = this.#options;
    const step = async <T>(work: (tx: Db) => Promise<T>): Promise<T> => {
      await nextTurn();
      if (this.#stopping.signal.aborted) throw new RefusedError({ reason: "draining" });
      return journal.write(work);
    };
    while ((await step((tx) => deleteRuns(tx, tree, runsPerStep))) > 0) {
      // The next ones.
    }
    let recordCount = 0;
    for (;;) {
      const deleted = await step((tx) => deleteRecords(tx, tree, rowsPerStep, bytesPerStep));
      if (deleted.rows === 0) break;
      recordCount += deleted.items;
    }
    await step((tx) => unmarkTree(tx, tree));
    while (!this.#stopping.signal.aborted && (await journal.reclaimSpace())) await nextTurn();
    return recordCount;
  }
}

function keyOf(tree: MarkedTree): string {
  return `${tree.namespace_id}/${tree.root_key}`;
}

async function mark(
  tx: Db,
  namespace: string,
  rootRunId: string,
  endedByMs: number,
  nodeKey: number,
): Promise<{ readonly tree: MarkedTree; readonly runCount: number } | undefined> {
  const locked = await lockNamespace(tx, namespace);
  const [root] = locked === undefined ? [] : await findRuns(tx, locked.namespace_id, [rootRunId]);
  if (locked === undefined || root === undefined) {
    throw new RefusedError({ reason: "run_not_found", runId: rootRunId });
  }
  const { namespace_id: namespaceId, run_key: rootKey } = root;
  if (root.root_key !== rootKey) {
    const [above] = await findRunsByKey(tx, namespaceId, [root.root_key]);
    const rootId = JSON.stringify(above?.run_id);
    throw invalidField("root_run_id", `is not the root of its tree: that is ${rootId}`);
  }
  const running = await findRunningInTree(tx, namespaceId, rootKey);
  if (running !== undefined) {
    throw new RefusedError({ reason: "tree_in_use", by: "running", runId: running });
  }
  const fork = await findForkOfTree(tx, namespaceId, rootKey);
  if (fork !== undefined) {
    throw new RefusedError({ reason: "tree_in_use", by: "fork", runId: fork });
  }
  const summary = await summarizeTree(tx, namespaceId, rootKey);
  if (summary.endTimeMs === undefined || summary.endTimeMs > endedByMs) return undefined;
  await markTree(tx, locked, rootKey, summary, nodeKey);
  return { tree: { namespace_id: namespaceId, root_key: rootKey }, runCount: summary.runCount };
}
