/**
 * Queries about records. A page is bounded before it is read: its keys and
 * sizes come from an index, then its bytes by their keys, so that a page costs
 * the same wherever it lies and whatever else the namespace holds.
 */
import { type Insertable, type Selectable, sql } from "kysely";
import type { Db, RecordsTable } from "./schema.ts";

/** A record to be appended. */
export type NewRecord = Insertable<RecordsTable>;

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

/** Which part of a scope a page holds. */
export interface PageBounds {
  /** Only records that end after this seq. */
  readonly afterSeq: number;
  /** Only records that end at or before this seq. */
  readonly upToSeq: number;
  readonly maxRecords: number;
  /** At least one record is returned, whatever its size. */
  readonly maxBytes: number;
  /** Whether a record with these types, one a line, is wanted; without it every one is. */
  readonly wants?: (types: string) => boolean;
}

/** A page. Every record of the scope up to `upToSeq` is in it or before it. */
export interface RecordPage {
  readonly records: readonly RecordRow[];
  readonly upToSeq: number;
}

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
/** Rows for one insert: 9 columns each stay below SQLite's 32,766 parameters. */
const chunkRows = 500;

/** Appends records. */
export async function insertRecords(tx: Db, records: readonly NewRecord[]): Promise<void> {
  for (let i = 0; i < records.length; i += chunkRows) {
    await tx
      .insertInto("records")
      .values(records.slice(i, i + chunkRows))
      .execute();
  }
}

interface Key {
  readonly last_seq: number;
  readonly size: number;
}

/** Reads one page of a scope, oldest first. */
export async function readPage(
  db: Db,
  namespaceId: number,
  scope: RecordScope,
  bounds: PageBounds,
): Promise<RecordPage> {
  const { afterSeq, upToSeq } = bounds;
  const all = keysBetween(db, namespaceId, afterSeq, upToSeq)
    .orderBy("last_seq")
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

/** The keys of a namespace's records between two seqs, the first one exclusive. */
function keysBetween(db: Db, namespaceId: number, afterSeq: number, upToSeq: number) {
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
    .select(["last_seq", "size", "types"])
    .where("namespace_id", "=", namespaceId)
    .where(
      "last_seq",
      "in",
      keys.map((key) => key.last_seq),
    )
    .orderBy("last_seq")
    .execute();
  return rows.filter((row) => wants(row.types));
}

/** Cuts the keys at the page's size and reads the bytes of what is left. */
async function bytesOf(
  db: Db,
  namespaceId: number,
  bounds: PageBounds,
  keys: readonly Key[],
): Promise<RecordPage> {
  const { wants } = bounds;
  const rows = wants === undefined ? keys : await wantedOf(db, namespaceId, keys, wants);
  let bytes = 0;
  let taken = 0;
  while (taken < rows.length && taken < bounds.maxRecords) {
    bytes += rows[taken]!.size;
    if (taken > 0 && bytes > bounds.maxBytes) break;
    taken++;
  }
  // How far the keys reach, unless the page is full before.
  const reach = keys.length < maxKeys(bounds) ? bounds.upToSeq : keys.at(-1)!.last_seq;
  if (taken === 0) return { records: [], upToSeq: reach };
  const wanted = rows.slice(0, taken).map((key) => key.last_seq);
  const records = await db
    .selectFrom("records")
    .select(["last_seq", "event_count", "types", "data"])
    .where("namespace_id", "=", namespaceId)
    .where("last_seq", "in", wanted)
    .orderBy("last_seq")
    .execute();
  return { records, upToSeq: taken < rows.length ? wanted[taken - 1]! : reach };
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
  if (runKeys.length === 0) return { records: [], upToSeq: bounds.upToSeq };
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
            .orderBy("r.last_seq")
            .limit(1)
            .offset(share - 1)
            .as("share_end"),
        )
        .where("k.namespace_id", "=", namespaceId)
        .where("k.run_key", "in", runKeys)
        .where("k.last_seq", ">", bounds.afterSeq)
        .as("shares"),
    )
    .select((eb) => eb.fn.min("share_end").as("seq"))
    .executeTakeFirst();
  const upToSeq = Math.min(bounds.upToSeq, horizon?.seq ?? bounds.upToSeq);
  const keys = await keysBetween(db, namespaceId, bounds.afterSeq, upToSeq)
    .where("run_key", "in", runKeys)
    // An expression: ordered by the column, a planner may walk the namespace's
    // records in that order and throw away all strangers'.
    .orderBy(sql`last_seq + 0`)
    .limit(maxKeys(bounds))
    .execute();
  return bytesOf(db, namespaceId, { ...bounds, upToSeq }, keys);
}

