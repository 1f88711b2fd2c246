/**
 * Reads pages of records, oldest or newest first. A page is bounded before it
 * is read: its keys and sizes come from an index, then its bytes by their
 * keys, so that a page costs the same wherever it lies, in whichever direction
 * it is read, and whatever else the namespace holds.
 */
import { type Selectable, sql } from "kysely";
import type { Db, RecordsTable } from "./schema.ts";

/** A record as a subscriber's page holds it. */
export type RecordRow = Pick<
  Selectable<RecordsTable>,
  "last_seq" | "event_count" | "types" | "data"
>;

/** Whose records a page holds. Runs are named by their keys. */
export type RecordScope =
  | { readonly kind: "all" }
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
  /** These runs. */
  | { readonly kind: "runs"; readonly runKeys: readonly number[] };

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
  /** Whether a record with these types, one a line, is wanted; without it every one is. */
  readonly wants?: (types: string) => boolean;
}

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
interface Course {
  readonly order: "asc" | "desc";
  /** Which of several places is met first. */
  readonly first: "min" | "max";
  /** The last seq of a range at which a record may end. */
  readonly lastOf: (range: SeqRange) => number;
  /** A range as far as a record's key, inclusive. */
  readonly through: (key: number, range: SeqRange) => SeqRange;
  /** A range from a record's key on, inclusive. */
  readonly from: (key: number, range: SeqRange) => SeqRange;
  /** A range behind a record's key. */
  readonly past: (key: number, range: SeqRange) => SeqRange;
}

