/** Finds places in the journal by time. */
import { sql } from "kysely";
import { recordTimeMs } from "../wire/event-batch.ts";
import { lost } from "./checksum.ts";
import type { Db } from "./schema.ts";

/** Bytes at the beginning of a record in which its time stands, whatever its ids are. */
const beginningBytes = 256;

/**
 * The seq before the first record, up to `latestSeq`, whose time is `timeMs` or later;
 * `latestSeq` where there is none. record_time never decreases as seq grows, so the record is
 * found by halving the range of seqs, one row a step.
 *
 * @param latestSeq at which a record ends
 * @throws RefusedError data_loss where a record on the way does not tell its time
 */
export async function findSeqBefore(
  db: Db,
  namespaceId: number,
  timeMs: number,
  latestSeq: number,
): Promise<number> {
  // Invariant: what ends up to `low` is older; what ends after `high` is not, or is not asked for.
  let low = 0;
  let high = latestSeq;
  let seq = latestSeq;
  while (low < high) {
    const middle = Math.floor((low + high) / 2);
    const row = await db
      .selectFrom("records")
      .select(["last_seq", "event_count"])
      .select(sql<Uint8Array>`substr(data, 1, ${sql.lit(beginningBytes)})`.as("beginning"))
      .where("namespace_id", "=", namespaceId)
      .where("last_seq", ">", middle)
      .where("last_seq", "<=", high)
      .orderBy("last_seq")
      .limit(1)
      .executeTakeFirst();
    if (row === undefined) {
      high = middle;
      continue;
    }
    const recordedMs = recordTimeMs(row.beginning);
    if (recordedMs === undefined) throw lost(row.last_seq, row.event_count);
    if (recordedMs < timeMs) {
      low = row.last_seq;
    } else {
      seq = row.last_seq - row.event_count;
      high = middle;
    }
  }
  return seq;
}
