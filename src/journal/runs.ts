/**
 * Queries about runs. Those that write expect a transaction that holds the
 * namespace's lock. A run whose tree is being deleted is not there any more.
 */
import { type Selectable, type SqlBool, sql } from "kysely";
import { BulkInsert, BulkUpdate } from "./bulk.ts";
import { compileOnce } from "./compile-once.ts";
import { isOpen } from "./run-conditions.ts";
import type { Db, RunsTable } from "./schema.ts";
import { padded, parts } from "./statement-lists.ts";

/** A run as stored. */
export type RunRow = Selectable<RunsTable>;
/** A run with what a caller of the API needs to know of its relatives. */
export interface RunView extends RunRow {
  readonly root_run_id: string;
  readonly fork_run_id: string | null;
}

/** Whether a run's tree is not being deleted; `run` is the table's name in the query. */
export function isLive(run: "runs" | "r") {
  return sql<SqlBool>`not exists (
    select 1 from deletions d
    where d.namespace_id = ${sql.ref(`${run}.namespace_id`)}
      and d.root_key = ${sql.ref(`${run}.root_key`)})`;
}

/** Reads runs by their ids; those that do not exist are missing from the answer. */
export async function findRuns(
  db: Db,
  namespaceId: number,
  runIds: readonly string[],
): Promise<RunRow[]> {
  const rows: RunRow[] = [];
  for (const part of parts(runIds)) {
    rows.push(...(await runsWith(db, { namespaceId, runIds: padded(part) })));
  }
  return rows;
}

const runsWith = compileOnce(
  (db, { namespaceId, runIds }: { namespaceId: number; runIds: readonly string[] }) =>
    db
      .selectFrom("runs")
      .selectAll()
      .where("namespace_id", "=", namespaceId)
      .where("run_id", "in", runIds)
      .where(isLive("runs")),
);

/** Of these run ids, those that a tree still holds which is being deleted. */
export async function findIdsInDeletion(
  tx: Db,
  namespaceId: number,
  runIds: readonly string[],
): Promise<Set<string>> {
  const found = new Set<string>();
  for (const part of parts(runIds)) {
    const rows = await tx
      .selectFrom("runs")
      .innerJoin("deletions as d", (join) =>
        join
          .onRef("d.namespace_id", "=", "runs.namespace_id")
          .onRef("d.root_key", "=", "runs.root_key"),
      )
      .select("runs.run_id")
      .where("runs.namespace_id", "=", namespaceId)
      .where("runs.run_id", "in", padded(part))
      .execute();
    for (const row of rows) found.add(row.run_id);
  }
  return found;
}

/** Reads runs by their keys. */
export async function findRunsByKey(
  db: Db,
  namespaceId: number,
  runKeys: readonly number[],
): Promise<RunRow[]> {
  const rows: RunRow[] = [];
  for (const part of parts(runKeys)) {
    rows.push(
      ...(await db
        .selectFrom("runs")
        .selectAll()
        .where("namespace_id", "=", namespaceId)
        .where("run_key", "in", padded(part))
        .execute()),
    );
  }
  return rows;
}

/** What commits change of a run. */
export const changingRunColumns = [
  "last_run_seq",
  "last_event_seq",
  "last_seq",
  "event_bytes",
  "epoch",
  "state",
  "result",
  "end_time_ms",
  "node_key",
  "producer_id",
  "producer_attempt",
  "last_signal_seq",
  "handled_signal_seq",
  "waiting",
  "wait_deadline_ms",
] as const;

const keyColumns = ["namespace_id", "run_key"] as const;

const immutableColumns = [
  "run_id",
  "parent_key",
  "root_key",
  "depth",
  "conversation_id",
  "spec",
  "fork_key",
  "fork_run_seq",
  "create_time_ms",
  "cancel_reason",
  "cancel_request",
  "cancel_descendants",
  "agent_id",
] as const;

/** All that is stored of a run. */
export const runColumns = [...keyColumns, ...immutableColumns, ...changingRunColumns] as const;

const inserted = new BulkInsert<RunRow>("runs", runColumns);

/** Writes what may change of runs. */
export const changedRuns = new BulkUpdate<RunRow>(
  "runs",
  keyColumns,
  changingRunColumns,
  immutableColumns,
);

/** What appends change of a run; no index has any of it, so an update that names no more leaves them alone. */
const appendedColumns = ["last_run_seq", "last_event_seq", "last_seq", "event_bytes"] as const;

/** Writes what appends have changed of runs, and nothing else of them. */
export const appendedRuns = new BulkUpdate<RunRow>(
  "runs",
  keyColumns,
  appendedColumns,
  [...immutableColumns, ...changingRunColumns].filter(
    (column) => !(appendedColumns as readonly string[]).includes(column),
  ),
);

/** Creates runs. */
export function insertRuns(tx: Db, runs: readonly RunRow[]): Promise<void> {
  return inserted.run(tx, runs);
}

/** Writes what appends have changed of runs, which exist, and nothing else of them. */
export function updateAppendedRuns(tx: Db, runs: readonly RunRow[]): Promise<void> {
  return appendedRuns.run(tx, runs);
}

/** Writes what may change of runs, which exist. */
export function updateRuns(tx: Db, runs: readonly RunRow[]): Promise<void> {
  return changedRuns.run(tx, runs);
}

