/** Queries about the processes that serve one journal, and about what those that died left behind. */
import { type SqlBool, sql } from "kysely";
import { isLeased } from "./run-conditions.ts";
import type { RunRow } from "./runs.ts";
import type { Db } from "./schema.ts";
import { padded, parts } from "./statement-lists.ts";

/** This process among those that serve the journal. */
export interface NodeIdentity {
  /** 0 where there can be no other; else it changes when others have taken this one for dead. */
  readonly nodeKey: number;
}

/** The only process on its journal. */
export const onlyNode: NodeIdentity = { nodeKey: 0 };

/** A node as another one sees it. */
export interface NodeRow {
  readonly node_key: number;
  readonly beat: number;
}

/**
 * Adds a node; keys are never used again.
 *
 * @param format the newest that it writes
 */
export async function insertNode(tx: Db, name: string, format: number): Promise<number> {
  const { node_key: nodeKey } = await tx
    .insertInto("nodes")
    .values({ name, beat: 0, format })
    .returning("node_key")
    .executeTakeFirstOrThrow();
  return nodeKey;
}

/** Moves a node's beat on. Returns whether the node is there: others may have taken it for dead. */
export async function beatNode(tx: Db, nodeKey: number): Promise<boolean> {
  const row = await tx
    .updateTable("nodes")
    .set((eb) => ({ beat: eb("beat", "+", 1) }))
    .where("node_key", "=", nodeKey)
    .returning("node_key")
    .executeTakeFirst();
  return row !== undefined;
}

/** The nodes, oldest first. */
export function listNodes(db: Db): Promise<NodeRow[]> {
  return db.selectFrom("nodes").select(["node_key", "beat"]).orderBy("node_key").execute();
}

/** Takes a node out whose beat is still this one. */
export async function deleteNode(tx: Db, { node_key, beat }: NodeRow): Promise<void> {
  await tx.deleteFrom("nodes").where("node_key", "=", node_key).where("beat", "=", beat).execute();
}

/** The beat of a node that has left; whoever is on duty takes it out. */
export const leftBeat = -1;

/** Says that a node has left. */
export async function leaveNodes(tx: Db, nodeKey: number): Promise<void> {
  await tx.updateTable("nodes").set({ beat: leftBeat }).where("node_key", "=", nodeKey).execute();
}

/**
 * Whether a row is one of this node's; with `andOfGone`, or one of nodes that are gone.
 *
 * @param column the row's node_key
 */
export function isOwn(column: string, nodeKey: number, andOfGone: boolean) {
  const ofGone = sql<SqlBool>`${sql.ref(column)} not in (select node_key from nodes)`;
  const own = sql<SqlBool>`${sql.ref(column)} = ${nodeKey}`;
  return andOfGone ? sql<SqlBool>`(${own} or ${ofGone})` : own;
}

/** What a lease is made of. */
export type RunningRun = Pick<RunRow, "run_key" | "run_id" | "epoch" | "spec">;

/** A run of some namespace that is RUNNING. */
export interface RunningElsewhere extends RunningRun {
  readonly namespace_id: number;
  readonly namespace: string;
}

/**
 * Runs of a node that are RUNNING, whatever their namespace, in the order of
 * namespaces and keys.
 *
 * @param after only runs behind this place: a namespace, and a run in it
 */
export function findRunningOf(
  db: Db,
  nodeKey: number,
  [afterNamespaceId, afterRunKey]: readonly [number, number],
  limit: number,
): Promise<RunningElsewhere[]> {
  return (
    db
      .selectFrom("runs as r")
      .innerJoin("namespaces as n", "n.namespace_id", "r.namespace_id")
      .select(["r.namespace_id", "n.name as namespace", "r.run_key", "r.run_id"])
      .select(["r.epoch", "r.spec"])
      .where(isLeased)
      // Compared and ordered as the index is.
      .where("r.node_key", "<=", nodeKey)
      .where(
        sql<SqlBool>`(r.node_key, r.namespace_id, r.run_key) > (${nodeKey}, ${afterNamespaceId}, ${afterRunKey})`,
      )
      .orderBy("r.node_key")
      .orderBy("r.namespace_id")
      .orderBy("r.run_key")
      .limit(limit)
      .execute()
  );
}

/** Keys of nodes that are gone and had runs that are RUNNING; one seek for each node that has any. */
export async function findGoneNodes(db: Db): Promise<number[]> {
  const nodes = new Set((await listNodes(db)).map((node) => node.node_key));
  const gone: number[] = [];
  for (let afterKey = -1; ; ) {
    const row = await db
      .selectFrom("runs")
      .select("node_key")
      .where(isLeased)
      .where("node_key", ">", afterKey)
      .orderBy("node_key")
      .limit(1)
      .executeTakeFirst();
    if (row === undefined) return gone;
    afterKey = row.node_key;
    if (!nodes.has(afterKey)) gone.push(afterKey);
  }
}

/**
 * Gives runs of nodes that are gone to a node. Expects a transaction that holds
 * the namespace's lock, so that no producer comes in between.
 *
 * @returns those that still were nobody's
 */
export async function adoptOrphans(
  tx: Db,
  namespaceId: number,
  runKeys: readonly number[],
  nodeKey: number,
): Promise<RunningRun[]> {
  return tx
    .updateTable("runs")
    .set({ node_key: nodeKey })
    .where("namespace_id", "=", namespaceId)
    .where("run_key", "in", padded(runKeys))
    .where(isLeased)
    .where("node_key", "not in", (eb) => eb.selectFrom("nodes").select("nodes.node_key"))
    .returning(["run_key", "run_id", "epoch", "spec"])
    .execute();
}

/** Of these runs, those whose producer another node has. */
export async function findHeldElsewhere(
  db: Db,
  namespaceId: number,
  runIds: readonly string[],
  nodeKey: number,
): Promise<string[]> {
  const found: string[] = [];
  for (const part of parts(runIds)) {
    const rows = await db
      .selectFrom("runs")
      .select("run_id")
      .where("namespace_id", "=", namespaceId)
      .where("run_id", "in", padded(part))
      .where("node_key", "!=", nodeKey)
      .execute();
    found.push(...rows.map((row) => row.run_id));
  }
  return found;
}
