import { yieldToEventLoop } from "../event-loop.ts";
import type { Committer } from "../ingest/committer.ts";
import type { Journal } from "../journal/journal.ts";
import { findNamespace, lockNamespace } from "../journal/namespaces.ts";
import type { NodeIdentity } from "../journal/nodes.ts";
import { findRuns, findRunsByKey, type RunRow } from "../journal/runs.ts";
import type { Db } from "../journal/schema.ts";
import { isCovered } from "../journal/subtrees.ts";
import {
  deleteRecords,
  deleteRuns,
  findForksAfter,
  findNewestOfTree,
  findOpenInTree,
  latestEnd,
  type MarkedTree,
  markTree,
  readTreeStretch,
  type TreeStretch,
  type TreeSummary,
  unmarkTree,
} from "../journal/trees.ts";
import { invalidField, RefusedError } from "../refusal.ts";
import type { Within } from "../subtree.ts";

/** Runs that one step deletes: each takes a row in the closure per ancestor, and its labels. */
const runsPerStep = 100;
/** Records that one step deletes, and their bytes: some milliseconds of the database. */
const rowsPerStep = 500;
const bytesPerStep = 2 * 1024 * 1024;
/** Runs that one step looks at before a tree is marked. */
const runsPerLook = 512;
/** Forks that may have begun while a tree was looked at; after more it is looked at again. */
const forksPerMark = 256;
/** Looks at a tree that changes each time. */
const maxSurveys = 5;

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

/**
 * Deletes trees of ended runs: whole trees only, in steps so short that appends
 * go on in between.
 */
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
   * @param within where the caller may delete
   * @returns undefined where it was left alone
   * @throws RefusedError run_not_found; invalid_field where the run is no root;
   *   tree_in_use; draining where the server stops before the end
   */
  async delete(
    namespace: string,
    rootRunId: string,
    endedByMs = Number.POSITIVE_INFINITY,
    within?: Within,
  ): Promise<DeletedTree | undefined> {
    const { journal, committer, node, onMarked } = this.#options;
    const { signal } = this.#stopping;
    for (let tries = 1; ; tries++) {
      const found = await survey(journal.scans, namespace, rootRunId, within, signal);
      const { runCount, endTimeMs } = found.summary;
      if (endTimeMs !== undefined && endTimeMs > endedByMs) return undefined;
      const marked = await committer.runExclusive(
        namespace,
        (tx) => mark(tx, namespace, found, node.nodeKey),
        (tree) => {
          if (tree !== "changed") onMarked(namespace);
        },
      );
      if (marked !== "changed") return { runCount, recordCount: await this.#finish(marked) };
      // Somebody goes on with it all the time.
      if (tries === maxSurveys) throw inUseBy("open", rootRunId);
    }
  }

  /** Goes on with a deletion that was begun, or waits for the one that is under way here. */
  async resume(tree: MarkedTree): Promise<void> {
    await this.#finish(tree);
  }

  /** Stops between two steps; unfinished trees stay marked. */
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
      await yieldToEventLoop();
      if (this.#stopping.signal.aborted) throw new RefusedError({ reason: "draining" });
      return journal.write(work);
    };
    while ((await step((tx) => deleteRuns(tx, tree, runsPerStep, rowsPerStep))) > 0) {
      // The next ones.
    }
    let recordCount = 0;
    for (;;) {
      const deleted = await step((tx) => deleteRecords(tx, tree, rowsPerStep, bytesPerStep));
      if (deleted.rows === 0) break;
      recordCount += deleted.items;
    }
    await step((tx) => unmarkTree(tx, tree));
    while (!this.#stopping.signal.aborted && (await journal.reclaimSpace()))
      await yieldToEventLoop();
    return recordCount;
  }
}

function keyOf(tree: MarkedTree): string {
  return `${tree.namespace_id}/${tree.root_key}`;
}

