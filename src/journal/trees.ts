/**
 * Queries that delete trees, whole ones only and in bounded steps. First a
 * tree is marked, under the namespace's lock: from then on its runs are not
 * there any more. Then its rows go, runs before records, and last the mark; a
 * process that dies in between leaves the mark, and whoever finds it goes on.
 */
import { type SqlBool, sql } from "kysely";
import { type NamespaceRow, updateNamespace } from "./namespaces.ts";
import { isOwn } from "./nodes.ts";
import { isNoRoot } from "./pages/keys.ts";
import { rowsWithin } from "./rows-within.ts";
import { isOpen } from "./run-conditions.ts";
import { isLive, type RunRow } from "./runs.ts";
import type { Db } from "./schema.ts";
import { deleteSignals } from "./signals.ts";
import { padded, parts } from "./statement-lists.ts";

/** What a tree holds. */
export interface TreeSummary {
  readonly runCount: number;
  readonly eventBytes: number;
  /** seq of its newest record. */
  readonly lastSeq: number;
  /** When the last of its runs ended, milliseconds since 1970; undefined while one has not. */
  readonly endTimeMs: number | undefined;
}

/** Some of a tree's runs. */
export interface TreeStretch extends TreeSummary {
  /** Key of the last run that was looked at; undefined where none is left. */
  readonly reachKey: number | undefined;
  /** A run of another tree that was forked from one of them, if any. */
  readonly forkRunId: string | undefined;
}

/** Looks at the next runs of a tree, in the order of their keys; a step costs what `limit` says. */
export async function readTreeStretch(
  db: Db,
  namespaceId: number,
  rootKey: number,
  afterKey: number,
  limit: number,
): Promise<TreeStretch> {
  // By their keys, not joined: a planner may merge the namespace's runs from the first one on.
  const family = await db
    .selectFrom("run_ancestors")
    .select("run_key")
    .where("namespace_id", "=", namespaceId)
    .where("ancestor_key", "=", rootKey)
    .where("run_key", ">", afterKey)
    .orderBy("run_key")
    .limit(limit)
    .execute();
  const runKeys = family.map((row) => row.run_key);
  const rows: Pick<RunRow, "event_bytes" | "last_seq" | "end_time_ms">[] = [];
  for (const part of parts(runKeys)) {
    rows.push(
      ...(await db
        .selectFrom("runs")
        .select(["event_bytes", "last_seq", "end_time_ms"])
        .where("namespace_id", "=", namespaceId)
        .where("run_key", "in", padded(part))
        .execute()),
    );
  }
  return {
    runCount: rows.length,
    eventBytes: rows.reduce((sum, row) => sum + row.event_bytes, 0),
    lastSeq: Math.max(0, ...rows.map((row) => row.last_seq)),
    endTimeMs: latestEnd(rows.map((row) => row.end_time_ms ?? undefined)),
    reachKey: rows.length < limit ? undefined : runKeys.at(-1),
    forkRunId: await findForkOf(db, namespaceId, rootKey, runKeys),
  };
}

/** When the last of them ended; undefined where one has not, and 0 where there are none. */
export function latestEnd(times: readonly (number | undefined)[]): number | undefined {
  let latest = 0;
  for (const time of times) {
    if (time === undefined) return undefined;
    latest = Math.max(latest, time);
  }
  return latest;
}

async function findForkOf(
  db: Db,
  namespaceId: number,
  rootKey: number,
  runKeys: readonly number[],
): Promise<string | undefined> {
  for (const part of parts(runKeys)) {
    const row = await db
      .selectFrom("runs")
      .select("run_id")
      .where("namespace_id", "=", namespaceId)
      .where("fork_key", "in", padded(part))
      .where("root_key", "!=", rootKey)
      .limit(1)
      .executeTakeFirst();
    if (row !== undefined) return row.run_id;
  }
  return undefined;
}

/** A run of the tree that is open, if any. */
export async function findOpenInTree(
  db: Db,
  namespaceId: number,
  rootKey: number,
): Promise<string | undefined> {
  const row = await db
    .selectFrom("runs")
    .select("run_id")
    .where("namespace_id", "=", namespaceId)
    .where("root_key", "=", rootKey)
    .where(isOpen)
    .limit(1)
    .executeTakeFirst();
  return row?.run_id;
}

/**
 * The seq of a tree's newest record. Whatever happens to a tree, but for its
 * forks and its deletion, is a record of it: while this stays, so does the tree.
 */
export async function findNewestOfTree(
  db: Db,
  namespaceId: number,
  rootKey: number,
): Promise<number> {
  // As pairs: only the column's own index is in this order, whatever a planner believes.
  const newest = (column: "root_key" | "run_key") =>
    db
      .selectFrom("records")
      .select("last_seq")
      .where("namespace_id", "=", namespaceId)
      .where(
        sql<SqlBool>`(${sql.ref(column)}, last_seq) < (${rootKey}, ${Number.MAX_SAFE_INTEGER})`,
      )
      .where(column, ">=", rootKey)
      .orderBy(column, "desc")
      .orderBy("last_seq", "desc")
      .limit(1);
  // The index of trees leaves out the root's own records.
  const own = await newest("run_key").executeTakeFirst();
  const others = await newest("root_key").where(isNoRoot()).executeTakeFirst();
  return Math.max(own?.last_seq ?? 0, others?.last_seq ?? 0);
}