type Descendants = Extract<RecordScope, { kind: "descendants" }>;

/** The runs of a family that have records after the cursor, or undefined where they are many. */
async function fewDescendants(
  db: Db,
  namespaceId: number,
  scope: Descendants,
  bounds: PageBounds,
): Promise<number[] | undefined> {
  const rows = await db
    .selectFrom("run_ancestors as a")
    .select("a.run_key")
    .where("a.namespace_id", "=", namespaceId)
    .where("a.ancestor_key", "=", scope.ancestorKey)
    .where("a.depth", ">=", scope.minDepth)
    .where("a.depth", "<=", scope.maxDepth)
    .where("a.run_key", "<=", bounds.upToSeq)
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
  let afterSeq = bounds.afterSeq;
  for (;;) {
    const stretch = await stretchEnd(db, namespaceId, scope.rootKey, afterSeq, bounds.upToSeq);
    const upToSeq = stretch ?? bounds.upToSeq;
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
      .where("r.last_seq", ">", afterSeq)
      .where("r.last_seq", "<=", upToSeq)
      .where("a.depth", ">=", scope.minDepth)
      .where("a.depth", "<=", scope.maxDepth)
      .orderBy("r.last_seq")
      .limit(maxKeys(bounds))
      .execute();
    if (keys.length > 0 || stretch === undefined) {
      return bytesOf(db, namespaceId, { ...bounds, upToSeq }, keys);
    }
    const next = await nextOfFamily(db, namespaceId, scope, upToSeq);
    if (next === undefined) return { records: [], upToSeq: bounds.upToSeq };
    afterSeq = next - 1;
  }
}

/** seq of the last row in the next stretch of a tree, or undefined where it is the last stretch. */
async function stretchEnd(
  db: Db,
  namespaceId: number,
  rootKey: number,
  afterSeq: number,
  upToSeq: number,
): Promise<number | undefined> {
  const row = await keysBetween(db, namespaceId, afterSeq, upToSeq)
    .where("root_key", "=", rootKey)
    .orderBy("last_seq")
    .limit(1)
    .offset(scanRows - 1)
    .executeTakeFirst();
  return row?.last_seq;
}

/** seq of the family's first record after a seq: one seek per run that has any. */
async function nextOfFamily(
  db: Db,
  namespaceId: number,
  scope: Descendants,
  afterSeq: number,
): Promise<number | undefined> {
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
            .orderBy("r.last_seq")
            .limit(1)
            .as("head"),
        )
        .where("a.namespace_id", "=", namespaceId)
        .where("a.ancestor_key", "=", scope.ancestorKey)
        .where("a.depth", ">=", scope.minDepth)
        .where("a.depth", "<=", scope.maxDepth)
        .where("k.last_seq", ">", afterSeq)
        .as("heads"),
    )
    .select((eb) => eb.fn.min("head").as("seq"))
    .executeTakeFirst();
  return row?.seq ?? undefined;
}

/** A run's record of events, with the place in the run's own order. */
export type RunRecord = Pick<
  Selectable<RecordsTable>,
  "last_seq" | "event_count" | "first_run_seq" | "data"
>;

/**
 * The records of a run that hold its events from `runSeq` on, oldest first.
 * run_seq grows with seq inside a run, so the first one is found by halving
 * the range of seqs; no index by run_seq has to be kept for it.
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
  return select(low)
    .select(["last_seq", "event_count", "first_run_seq", "data"])
    .limit(limit)
    .execute();
}