/** Adds a new run to the closure: itself, and its parent's ancestors one edge further. */
export async function insertAncestors(
  tx: Db,
  namespaceId: number,
  runKey: number,
  parentKey: number | null,
): Promise<void> {
  await tx
    .insertInto("run_ancestors")
    .values({ namespace_id: namespaceId, ancestor_key: runKey, run_key: runKey, depth: 0 })
    .execute();
  if (parentKey === null) return;
  await tx
    .insertInto("run_ancestors")
    .columns(["namespace_id", "ancestor_key", "run_key", "depth"])
    .expression((eb) =>
      eb
        .selectFrom("run_ancestors")
        .select(["namespace_id", "ancestor_key"])
        .select(sql<number>`${sql.lit(runKey)}`.as("run_key"))
        .select(sql<number>`depth + 1`.as("depth"))
        .where("namespace_id", "=", namespaceId)
        .where("run_key", "=", parentKey),
    )
    .execute();
}

/** Makes a new run's labels findable. */
export async function insertLabels(
  tx: Db,
  namespaceId: number,
  runKey: number,
  labels: Readonly<Record<string, string>>,
): Promise<void> {
  const rows = Object.entries(labels).map(([key, value]) => ({
    namespace_id: namespaceId,
    label_key: key,
    label_value: value,
    run_key: runKey,
  }));
  if (rows.length > 0) await tx.insertInto("run_labels").values(rows).execute();
}

/** The ids of a run and its ancestors, from the run itself up to its root. */
export async function readLineage(db: Db, namespaceId: number, runKey: number): Promise<string[]> {
  const rows = await db
    .selectFrom("run_ancestors as a")
    .innerJoin("runs as r", (join) =>
      join.onRef("r.namespace_id", "=", "a.namespace_id").onRef("r.run_key", "=", "a.ancestor_key"),
    )
    .select("r.run_id")
    .where("a.namespace_id", "=", namespaceId)
    .where("a.run_key", "=", runKey)
    .orderBy("a.depth")
    .execute();
  return rows.map((row) => row.run_id);
}

function selectRunViews(db: Db, namespaceId: number) {
  return db
    .selectFrom("runs as r")
    .innerJoin("runs as root", (join) =>
      join
        .onRef("root.namespace_id", "=", "r.namespace_id")
        .onRef("root.run_key", "=", "r.root_key"),
    )
    .leftJoin("runs as source", (join) =>
      join
        .onRef("source.namespace_id", "=", "r.namespace_id")
        .onRef("source.run_key", "=", "r.fork_key"),
    )
    .selectAll("r")
    .select(["root.run_id as root_run_id", "source.run_id as fork_run_id"])
    .where("r.namespace_id", "=", namespaceId)
    .where(isLive("r"));
}

/** Reads one run for the API. */
export function findRunView(
  db: Db,
  namespaceId: number,
  runId: string,
): Promise<RunView | undefined> {
  return selectRunViews(db, namespaceId).where("r.run_id", "=", runId).executeTakeFirst();
}

/** Reads runs for the API by their keys, newest first. Those whose tree is being deleted are missing. */
export async function findRunViews(
  db: Db,
  namespaceId: number,
  runKeys: readonly number[],
): Promise<RunView[]> {
  const views: RunView[] = [];
  for (const part of parts(runKeys)) {
    views.push(
      ...(await selectRunViews(db, namespaceId).where("r.run_key", "in", padded(part)).execute()),
    );
  }
  return views.toSorted((a, b) => b.run_key - a.run_key);
}

/** Bytes of what runs hold that may be large, by their keys; that is not read for it. */
export async function findRunBytes(
  db: Db,
  namespaceId: number,
  runKeys: readonly number[],
): Promise<Map<number, number>> {
  const bytes = new Map<number, number>();
  for (const part of parts(runKeys)) {
    const rows = await db
      .selectFrom("runs")
      .select("run_key")
      .select(
        sql<number>`octet_length(spec) + coalesce(octet_length(result), 0)
          + coalesce(octet_length(waiting), 0)`.as("bytes"),
      )
      .where("namespace_id", "=", namespaceId)
      .where("run_key", "in", padded(part))
      .execute();
    for (const row of rows) bytes.set(row.run_key, Number(row.bytes));
  }
  return bytes;
}

/** Open runs of a tree that are looked at at once. */
const openPage = 512;

/** Whether a run of this family, the ancestor included, is open; in steps over the tree's open runs. */
export async function familyIsOpen(
  db: Db,
  { namespace_id: namespaceId, run_key: ancestorKey, root_key: rootKey }: RunRow,
): Promise<boolean> {
  for (let afterKey = ancestorKey - 1; ; ) {
    const rows = await db
      .selectFrom("runs")
      .select("run_key")
      .where("namespace_id", "=", namespaceId)
      .where("root_key", "=", rootKey)
      .where(isOpen)
      .where("run_key", ">", afterKey)
      .orderBy("run_key")
      .limit(openPage)
      .execute();
    const last = rows.at(-1)?.run_key;
    if (last === undefined) return false;
    if (ancestorKey === rootKey) return true;
    const member = await db
      .selectFrom("run_ancestors")
      .select("run_key")
      .where("namespace_id", "=", namespaceId)
      .where("ancestor_key", "=", ancestorKey)
      .where("run_key", "in", padded(rows.map((row) => row.run_key)))
      .limit(1)
      .executeTakeFirst();
    if (member !== undefined) return true;
    if (rows.length < openPage) return false;
    afterKey = last;
  }
}
