/**
 * Queries about signals. The signals themselves are records; besides, a row each
 * says under which id and number of its run one is to be found.
 */
import { type Selectable, type SqlBool, sql } from "kysely";
import { BulkInsert } from "./bulk.ts";
import { refuseDamaged } from "./checksum.ts";
import { recordColumns } from "./records.ts";
import { rowsWithin } from "./rows-within.ts";
import { hasPendingSignals, isOpen } from "./run-conditions.ts";
import type { Db, SignalsTable } from "./schema.ts";
import { padded } from "./statement-lists.ts";

/** A signal as it is found by its id. */
export type SignalRow = Selectable<SignalsTable>;

/** A run, and the id of a signal to it. */
export type SignalName = Pick<SignalRow, "run_key" | "signal_id">;

/** Names that one query looks for. */
const maxNames = 256;

const inserted = new BulkInsert<SignalRow>("signals", [
  "namespace_id",
  "run_key",
  "signal_id",
  "signal_seq",
  "seq",
  "digest",
]);

/** Makes signals findable, whose records are appended in the same transaction. */
export function insertSignals(tx: Db, rows: readonly SignalRow[]): Promise<void> {
  return inserted.run(tx, rows);
}

/** Finds signals by their ids; those that do not exist are missing from the answer. */
export async function findSignals(
  db: Db,
  namespaceId: number,
  names: readonly SignalName[],
): Promise<SignalRow[]> {
  const rows: SignalRow[] = [];
  for (let i = 0; i < names.length; i += maxNames) {
    rows.push(
      ...(await db
        .selectFrom("signals")
        .selectAll()
        .where("namespace_id", "=", namespaceId)
        .where(isOneOf(names.slice(i, i + maxNames)))
        .execute()),
    );
  }
  return rows;
}

function isOneOf(names: readonly SignalName[]) {
  const pairs = padded(names).map(
    // A parameter among values has a type only where it is given one.
    ({ run_key: runKey, signal_id: id }) => sql`(cast(${runKey} as bigint), ${id})`,
  );
  return sql<SqlBool>`(run_key, signal_id) in (values ${sql.join(pairs)})`;
}

/** A signal's place, and its record. */
export interface StoredSignal {
  readonly signalSeq: number;
  readonly seq: number;
  /** The wire encoding of an EventBatch with the signal alone. */
  readonly data: Uint8Array;
}

/** Where signals are read on: behind one of them, in the order of their numbers. */
export interface SignalCursor {
  readonly namespaceId: number;
  readonly runKey: number;
  readonly afterSignalSeq: number;
}

/**
 * The signals of a run after a place, oldest first: at most `limit`, and about
 * `maxBytes` unless one alone is larger.
 *
 * @throws RefusedError data_loss where one of them is damaged
 */
export async function readSignals(
  db: Db,
  { namespaceId, runKey, afterSignalSeq }: SignalCursor,
  limit: number,
  maxBytes: number,
): Promise<StoredSignal[]> {
  const found = await db
    .selectFrom("signals as s")
    .innerJoin("records as r", (join) =>
      join.onRef("r.namespace_id", "=", "s.namespace_id").onRef("r.last_seq", "=", "s.seq"),
    )
    .select(["s.signal_seq", "s.seq", "r.size"])
    .where("s.namespace_id", "=", namespaceId)
    .where("s.run_key", "=", runKey)
    .where("s.signal_seq", ">", afterSignalSeq)
    .orderBy("s.signal_seq")
    .limit(limit)
    .execute();
  if (found.length === 0) return [];
  const numbers = new Map(rowsWithin(found, maxBytes).map((row) => [row.seq, row.signal_seq]));
  const records = await db
    .selectFrom("records")
    .select(recordColumns)
    .where("namespace_id", "=", namespaceId)
    .where("last_seq", "in", padded([...numbers.keys()]))
    .orderBy("last_seq")
    .execute();
  return records.map((record) => {
    refuseDamaged(record);
    const { last_seq: seq, data } = record;
    return { signalSeq: numbers.get(seq)!, seq, data };
  });
}

/** Open runs of a node with signals that await handling, from a key on, oldest first. */
export function findSignalled(
  db: Db,
  namespaceId: number,
  nodeKey: number,
  afterKey: number,
  limit: number,
): Promise<
  { readonly run_key: number; readonly run_id: string; readonly last_signal_seq: number }[]
> {
  return db
    .selectFrom("runs")
    .select(["run_key", "run_id", "last_signal_seq"])
    .where("namespace_id", "=", namespaceId)
    .where("node_key", "=", nodeKey)
    .where("run_key", ">", afterKey)
    .where(hasPendingSignals)
    .where(isOpen)
    .orderBy("run_key")
    .limit(limit)
    .execute();
}

/** Deletes what signals of these runs are found by, at most `limit`; returns how many. */
export async function deleteSignals(
  tx: Db,
  namespaceId: number,
  runKeys: readonly number[],
  limit: number,
): Promise<number> {
  const rows = await tx
    .selectFrom("signals")
    .select(["run_key", "signal_id"])
    .where("namespace_id", "=", namespaceId)
    .where("run_key", "in", padded(runKeys))
    .limit(limit)
    .execute();
  for (let i = 0; i < rows.length; i += maxNames) {
    await tx
      .deleteFrom("signals")
      .where("namespace_id", "=", namespaceId)
      .where(isOneOf(rows.slice(i, i + maxNames)))
      .execute();
  }
  return rows.length;
}
