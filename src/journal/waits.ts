/** Queries about runs that wait for input. */
import { type SqlBool, sql } from "kysely";
import type { Db } from "./schema.ts";

/** A wait that is over. */
export interface DueWait {
  readonly namespace: string;
  readonly run_id: string;
  /** As it was found: who goes on meanwhile and waits again has another one. */
  readonly wait_deadline_ms: number;
}

/** Waits whose deadlines have passed, those that passed first, first; at most `limit`. */
export async function findDueWaits(db: Db, nowMs: number, limit: number): Promise<DueWait[]> {
  const rows = await db
    .selectFrom("runs as r")
    .innerJoin("namespaces as n", "n.namespace_id", "r.namespace_id")
    .select(["n.name as namespace", "r.run_id", "r.wait_deadline_ms"])
    // Literally, as the index has it.
    .where(sql<SqlBool>`wait_deadline_ms is not null`)
    .where("r.wait_deadline_ms", "<=", nowMs)
    .orderBy("r.wait_deadline_ms")
    .orderBy("r.namespace_id")
    .orderBy("r.run_key")
    .limit(limit)
    .execute();
  return rows.map((row) => ({ ...row, wait_deadline_ms: row.wait_deadline_ms! }));
}
