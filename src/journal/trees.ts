/**
 * Queries that delete trees, whole ones only and in bounded steps. First a
 * tree is marked, under the namespace's lock: from then on its runs are not
 * there any more. Then its rows go, runs before records, and last the mark; a
 * process that dies in between leaves the mark, and whoever finds it goes on.
 */
import { type SqlBool, sql } from "kysely";
import { RunState } from "../../gen/runlog/v1/run_pb.js";
import { padded } from "./lists.ts";
import { type NamespaceRow, updateNamespace } from "./namespaces.ts";
import { isOwn } from "./nodes.ts";
import type { Db } from "./schema.ts";

/** What a tree holds. */
export interface TreeSummary {
  readonly runCount: number;
  readonly eventBytes: number;
  /** seq of its newest record. */
  readonly lastSeq: number;
  /** When the last of its runs ended, milliseconds since 1970; undefined while one is RUNNING. */
  readonly endTimeMs: number | undefined;
}

/** Reads what a tree holds; costs a row per run. */
export async function summarizeTree(
  tx: Db,
  namespaceId: number,
  rootKey: number,
): Promise<TreeSummary> {
  const row = await runsOfTree(tx, namespaceId, rootKey)
    .select((eb) => [
      eb.fn.countAll<number>().as("run_count"),
      eb.fn.sum<number>("r.event_bytes").as("event_bytes"),
      eb.fn.max("r.last_seq").as("last_seq"),
      eb.fn.max("r.end_time_ms").as("end_time_ms"),
      eb.fn.count<number>("r.end_time_ms").as("ended_count"),
    ])
    .executeTakeFirstOrThrow();
  return {
    runCount: row.run_count,
    eventBytes: row.event_bytes,
    lastSeq: row.last_seq,
    endTimeMs: row.ended_count === row.run_count ? (row.end_time_ms ?? undefined) : undefined,
  };
}

/** A run of the tree that is RUNNING, if any. */
export async function findRunningInTree(
  tx: Db,
  namespaceId: number,
  rootKey: number,
): Promise<string | undefined> {
  const row = await runsOfTree(tx, namespaceId, rootKey)
    .select("r.run_id")
    .where("r.state", "=", RunState.RUNNING)
    .limit(1)
    .executeTakeFirst();
  return row?.run_id;
}

/** A run of another tree that was forked from one of this tree, if any. */
export async function findForkOfTree(
  tx: Db,
  namespaceId: number,
  rootKey: number,
): Promise<string | undefined> {
  const row = await tx
    .selectFrom("run_ancestors as a")
    .innerJoin("runs as f", (join) =>
      join.onRef("f.namespace_id", "=", "a.namespace_id").onRef("f.fork_key", "=", "a.run_key"),
    )
    .select("f.run_id")
    .where("a.namespace_id", "=", namespaceId)
    .where("a.ancestor_key", "=", rootKey)
    .where("f.root_key", "!=", rootKey)
    .limit(1)
    .executeTakeFirst();
  return row?.run_id;
}

/**
 * Roots of trees that ended at or before a moment and are not referred to,
 * those that ended first, first.
 *
 * @param endedByMs milliseconds since 1970
 */
export async function findEndedTrees(
  db: Db,
  namespaceId: number,
  endedByMs: number,
  limit: number,
): Promise<string[]> {
  const rows = await db
    .selectFrom("runs as root")
    .select("root.run_id")
    .where("root.namespace_id", "=", namespaceId)
    .where("root.parent_key", "is", null)
    .where("root.end_time_ms", "<=", endedByMs)
    .where((eb) =>
      eb.not(
        eb.exists(
          eb
            .selectFrom("run_ancestors as a")
            .innerJoin("runs as r", (join) =>
              join
                .onRef("r.namespace_id", "=", "a.namespace_id")
                .onRef("r.run_key", "=", "a.run_key"),
            )
            .select("r.run_key")
            .whereRef("a.namespace_id", "=", "root.namespace_id")
            .whereRef("a.ancestor_key", "=", "root.run_key")
            .where((or) =>
              or.or([or("r.end_time_ms", "is", null), or("r.end_time_ms", ">", endedByMs)]),
            ),
        ),
      ),
    )
    .where((eb) =>
      eb.not(
        eb.exists(
          eb
            .selectFrom("run_ancestors as a")
            .innerJoin("runs as f", (join) =>
              join
                .onRef("f.namespace_id", "=", "a.namespace_id")
                .onRef("f.fork_key", "=", "a.run_key"),
            )
            .select("f.run_key")
            .whereRef("a.namespace_id", "=", "root.namespace_id")
            .whereRef("a.ancestor_key", "=", "root.run_key")
            .whereRef("f.root_key", "!=", "root.root_key"),
        ),
      ),
    )
    .where((eb) =>
      eb.not(
        eb.exists(
          eb
            .selectFrom("deletions as d")
            .select("d.root_key")
            .whereRef("d.namespace_id", "=", "root.namespace_id")
            .whereRef("d.root_key", "=", "root.run_key"),
        ),
      ),
    )
    .orderBy("root.end_time_ms")
    .limit(limit)
    .execute();
  return rows.map((row) => row.run_id);
}

