/**
 * What pages of all scopes have in common: a page is bounded before it is read.
 * Its keys and sizes come from an index, then its bytes by their keys.
 */
import { type Selectable, type SqlBool, sql } from "kysely";
import { damaged, isIntact, type StoredRecord } from "../checksum.ts";
import { compileOnce } from "../compile-once.ts";
import { recordColumns } from "../records.ts";
import { rowsWithin } from "../rows-within.ts";
import type { Db, RecordsTable } from "../schema.ts";
import { padded } from "../statement-lists.ts";

/** A record as a subscriber's page holds it. */
export type RecordRow = Pick<
  Selectable<RecordsTable>,
  "last_seq" | "event_count" | "run_key" | "first_run_seq" | "types" | "data"
>;

/** Whose records a page holds. Runs are named by their keys. */
export type RecordScope =
  /** Everything but these trees, which are being deleted. */
  | { readonly kind: "all"; readonly exceptRoots: readonly number[] }
  /** A tree: every record under this root. */
  | { readonly kind: "tree"; readonly rootKey: number }
  /** Descendants of a run inside a tree, by their distance from it. */
  | {
      readonly kind: "descendants";
      readonly rootKey: number;
      readonly ancestorKey: number;
      readonly minDepth: number;
      readonly maxDepth: number;
    }
  /** These runs, and of others the events at their beginning. */
  | {
      readonly kind: "runs";
      readonly runKeys: readonly number[];
      readonly beginnings?: readonly RunBeginning[];
    };

/** A run's events up to some point, without facts. */
export interface RunBeginning {
  readonly runKey: number;
  /** Key of the last record; it may hold events behind the point. */
  readonly lastKey: number;
}

/** Oldest first, or newest first. */
export type Direction = "forward" | "backward";

/** A range of records by the seqs at which they end. */
export interface SeqRange {
  /** Only records that end after this seq. */
  readonly afterSeq: number;
  /** Only records that end at or before this seq. */
  readonly upToSeq: number;
}

/** Which part of a scope a page holds. */
export interface PageBounds extends SeqRange {
  readonly direction: Direction;
  readonly maxRecords: number;
  /** At least one record is returned, whatever its size. */
  readonly maxBytes: number;
  /** Whether only signals and facts are looked at: events then cost nothing. */
  readonly withoutEvents?: boolean;
  /** Whether the records' data are left out, which are then neither read nor checked. */
  readonly withoutData?: boolean;
  /** Whether a record is wanted; without it every one is. */
  readonly wants?: (marks: RecordMarks) => boolean;
}

/** What tells whether a record is wanted. */
export type RecordMarks = Pick<RecordRow, "run_key" | "first_run_seq" | "types">;

/** A page. */
export interface RecordPage {
  /** In the order asked for. */
  readonly records: readonly RecordRow[];
  /**
   * How far the page looked: every wanted record that ends between where it
   * began and this seq, inclusive, is in it. The other end of the range where
   * nothing is left.
   */
  readonly reachSeq: number;
}

/** All that differs between the directions. */
export interface Course {
  readonly order: "asc" | "desc";
  /** Which of several places is met first. */
  readonly first: "min" | "max";
  /** The last seq of a range at which a record may end. */
  readonly lastOf: (range: SeqRange) => number;
  /** A range up to a record's key, inclusive. */
  readonly through: (key: number, range: SeqRange) => SeqRange;
  /** A range from a record's key on, inclusive. */
  readonly from: (key: number, range: SeqRange) => SeqRange;
  /** A range behind a record's key. */
  readonly past: (key: number, range: SeqRange) => SeqRange;
}

