/** Queries about namespaces. Those that write expect a transaction. */
import { type Selectable, sql } from "kysely";
import { compileOnce } from "./compile-once.ts";
import type { Db, NamespacesTable } from "./schema.ts";
import { padded, parts } from "./statement-lists.ts";

/** A namespace as stored. */
export type NamespaceRow = Selectable<NamespacesTable>;

/** What a namespace counts of changes to runs that a producer may hold. */
export type HolderCounts = Pick<NamespaceRow, "cancel_count" | "taken_count" | "signal_count">;

/** Reads a namespace; undefined while nothing has been written to it. */
export async function findNamespace(db: Db, name: string): Promise<NamespaceRow | undefined> {
  const [row] = await namespaceOf(db, { name });
  return row;
}

const namespaceOf = compileOnce((db, { name }: { name: string }) =>
  db.selectFrom("namespaces").selectAll().where("name", "=", name),
);

/** Reads namespaces; those to which nothing has been written are missing from the answer. */
export async function findNamespaces(db: Db, names: readonly string[]): Promise<NamespaceRow[]> {
  const rows: NamespaceRow[] = [];
  for (const part of parts(names)) {
    const select = db.selectFrom("namespaces").selectAll();
    rows.push(...(await select.where("name", "in", padded(part)).execute()));
  }
  return rows;
}

/** Lists namespaces by name, those after `afterName`, at most `limit`; of `only`, if it is given. */
export function listNamespaces(
  db: Db,
  afterName: string,
  limit: number,
  only?: readonly string[],
): Promise<NamespaceRow[]> {
  const after = db.selectFrom("namespaces").selectAll().where("name", ">", afterName);
  const some = only === undefined ? after : after.where("name", "in", padded(only));
  return some.orderBy("name").limit(limit).execute();
}

/** Lists namespaces that have a retention, by name, those after `afterName`, at most `limit`. */
export function listKeptNamespaces(
  db: Db,
  afterName: string,
  limit: number,
): Promise<NamespaceRow[]> {
  return db
    .selectFrom("namespaces")
    .selectAll()
    .where("retention_ms", "is not", null)
    .where("name", ">", afterName)
    .orderBy("name")
    .limit(limit)
    .execute();
}

/**
 * Takes the namespace's row lock until the transaction ends, so that seqs are
 * allocated in commit order. Every transaction that changes its runs does so
 * first, and is counted.
 *
 * @returns undefined where the namespace does not exist
 */
export function lockNamespace(tx: Db, name: string): Promise<NamespaceRow | undefined> {
  return tx
    .updateTable("namespaces")
    .set((eb) => ({ version: eb("version", "+", 1) }))
    .where("name", "=", name)
    .returningAll()
    .executeTakeFirst();
}

/**
 * Takes the lock of a namespace that nobody else can have changed, without
 * waiting for what it answers.
 *
 * @param row the namespace as it is
 */
export async function lockKnownNamespace(tx: Db, row: NamespaceRow): Promise<NamespaceRow> {
  const version = row.version + 1;
  await tx
    .updateTable("namespaces")
    .set({ version })
    .where("namespace_id", "=", row.namespace_id)
    .execute();
  return { ...row, version };
}

/** Creates a namespace unless it exists. */
export async function insertNamespace(tx: Db, name: string, timeMs: number): Promise<void> {
  await tx
    .insertInto("namespaces")
    .columns(["name", "last_seq", "trimmed_seq", "last_time_ms", "create_time_ms"])
    .expression(sql`values (${name}, 0, 0, ${timeMs}, ${timeMs})`)
    .onConflict((conflict) => conflict.column("name").doNothing())
    .execute();
}

/**
 * Sets how long a namespace, which exists, keeps its trees. No commit reads or
 * writes that, so it is not counted as a change of the namespace.
 */
export function setNamespaceRetention(
  tx: Db,
  name: string,
  retentionMs: number | null,
): Promise<NamespaceRow> {
  return tx
    .updateTable("namespaces")
    .set({ retention_ms: retentionMs })
    .where("name", "=", name)
    .returningAll()
    .executeTakeFirstOrThrow();
}

/** What commits of producers change of a namespace. */
export type NamespaceTotals = Pick<NamespaceRow, (typeof totalColumns)[number]>;

/** The columns of NamespaceTotals. */
export const totalColumns = [
  "last_seq",
  "last_time_ms",
  "run_count",
  "running_count",
  "waiting_count",
  "event_bytes",
  "taken_count",
  "signal_count",
  "append_id",
] as const satisfies readonly (keyof NamespacesTable)[];

/** What a transaction changes of the namespace that it has locked. */
export type NamespaceChange = Partial<
  NamespaceTotals & Pick<NamespaceRow, "trimmed_seq" | "deletion_count" | "cancel_count">
>;

/** Writes the changed columns of a namespace. */
export async function updateNamespace(
  tx: Db,
  namespaceId: number,
  change: NamespaceChange,
): Promise<void> {
  await tx.updateTable("namespaces").set(change).where("namespace_id", "=", namespaceId).execute();
}