/** What a tree was found to be, without its namespace's lock. */
interface Survey {
  readonly root: RunRow;
  readonly summary: TreeSummary;
  /** The namespace's newest seq before the survey began: forks from the tree may be newer. */
  readonly seenSeq: number;
  /** The tree's newest record before the survey began: the tree is as it was while it is that. */
  readonly newestSeq: number;
}

/** Looks at a tree in steps, each of which costs the same however large it is. */
async function survey(
  db: Db,
  namespace: string,
  rootRunId: string,
  within: Within,
  signal: AbortSignal,
): Promise<Survey> {
  const found = await findNamespace(db, namespace);
  const [root] = found === undefined ? [] : await findRuns(db, found.namespace_id, [rootRunId]);
  const isThere = root !== undefined && (await isCovered(db, within, root));
  if (found === undefined || !isThere) {
    throw new RefusedError({ reason: "run_not_found", runId: rootRunId });
  }
  const { namespace_id: namespaceId, run_key: rootKey } = root;
  if (root.root_key !== rootKey) {
    const [above] = await findRunsByKey(db, namespaceId, [root.root_key]);
    const rootId = JSON.stringify(above?.run_id);
    throw invalidField("root_run_id", `is not a root: the root of its tree is ${rootId}`);
  }
  const newestSeq = await findNewestOfTree(db, namespaceId, rootKey);
  await refuseOpen(db, namespaceId, rootKey);
  const summary = { runCount: 0, eventBytes: 0, lastSeq: 0, endTimeMs: 0 as number | undefined };
  for (let afterKey: number | undefined = 0; afterKey !== undefined; ) {
    if (signal.aborted) throw new RefusedError({ reason: "draining" });
    const part: TreeStretch = await readTreeStretch(
      db,
      namespaceId,
      rootKey,
      afterKey,
      runsPerLook,
    );
    if (part.forkRunId !== undefined) throw inUseBy("fork", part.forkRunId);
    summary.runCount += part.runCount;
    summary.eventBytes += part.eventBytes;
    summary.lastSeq = Math.max(summary.lastSeq, part.lastSeq);
    summary.endTimeMs = latestEnd([summary.endTimeMs, part.endTimeMs]);
    afterKey = part.reachKey;
  }
  return { root, summary, seenSeq: found.last_seq, newestSeq };
}

/** Marks a tree, if it still is as it was found; "changed" where it has to be looked at again. */
async function mark(
  tx: Db,
  namespace: string,
  { root, summary, seenSeq, newestSeq }: Survey,
  nodeKey: number,
): Promise<MarkedTree | "changed"> {
  const locked = await lockNamespace(tx, namespace);
  const { namespace_id: namespaceId, run_key: rootKey } = root;
  const [still] = await findRuns(tx, namespaceId, [root.run_id]);
  if (locked === undefined || still?.run_key !== rootKey) {
    throw new RefusedError({ reason: "run_not_found", runId: root.run_id });
  }
  await refuseOpen(tx, namespaceId, rootKey);
  if ((await findNewestOfTree(tx, namespaceId, rootKey)) !== newestSeq) return "changed";
  const forks = await findForksAfter(tx, namespaceId, seenSeq, forksPerMark);
  const fork = forks.find((one) => one.source_root_key === rootKey && one.root_key !== rootKey);
  if (fork !== undefined) throw inUseBy("fork", fork.run_id);
  if (forks.length === forksPerMark || summary.endTimeMs === undefined) return "changed";
  await markTree(tx, locked, rootKey, summary, nodeKey);
  return { namespace_id: namespaceId, root_key: rootKey };
}

async function refuseOpen(db: Db, namespaceId: number, rootKey: number): Promise<void> {
  const open = await findOpenInTree(db, namespaceId, rootKey);
  if (open !== undefined) throw inUseBy("open", open);
}

function inUseBy(by: "open" | "fork", runId: string): RefusedError {
  return new RefusedError({ reason: "tree_in_use", by, runId });
}