/** Both directions. */
export const courses: Readonly<Record<Direction, Course>> = {
  forward: {
    order: "asc",
    first: "min",
    lastOf: ({ upToSeq }) => upToSeq,
    through: (key, { afterSeq }) => ({ afterSeq, upToSeq: key }),
    from: (key, { upToSeq }) => ({ afterSeq: key - 1, upToSeq }),
    past: (key, { upToSeq }) => ({ afterSeq: key, upToSeq }),
  },
  backward: {
    order: "desc",
    first: "max",
    lastOf: ({ afterSeq }) => afterSeq + 1,
    through: (key, { upToSeq }) => ({ afterSeq: key - 1, upToSeq }),
    from: (key, { afterSeq }) => ({ afterSeq, upToSeq: key }),
    past: (key, { afterSeq }) => ({ afterSeq, upToSeq: key - 1 }),
  },
};

/** Records of which one page looks at the marks, where not every record is wanted. */
const markScanRecords = 2_048;

const noData = new Uint8Array(0);

/** A record's key, and what it weighs. */
export interface Key {
  readonly last_seq: number;
  readonly size: number;
}

/** A range, and whether to read only its signals and facts. */
export type KeyRange = SeqRange & Pick<PageBounds, "withoutEvents">;

/** The keys of a namespace's records in a range. */
export function keysIn(
  db: Db,
  namespaceId: number,
  { afterSeq, upToSeq, withoutEvents = false }: KeyRange,
) {
  return db
    .selectFrom("records")
    .select(["last_seq", "size"])
    .where("namespace_id", "=", namespaceId)
    .where("last_seq", ">", afterSeq)
    .where("last_seq", "<=", upToSeq)
    .$if(withoutEvents, (keys) => keys.where(isNoEvent()));
}

/**
 * The first keys of a tree's records in a range. The index of trees leaves out the roots'
 * own records, which the index of runs has: most trees are a root alone, and its appends
 * then write one index less.
 */
export async function treeKeys(
  db: Db,
  namespaceId: number,
  rootKey: number,
  range: KeyRange,
  order: Course["order"],
  limit: number,
): Promise<Key[]> {
  const keys = keysIn(db, namespaceId, range).orderBy("last_seq", order).limit(limit);
  // Their index has the roots' own too.
  if (range.withoutEvents) return keys.where("root_key", "=", rootKey).execute();
  const [own, others] = await Promise.all([
    keys.where("run_key", "=", rootKey).execute(),
    keys.where("root_key", "=", rootKey).where(isNoRoot()).execute(),
  ]);
  return firstOf(own, others, order, limit);
}

/** Whether a record is not its tree's root's own, as the index of trees has it. */
export function isNoRoot(table = "records") {
  return sql<SqlBool>`${sql.ref(`${table}.run_key`)} <> ${sql.ref(`${table}.root_key`)}`;
}

/**
 * Whether a record is a signal or a fact, as the indexes of those have it. The 0 is part of
 * the statement: for a parameter neither database would use a partial index.
 */
export function isNoEvent(table = "records") {
  return sql<SqlBool>`${sql.ref(`${table}.first_run_seq`)} = 0`;
}

/** Whether a record is in the index by which a tree's records are scanned. */
export function isInTreeScan(
  { withoutEvents = false }: Pick<PageBounds, "withoutEvents">,
  table = "records",
) {
  return withoutEvents ? isNoEvent(table) : isNoRoot(table);
}

/** The first of two lists of keys that are in order. */
export function firstOf(
  some: readonly Key[],
  others: readonly Key[],
  order: Course["order"],
  limit: number,
): Key[] {
  if (others.length === 0) return [...some];
  if (some.length === 0) return [...others];
  const sign = order === "asc" ? 1 : -1;
  return [...some, ...others].toSorted((a, b) => sign * (a.last_seq - b.last_seq)).slice(0, limit);
}

/** Keys that a page looks at. */
export function maxKeys(bounds: PageBounds): number {
  return bounds.wants === undefined ? bounds.maxRecords : markScanRecords;
}

