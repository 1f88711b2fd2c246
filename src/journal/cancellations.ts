/**
 * Queries about requests to stop. Those that write expect a transaction that
 * holds the namespace's lock.
 *
 * A request to a family is a row of its own, so that it is durable whatever
 * becomes of whoever made it. Runs that exist are asked in steps, in the order of
 * their keys; runs that start later look for the requests to their ancestors.
 */
import { type SqlBool, sql } from "kysely";
import { RunState } from "../../gen/runlog/v1/run_pb.js";
import { isOwn } from "./nodes.ts";
import { isLeased, isWaiting } from "./run-conditions.ts";
import type { Db } from "./schema.ts";
import { padded, parts } from "./statement-lists.ts";

/** What somebody asked for. */
export interface CancelNotice {
  /** Its number among those of the namespace; the greatest is the newest. */
  readonly request: number;
  /** For people. */
  readonly reason: string;
}

/** A request to a family, some of which may not have been asked yet. */
export interface Cancellation extends CancelNotice {
  readonly namespaceId: number;
  /** The run that heads the family. */
  readonly runKey: number;
  /** Runs up to this key have been asked; null once all have. */
  readonly afterKey: number | null;
  /** The newest run when the request was made. */
  readonly throughKey: number;
}

/** Some of a family's runs. */
export interface FamilyStretch {
  /** Keys of those that may take events, now or once they are opened again. */
  readonly askableKeys: readonly number[];
  /** Key of the last run that was looked at; undefined where none is left. */
  readonly reachKey: number | undefined;
}

/** States in which a run can be asked: a LOST one hears of it when a producer opens it again. */
const askableStates = [RunState.RUNNING, RunState.WAITING, RunState.LOST] as const;

/** Looks at the next runs of a family, in the order of their keys. */
export async function readFamilyStretch(
  db: Db,
  { namespaceId, runKey, throughKey }: Cancellation,
  afterKey: number,
  limit: number,
): Promise<FamilyStretch> {
  // By their keys, not joined: a planner may merge the namespace's runs from the first one on.
  const rows = await db
    .selectFrom("run_ancestors")
    .select("run_key")
    .where("namespace_id", "=", namespaceId)
    .where("ancestor_key", "=", runKey)
    .where("run_key", ">", afterKey)
    .where("run_key", "<=", throughKey)
    .orderBy("run_key")
    .limit(limit)
    .execute();
  const askableKeys: number[] = [];
  for (const part of parts(rows.map((row) => row.run_key))) {
    const askable = await db
      .selectFrom("runs")
      .select("run_key")
      .where("namespace_id", "=", namespaceId)
      .where("run_key", "in", padded(part))
      .where("state", "in", askableStates)
      .execute();
    askableKeys.push(...askable.map((row) => row.run_key));
  }
  return { askableKeys, reachKey: rows.length < limit ? undefined : rows.at(-1)?.run_key };
}

/** Runs that were asked and have not ended, by their ids. */
export interface AskedRuns {
  readonly running: readonly string[];
  /** Their waits are over by it. */
  readonly waiting: readonly string[];
}

/** The deadline of a wait once its run was asked to stop: it is over. */
export const askedToStop = 0;

/** Asks runs, those of them that have not ended and were not asked by a newer request. */
export async function askRuns(
  tx: Db,
  namespaceId: number,
  runKeys: readonly number[],
  { request, reason }: CancelNotice,
): Promise<AskedRuns> {
  if (runKeys.length === 0) return { running: [], waiting: [] };
  const asked = await tx
    .updateTable("runs")
    .set({ cancel_reason: reason, cancel_request: request })
    // If this stops here, the scan for waits that are over finds it.
    .set(
      "wait_deadline_ms",
      sql`case when ${isWaiting} then ${sql.lit(askedToStop)} else wait_deadline_ms end`,
    )
    .where("namespace_id", "=", namespaceId)
    .where("run_key", "in", padded(runKeys))
    .where("state", "in", askableStates)
    .where("cancel_request", "<", request)
    .returning(["run_id", "state"])
    .execute();
  const idsIn = (state: RunState) =>
    asked.filter((run) => run.state === state).map((run) => run.run_id);
  return { running: idsIn(RunState.RUNNING), waiting: idsIn(RunState.WAITING) };
}

