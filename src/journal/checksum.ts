/**
 * Tells a record whose bytes have changed since they were written: a disk, a
 * controller or a copy that went wrong flips some, and no database notices it in
 * a value. The checksum covers all that is stored of a record, its key columns
 * included; its times are in the data.
 */
import { crc32 } from "node:zlib";
import type { Selectable } from "kysely";
import { RefusedError } from "../refusal.ts";
import type { RecordsTable } from "./schema.ts";

/** A record as it is stored. */
export type StoredRecord = Selectable<RecordsTable>;

/** The CRC-32 of a record, as a signed integer of 32 bits. */
export function checksumOf(record: Omit<StoredRecord, "checksum">): number {
  const { namespace_id, last_seq, event_count, run_key, root_key, first_run_seq } = record;
  const { types, size, data } = record;
  const head = `${namespace_id} ${last_seq} ${event_count} ${run_key} ${root_key} ${first_run_seq} ${size} ${types}`;
  return crc32(data, crc32(head)) | 0;
}

/** Whether a record is as it was written; one without a checksum passes. */
export function isIntact(record: StoredRecord): boolean {
  return record.checksum === null || record.checksum === checksumOf(record);
}

/** @throws RefusedError data_loss where the record is damaged */
export function refuseDamaged(record: StoredRecord): void {
  if (!isIntact(record)) throw damaged(record);
}

/** The refusal of a damaged record. The damage may be in its count. */
export function damaged({ last_seq, event_count }: StoredRecord): RefusedError {
  const isPlausible = event_count > 0 && event_count <= last_seq;
  return lost(last_seq, isPlausible ? event_count : 1);
}

/** The refusal of a record that is not there, or not as it was written. */
export function lost(lastSeq: number, count = 1): RefusedError {
  return new RefusedError({ reason: "data_loss", firstSeq: lastSeq - count + 1, lastSeq });
}