/** A fork, and the tree that it was forked from. */
export interface ForkOfTree {
  readonly run_id: string;
  readonly root_key: number;
  readonly source_root_key: number;
}

/** Forks with a greater key, oldest first, at most `limit`. */
export function findForksAfter(
  tx: Db,
  namespaceId: number,
  afterKey: number,
  limit: number,
): Promise<ForkOfTree[]> {
  return tx
    .selectFrom("runs as f")
    .innerJoin("runs as s", (join) =>
      join.onRef("s.namespace_id", "=", "f.namespace_id").onRef("s.run_key", "=", "f.fork_key"),
    )
    .select(["f.run_id", "f.root_key", "s.root_key as source_root_key"])
    .where("f.namespace_id", "=", namespaceId)
    .where("f.fork_key", "is not", null)
    .where("f.run_key", ">", afterKey)
    .orderBy("f.run_key")
    .limit(limit)
    .execute();
}

/** A root that has ended. */
export interface EndedRoot {
  readonly run_id: string;
  readonly run_key: number;
  readonly end_time_ms: number | null;
}

/**
 * Roots that ended at or before a moment, those that ended first, first; their
 * trees may go on.
 *
 * @param endedByMs milliseconds since 1970
 * @param after only roots behind this one
 */
export function findEndedRoots(
  db: Db,
  namespaceId: number,
  endedByMs: number,
  after: Pick<EndedRoot, "end_time_ms" | "run_key">,
  limit: number,
): Promise<EndedRoot[]> {
  return db
    .selectFrom("runs as r")
    .select(["r.run_id", "r.run_key", "r.end_time_ms"])
    .where("r.namespace_id", "=", namespaceId)
    .where("r.parent_key", "is", null)
    .where("r.end_time_ms", "is not", null)
    .where("r.end_time_ms", "<=", endedByMs)
    .where(sql<SqlBool>`(r.end_time_ms, r.run_key) > (${after.end_time_ms}, ${after.run_key})`)
    .where(isLive("r"))
    .orderBy("r.end_time_ms")
    .orderBy("r.run_key")
    .limit(limit)
    .execute();
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
 * Marked trees: their deletion has begun and is not finished.
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

/**
 * Deletes at most `limit` runs of a marked tree, its root last, or what their signals
 * are found by; returns how many.
 *
 * @param maxSignals signals of them that are looked after at once, before the runs
 */
export async function deleteRuns(
  tx: Db,
  tree: MarkedTree,
  limit: number,
  maxSignals: number,
): Promise<number> {
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
  const signals = await deleteSignals(tx, tree.namespace_id, runKeys, maxSignals);
  if (signals === maxSignals) return signals;
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
  const next = tx
    .selectFrom("records")
    .select(["last_seq", "event_count", "size"])
    .where("namespace_id", "=", tree.namespace_id)
    .orderBy("last_seq")
    .limit(maxRows);
  const others = await next.where("root_key", "=", tree.root_key).where(isNoRoot()).execute();
  const found =
    others.length > 0 ? others : await next.where("run_key", "=", tree.root_key).execute();
  const rows = rowsWithin(found, maxBytes);
  if (rows.length > 0) {
    await tx
      .deleteFrom("records")
      .where("namespace_id", "=", tree.namespace_id)
      .where("last_seq", "in", padded(rows.map((row) => row.last_seq)))
      .execute();
  }
  return { rows: rows.length, items: rows.reduce((sum, row) => sum + row.event_count, 0) };
}

/** Takes the mark away: nothing of the tree is left. */
export async function unmarkTree(tx: Db, tree: MarkedTree): Promise<void> {
  await tx
    .deleteFrom("deletions")
    .where("namespace_id", "=", tree.namespace_id)
    .where("root_key", "=", tree.root_key)
    .execute();
}

/**
 * The first seq of the oldest record that is left, by namespace; those in which
 * none is left are missing.
 */
export async function findEarliestSeqs(
  db: Db,
  namespaceIds: readonly number[],
): Promise<Map<number, number>> {
  const seqs = new Map<number, number>();
  for (const part of parts(namespaceIds)) {
    const rows = await db
      .selectFrom("namespaces as n")
      .select("n.namespace_id")
      .select((eb) =>
        eb
          .selectFrom("records as r")
          .select(sql<number>`r.last_seq - r.event_count + 1`.as("seq"))
          .whereRef("r.namespace_id", "=", "n.namespace_id")
          .orderBy("r.last_seq")
          .limit(1)
          .as("seq"),
      )
      .where("n.namespace_id", "in", padded(part))
      .execute();
    for (const { namespace_id: id, seq } of rows) if (seq !== null) seqs.set(id, seq);
  }
  return seqs;
}

/** The same for one namespace. */
export async function findEarliestSeq(db: Db, namespaceId: number): Promise<number | undefined> {
  return (await findEarliestSeqs(db, [namespaceId])).get(namespaceId);
}
