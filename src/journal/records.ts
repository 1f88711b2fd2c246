/** Queries that append records, and that read one run's in its own order. */
import type { Insertable } from "kysely";
import { BulkInsert } from "./bulk.ts";
import { refuseDamaged, type StoredRecord } from "./checksum.ts";
import type { Db, RecordsTable } from "./schema.ts";

/** A record to be appended. */
export type NewRecord = Insertable<RecordsTable>;

/** All that is stored of a record. */
export const recordColumns = [
  "namespace_id",
  "last_seq",
  "event_count",
  "run_key",
  "root_key",
  "first_run_seq",
  "types",
  "size",
  "data",
  "checksum",
] as const;

/** Writes new records. */
export const insertedRecords = new BulkInsert<NewRecord>("records", recordColumns);

/** Appends records. */
export function insertRecords(tx: Db, records: readonly NewRecord[]): Promise<void> {
  return insertedRecords.run(tx, records);
}

/** A run's record of events, with the place in the run's own order. */
export type RunRecord = Pick<StoredRecord, "last_seq" | "event_count" | "first_run_seq" | "data">;

/**
 * The records of a run that hold its events from `runSeq` on, oldest first.
 * run_seq grows with seq inside a run, so the first one is found by halving
 * the range of seqs; no index by run_seq has to be kept for it.
 *
 * @throws RefusedError data_loss where one of them is damaged
 */
export async function readRunFrom(
  db: Db,
  namespaceId: number,
  run: { readonly run_key: number; readonly last_seq: number },
  runSeq: number,
  limit: number,
): Promise<RunRecord[]> {
  const select = (afterSeq: number) =>
    db
      .selectFrom("records")
      .where("namespace_id", "=", namespaceId)
      .where("run_key", "=", run.run_key)
      .where("first_run_seq", ">", 0)
      .where("last_seq", ">", afterSeq)
      .orderBy("last_seq");
  // Invariant: the first record of events after `low` begins at or before
  // runSeq; after `high` there is none that does.
  let low = run.run_key;
  let high = run.last_seq;
  while (high - low > 1) {
    const middle = Math.floor((low + high) / 2);
    const row = await select(middle)
      .select(["last_seq", "first_run_seq"])
      .limit(1)
      .executeTakeFirst();
    if (row === undefined || row.first_run_seq > runSeq) high = middle;
    else low = row.last_seq - 1;
  }
  const records = await select(low).select(recordColumns).limit(limit).execute();
  for (const record of records) refuseDamaged(record);
  return records;
}