/** Notes a request to a family; an earlier one to the same family is replaced by it. */
export async function noteCancellation(
  tx: Db,
  { namespaceId, runKey, afterKey, throughKey, request, reason }: Cancellation,
  nodeKey: number,
): Promise<void> {
  const changing = {
    request,
    reason,
    node_key: nodeKey,
    after_key: afterKey,
    through_key: throughKey,
  };
  await tx
    .insertInto("cancellations")
    .values({ namespace_id: namespaceId, run_key: runKey, ...changing })
    .onConflict((conflict) => conflict.columns(["namespace_id", "run_key"]).doUpdateSet(changing))
    .execute();
}

/**
 * Notes how many of a family have been asked.
 *
 * @returns whether the request is still the newest one to this family
 */
export async function moveCancellation(
  tx: Db,
  { namespaceId, runKey, request }: Cancellation,
  afterKey: number | null,
): Promise<boolean> {
  const row = await tx
    .updateTable("cancellations")
    .set({ after_key: afterKey })
    .where("namespace_id", "=", namespaceId)
    .where("run_key", "=", runKey)
    .where("request", "=", request)
    .returning("run_key")
    .executeTakeFirst();
  return row !== undefined;
}

/**
 * Requests that some runs have not been asked yet, with the namespace's name.
 *
 * @param andOfGone also those of nodes that are gone, besides this node's
 * @param after only those behind this place: a namespace, and a run in it
 */
export async function findUnfinishedCancellations(
  db: Db,
  nodeKey: number,
  andOfGone: boolean,
  [afterNamespaceId, afterRunKey]: readonly [number, number],
  limit: number,
): Promise<(Cancellation & { readonly namespace: string })[]> {
  const rows = await db
    .selectFrom("cancellations as c")
    .innerJoin("namespaces as n", "n.namespace_id", "c.namespace_id")
    .select(["n.name", "c.namespace_id", "c.run_key", "c.request", "c.reason"])
    .select(["c.after_key", "c.through_key"])
    .where(isOwn("c.node_key", nodeKey, andOfGone))
    .where("c.after_key", "is not", null)
    .where(sql<SqlBool>`(c.namespace_id, c.run_key) > (${afterNamespaceId}, ${afterRunKey})`)
    .orderBy("c.namespace_id")
    .orderBy("c.run_key")
    .limit(limit)
    .execute();
  return rows.map((row) => ({
    namespace: row.name,
    namespaceId: row.namespace_id,
    runKey: row.run_key,
    request: row.request,
    reason: row.reason,
    afterKey: row.after_key,
    throughKey: row.through_key,
  }));
}

/** The newest request to a run's family, or to that of one of its ancestors. */
export async function findFamilyNotice(
  tx: Db,
  namespaceId: number,
  runKey: number,
): Promise<CancelNotice | undefined> {
  return (
    tx
      .selectFrom("run_ancestors as a")
      .innerJoin("cancellations as c", (join) =>
        join
          .onRef("c.namespace_id", "=", "a.namespace_id")
          .onRef("c.run_key", "=", "a.ancestor_key"),
      )
      .select(["c.request", "c.reason"])
      .where("a.namespace_id", "=", namespaceId)
      .where("a.run_key", "=", runKey)
      .orderBy("c.request", "desc")
      // Requests from before 0006 have no number: the nearest ancestor's was the newest.
      .orderBy("a.depth")
      .limit(1)
      .executeTakeFirst()
  );
}

/** The runs of a node that are RUNNING and were asked to stop, from a key on, oldest first. */
export function findAsked(
  db: Db,
  namespaceId: number,
  nodeKey: number,
  afterKey: number,
  limit: number,
): Promise<
  { readonly run_key: number; readonly run_id: string; readonly cancel_reason: string | null }[]
> {
  return db
    .selectFrom("runs")
    .select(["run_key", "run_id", "cancel_reason"])
    .where("namespace_id", "=", namespaceId)
    .where("node_key", "=", nodeKey)
    .where("run_key", ">", afterKey)
    .where("cancel_reason", "is not", null)
    .where(isLeased)
    .orderBy("run_key")
    .limit(limit)
    .execute();
}