/** Leaves the keys of records that are wanted. What else they hold is not read. */
async function wantedOf(
  db: Db,
  namespaceId: number,
  keys: readonly Key[],
  wants: NonNullable<PageBounds["wants"]>,
): Promise<readonly Key[]> {
  if (keys.length === 0) return keys;
  const rows = await db
    .selectFrom("records")
    .select(["last_seq", "run_key", "first_run_seq", "types"])
    .where("namespace_id", "=", namespaceId)
    .where("last_seq", "in", padded(keys.map((key) => key.last_seq)))
    .execute();
  const wanted = new Set(rows.filter((row) => wants(row)).map((row) => row.last_seq));
  return keys.filter((key) => wanted.has(key.last_seq));
}

/**
 * Cuts the keys at the page's size and reads the bytes of what is left, or of what
 * comes before a damaged record.
 *
 * @throws RefusedError data_loss where the first one is damaged; MissingRecordError
 */
export async function bytesOf(
  db: Db,
  namespaceId: number,
  bounds: PageBounds,
  keys: readonly Key[],
): Promise<RecordPage> {
  const { wants } = bounds;
  const { order, lastOf } = courses[bounds.direction];
  const rows = wants === undefined ? keys : await wantedOf(db, namespaceId, keys, wants);
  const page = rowsWithin(rows.slice(0, bounds.maxRecords), bounds.maxBytes);
  // How far the keys reach, unless the page is full before.
  const reachSeq = keys.length < maxKeys(bounds) ? lastOf(bounds) : keys.at(-1)!.last_seq;
  const last = page.at(-1);
  if (last === undefined) return { records: [], reachSeq };
  const wanted = page.map((key) => key.last_seq);
  const endSeq = page.length < rows.length ? last.last_seq : reachSeq;
  if (bounds.withoutData) {
    return { records: await marksOf(db, namespaceId, wanted, order), reachSeq: endSeq };
  }
  const read = await recordsAt[order](db, { namespaceId, seqs: padded(wanted) });
  const records = intactOf(read, wanted);
  if (records.length < page.length) return { records, reachSeq: records.at(-1)!.last_seq };
  return { records, reachSeq: endSeq };
}

const recordsAt = { asc: recordsIn("asc"), desc: recordsIn("desc") };

function recordsIn(order: "asc" | "desc") {
  return compileOnce(
    (db, { namespaceId, seqs }: { namespaceId: number; seqs: readonly number[] }) =>
      db
        .selectFrom("records")
        .select(recordColumns)
        .where("namespace_id", "=", namespaceId)
        .where("last_seq", "in", seqs)
        .orderBy("last_seq", order),
  );
}

/** Reads records without their data; one that was deleted meanwhile is left out. */
async function marksOf(
  db: Db,
  namespaceId: number,
  seqs: readonly number[],
  order: Course["order"],
): Promise<RecordRow[]> {
  const rows = await db
    .selectFrom("records")
    .select(["last_seq", "event_count", "run_key", "first_run_seq", "types"])
    .where("namespace_id", "=", namespaceId)
    .where("last_seq", "in", padded(seqs))
    .orderBy("last_seq", order)
    .execute();
  return rows.map((row) => ({ ...row, data: noData }));
}

/**
 * The records before the first that is damaged or missing; where that is the
 * first of all, there is nothing to go on with.
 *
 * @throws RefusedError data_loss; MissingRecordError where an index names a record that is not there
 */
function intactOf(read: readonly StoredRecord[], wanted: readonly number[]): RecordRow[] {
  const records: RecordRow[] = [];
  for (const [index, seq] of wanted.entries()) {
    const record = read[index];
    if (record?.last_seq === seq && isIntact(record)) {
      records.push(record);
      continue;
    }
    if (records.length > 0) break;
    if (record?.last_seq === seq) throw damaged(record);
    throw new MissingRecordError(seq);
  }
  return records;
}

/** An index names a missing record: a deletion came in between, or one of the two is damaged. */
export class MissingRecordError extends Error {
  readonly seq: number;

  constructor(seq: number) {
    super(`record ${seq} is missing`);
    this.name = "MissingRecordError";
    this.seq = seq;
  }
}