/** Marks a tree as being deleted, and takes it out of the namespace's counts. */
export async function markTree(
  tx: Db,
  namespace: NamespaceRow,
  rootKey: number,
  summary: TreeSummary,
  nodeKey: number,
): Promise<void> {
  const { namespace_id: namespaceId } = namespace;
  await tx
    .insertInto("deletions")
    .values({ namespace_id: namespaceId, root_key: rootKey, node_key: nodeKey })
    .execute();
  await updateNamespace(tx, namespaceId, {
    trimmed_seq: Math.max(namespace.trimmed_seq, summary.lastSeq),
    deletion_count: namespace.deletion_count + 1,
    run_count: namespace.run_count - summary.runCount,
    event_bytes: namespace.event_bytes - summary.eventBytes,
  });
}

/** A tree that is marked. */
export interface MarkedTree {
  readonly namespace_id: number;
  readonly root_key: number;
}

/**
 * Trees that are marked: what was begun and is not finished.
 *
 * @param andOfGone also those of nodes that are gone, besides this node's
 * @param after only trees behind this place: a namespace, and a root in it
 */
export function findMarkedTrees(
  db: Db,
  nodeKey: number,
  andOfGone: boolean,
  [afterNamespaceId, afterRootKey]: readonly [number, number],
  limit: number,
): Promise<MarkedTree[]> {
  return db
    .selectFrom("deletions")
    .select(["namespace_id", "root_key"])
    .where(isOwn("node_key", nodeKey, andOfGone))
    .where(sql<SqlBool>`(namespace_id, root_key) > (${afterNamespaceId}, ${afterRootKey})`)
    .orderBy("namespace_id")
    .orderBy("root_key")
    .limit(limit)
    .execute();
}

/** Roots of a namespace's trees that are being deleted. */
export async function findMarkedRoots(db: Db, namespaceId: number): Promise<number[]> {
  const rows = await db
    .selectFrom("deletions")
    .select("root_key")
    .where("namespace_id", "=", namespaceId)
    .execute();
  return rows.map((row) => row.root_key);
}

/** Deletes at most `limit` runs of a marked tree, its root last; returns how many. */
export async function deleteRuns(tx: Db, tree: MarkedTree, limit: number): Promise<number> {
  const rows = await tx
    .selectFrom("run_ancestors")
    .select("run_key")
    .where("namespace_id", "=", tree.namespace_id)
    .where("ancestor_key", "=", tree.root_key)
    .orderBy("run_key", "desc")
    .limit(limit)
    .execute();
  const runKeys = rows.map((row) => row.run_key);
  if (runKeys.length === 0) return 0;
  for (const table of ["run_labels", "cancellations", "run_ancestors", "runs"] as const) {
    await tx
      .deleteFrom(table)
      .where("namespace_id", "=", tree.namespace_id)
      .where("run_key", "in", padded(runKeys))
      .execute();
  }
  return runKeys.length;
}

/**
 * Deletes records of a marked tree, at most `maxRows` rows and about `maxBytes`.
 *
 * @returns the rows, and the events and facts in them
 */
export async function deleteRecords(
  tx: Db,
  tree: MarkedTree,
  maxRows: number,
  maxBytes: number,
): Promise<{ rows: number; items: number }> {
  const rows = await tx
    .selectFrom("records")
    .select(["last_seq", "event_count", "size"])
    .where("namespace_id", "=", tree.namespace_id)
    .where("root_key", "=", tree.root_key)
    .orderBy("last_seq")
    .limit(maxRows)
    .execute();
  const seqs: number[] = [];
  let bytes = 0;
  let items = 0;
  for (const row of rows) {
    bytes += row.size;
    if (seqs.length > 0 && bytes > maxBytes) break;
    seqs.push(row.last_seq);
    items += row.event_count;
  }
  if (seqs.length > 0) {
    await tx
      .deleteFrom("records")
      .where("namespace_id", "=", tree.namespace_id)
      .where("last_seq", "in", padded(seqs))
      .execute();
  }
  return { rows: seqs.length, items };
}

/** Takes the mark away: nothing of the tree is left. */
export async function unmarkTree(tx: Db, tree: MarkedTree): Promise<void> {
  await tx
    .deleteFrom("deletions")
    .where("namespace_id", "=", tree.namespace_id)
    .where("root_key", "=", tree.root_key)
    .execute();
}

/** The first seq of the oldest record that is left; undefined where there is none. */
export async function findEarliestSeq(db: Db, namespaceId: number): Promise<number | undefined> {
  const row = await db
    .selectFrom("records")
    .select(sql<number>`last_seq - event_count + 1`.as("seq"))
    .where("namespace_id", "=", namespaceId)
    .orderBy("last_seq")
    .limit(1)
    .executeTakeFirst();
  return row?.seq;
}

function runsOfTree(tx: Db, namespaceId: number, rootKey: number) {
  return tx
    .selectFrom("run_ancestors as a")
    .innerJoin("runs as r", (join) =>
      join.onRef("r.namespace_id", "=", "a.namespace_id").onRef("r.run_key", "=", "a.run_key"),
    )
    .where("a.namespace_id", "=", namespaceId)
    .where("a.ancestor_key", "=", rootKey);
}