const courses: Readonly<Record<Direction, Course>> = {
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

/**
 * Families up to this many runs are read run by run; of larger ones the tree is
 * scanned. The first costs a seek per run and page, the second a row per
 * record of the tree.
 */
const maxMergedRuns = 128;
/** Records of which one page looks at the types, where not every type is wanted. */
const typeScanRecords = 2_048;
/** Rows of a tree that are looked through before the next match is sought by run. */
const scanRows = 4_096;

interface Key {
  readonly last_seq: number;
  readonly size: number;
}

/** What is left of a range once a page has reached a seq. */
export function rangeAfter(reachSeq: number, direction: Direction, range: SeqRange): SeqRange {
  return courses[direction].past(reachSeq, range);
}

/** Reads one page of a scope. */
export async function readPage(
  db: Db,
  namespaceId: number,
  scope: RecordScope,
  bounds: PageBounds,
): Promise<RecordPage> {
  const all = keysIn(db, namespaceId, bounds)
    .orderBy("last_seq", courses[bounds.direction].order)
    .limit(maxKeys(bounds));
  switch (scope.kind) {
    case "all":
      return bytesOf(db, namespaceId, bounds, await all.execute());
    case "tree": {
      const keys = await all.where("root_key", "=", scope.rootKey).execute();
      return bytesOf(db, namespaceId, bounds, keys);
    }
    case "runs":
      return readRuns(db, namespaceId, scope.runKeys, bounds);
    case "descendants": {
      const runKeys = await fewDescendants(db, namespaceId, scope, bounds);
      if (runKeys !== undefined) return readRuns(db, namespaceId, runKeys, bounds);
      return scanDescendants(db, namespaceId, scope, bounds);
    }
  }
}

/**
 * The seq at which the record ends that holds a seq: a record of several events
 * is kept under the last one's. Undefined where there is none from there on.
 */
export async function findRecordEnd(
  db: Db,
  namespaceId: number,
  seq: number,
): Promise<number | undefined> {
  const row = await db
    .selectFrom("records")
    .select("last_seq")
    .where("namespace_id", "=", namespaceId)
    .where("last_seq", ">=", seq)
    .orderBy("last_seq")
    .limit(1)
    .executeTakeFirst();
  return row?.last_seq;
}

/** The keys of a namespace's records in a range. */
function keysIn(db: Db, namespaceId: number, { afterSeq, upToSeq }: SeqRange) {
  return db
    .selectFrom("records")
    .select(["last_seq", "size"])
    .where("namespace_id", "=", namespaceId)
    .where("last_seq", ">", afterSeq)
    .where("last_seq", "<=", upToSeq);
}

/** Keys that a page looks at. */
function maxKeys(bounds: PageBounds): number {
  return bounds.wants === undefined ? bounds.maxRecords : typeScanRecords;
}

/** Leaves the keys of records that are wanted. What else they hold is not read. */
async function wantedOf(
  db: Db,
  namespaceId: number,
  keys: readonly Key[],
  wants: (types: string) => boolean,
): Promise<readonly Key[]> {
  if (keys.length === 0) return keys;
  const rows = await db
    .selectFrom("records")
    .select(["last_seq", "types"])
    .where("namespace_id", "=", namespaceId)
    .where(
      "last_seq",
      "in",
      keys.map((key) => key.last_seq),
    )
    .execute();
  const wanted = new Set(rows.filter((row) => wants(row.types)).map((row) => row.last_seq));
  return keys.filter((key) => wanted.has(key.last_seq));
}

/** Cuts the keys at the page's size and reads the bytes of what is left. */
async function bytesOf(
  db: Db,
  namespaceId: number,
  bounds: PageBounds,
  keys: readonly Key[],
): Promise<RecordPage> {
  const { wants } = bounds;
  const { order, lastOf } = courses[bounds.direction];
  const rows = wants === undefined ? keys : await wantedOf(db, namespaceId, keys, wants);
  let bytes = 0;
  let taken = 0;
  while (taken < rows.length && taken < bounds.maxRecords) {
    bytes += rows[taken]!.size;
    if (taken > 0 && bytes > bounds.maxBytes) break;
    taken++;
  }
  // How far the keys reach, unless the page is full before.
  const reachSeq = keys.length < maxKeys(bounds) ? lastOf(bounds) : keys.at(-1)!.last_seq;
  if (taken === 0) return { records: [], reachSeq };
  const wanted = rows.slice(0, taken).map((key) => key.last_seq);
  const records = await db
    .selectFrom("records")
    .select(["last_seq", "event_count", "types", "data"])
    .where("namespace_id", "=", namespaceId)
    .where("last_seq", "in", wanted)
    .orderBy("last_seq", order)
    .execute();
  return { records, reachSeq: taken < rows.length ? wanted[taken - 1]! : reachSeq };
}

/**
 * Merges runs: of each at most `share` keys are looked at, and the page ends
 * at the first run whose share is used up, so that nothing is sorted that is
 * not in this page or the next.
 */
async function readRuns(
  db: Db,
  namespaceId: number,
  runKeys: readonly number[],
  bounds: PageBounds,
): Promise<RecordPage> {
  const { order, first, lastOf, through } = courses[bounds.direction];
  if (runKeys.length === 0) return { records: [], reachSeq: lastOf(bounds) };
  const share = Math.ceil((2 * maxKeys(bounds)) / runKeys.length) + 1;
  const horizon = await db
    .selectFrom((eb) =>
      eb
        .selectFrom("runs as k")
        .select((sub) =>
          sub
            .selectFrom("records as r")
            .select("r.last_seq")
            .whereRef("r.namespace_id", "=", "k.namespace_id")
            .whereRef("r.run_key", "=", "k.run_key")
            .where("r.last_seq", ">", bounds.afterSeq)
            .where("r.last_seq", "<=", bounds.upToSeq)
            .orderBy("r.last_seq", order)
            .limit(1)
            .offset(share - 1)
            .as("share_end"),
        )
        .where("k.namespace_id", "=", namespaceId)
        .where("k.run_key", "in", runKeys)
        .where("k.last_seq", ">", bounds.afterSeq)
        .as("shares"),
    )
    .select((eb) => eb.fn[first]("share_end").as("seq"))
    .executeTakeFirst();
  const range = horizon?.seq == null ? bounds : through(horizon.seq, bounds);
  const keys = await keysIn(db, namespaceId, range)
    .where("run_key", "in", runKeys)
    // An expression: ordered by the column, a planner may walk the namespace's
    // records in that order and throw away all strangers'.
    .orderBy(sql`last_seq + 0`, order)
    .limit(maxKeys(bounds))
    .execute();
  return bytesOf(db, namespaceId, { ...bounds, ...range }, keys);
}

type Descendants = Extract<RecordScope, { kind: "descendants" }>;

/** The runs of a family that had begun by the end of a range, or undefined where they are many. */
async function fewDescendants(
  db: Db,
  namespaceId: number,
  scope: Descendants,
  { upToSeq }: SeqRange,
): Promise<number[] | undefined> {
  const rows = await db
    .selectFrom("run_ancestors as a")
    .select("a.run_key")
    .where("a.namespace_id", "=", namespaceId)
    .where("a.ancestor_key", "=", scope.ancestorKey)
    .where("a.depth", ">=", scope.minDepth)
    .where("a.depth", "<=", scope.maxDepth)
    .where("a.run_key", "<=", upToSeq)
    .orderBy("a.run_key")
    .limit(maxMergedRuns + 1)
    .execute();
  return rows.length > maxMergedRuns ? undefined : rows.map((row) => row.run_key);
}

/**
 * Looks through the tree's index for records of the family. Where a stretch of
 * it holds none, the family's next record is sought by run and the scan goes
 * on from there, so that a stranger's records are passed over at most once.
 */
async function scanDescendants(
  db: Db,
  namespaceId: number,
  scope: Descendants,
  bounds: PageBounds,
): Promise<RecordPage> {
  const { order, lastOf, through, from, past } = courses[bounds.direction];
  let left: SeqRange = bounds;
  for (;;) {
    const stretchEnd = await endOfStretch(db, namespaceId, scope.rootKey, left, order);
    const stretch = stretchEnd === undefined ? left : through(stretchEnd, left);
    const keys = await db
      .selectFrom("records as r")
      .innerJoin("run_ancestors as a", (join) =>
        join
          .onRef("a.namespace_id", "=", "r.namespace_id")
          .onRef("a.run_key", "=", "r.run_key")
          .on("a.ancestor_key", "=", scope.ancestorKey),
      )
      .select(["r.last_seq", "r.size"])
      .where("r.namespace_id", "=", namespaceId)
      .where("r.root_key", "=", scope.rootKey)
      .where("r.last_seq", ">", stretch.afterSeq)
      .where("r.last_seq", "<=", stretch.upToSeq)
      .where("a.depth", ">=", scope.minDepth)
      .where("a.depth", "<=", scope.maxDepth)
      .orderBy("r.last_seq", order)
      .limit(maxKeys(bounds))
      .execute();
    if (keys.length > 0 || stretchEnd === undefined) {
      return bytesOf(db, namespaceId, { ...bounds, ...stretch }, keys);
    }
    const behind = past(stretchEnd, left);
    const next = await nextOfFamily(db, namespaceId, scope, bounds.direction, behind);
    if (next === undefined) return { records: [], reachSeq: lastOf(bounds) };
    left = from(next, behind);
  }
}

/** Key of the last row in the next stretch of a tree, or undefined where it is the last stretch. */
async function endOfStretch(
  db: Db,
  namespaceId: number,
  rootKey: number,
  range: SeqRange,
  order: Course["order"],
): Promise<number | undefined> {
  const row = await keysIn(db, namespaceId, range)
    .where("root_key", "=", rootKey)
    .orderBy("last_seq", order)
    .limit(1)
    .offset(scanRows - 1)
    .executeTakeFirst();
  return row?.last_seq;
}

/** Key of the family's first record in a range: one seek per run that may have any there. */
async function nextOfFamily(
  db: Db,
  namespaceId: number,
  scope: Descendants,
  direction: Direction,
  { afterSeq, upToSeq }: SeqRange,
): Promise<number | undefined> {
  const { order, first } = courses[direction];
  const row = await db
    .selectFrom((eb) =>
      eb
        .selectFrom("run_ancestors as a")
        .innerJoin("runs as k", (join) =>
          join.onRef("k.namespace_id", "=", "a.namespace_id").onRef("k.run_key", "=", "a.run_key"),
        )
        .select((sub) =>
          sub
            .selectFrom("records as r")
            .select("r.last_seq")
            .whereRef("r.namespace_id", "=", "k.namespace_id")
            .whereRef("r.run_key", "=", "k.run_key")
            .where("r.last_seq", ">", afterSeq)
            .where("r.last_seq", "<=", upToSeq)
            .orderBy("r.last_seq", order)
            .limit(1)
            .as("head"),
        )
        .where("a.namespace_id", "=", namespaceId)
        .where("a.ancestor_key", "=", scope.ancestorKey)
        .where("a.depth", ">=", scope.minDepth)
        .where("a.depth", "<=", scope.maxDepth)
        .where("a.run_key", "<=", upToSeq)
        .where("k.last_seq", ">", afterSeq)
        .as("heads"),
    )
    .select((eb) => eb.fn[first]("head").as("seq"))
    .executeTakeFirst();
  return row?.seq ?? undefined;
}
