/** Pages of a run's descendants, at whatever distance and however many they are. */

import type { Db } from "../schema.ts";
import {
  bytesOf,
  courses,
  firstOf,
  isInTreeScan,
  isNoEvent,
  type Key,
  keysIn,
  maxKeys,
  type PageBounds,
  type RecordPage,
  type RecordScope,
  type SeqRange,
} from "./keys.ts";
import { readRuns } from "./run-pages.ts";

/**
 * Families up to this many runs are read run by run; of larger ones the tree is
 * scanned. The first costs a seek per run and page, the second a row per
 * record of the tree.
 */
const maxMergedRuns = 128;
/** Rows of a tree that are looked through before the next match is sought by run. */
const scanRows = 4_096;

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

/** Reads one page of a run's descendants. */
export async function readDescendants(
  db: Db,
  namespaceId: number,
  scope: Descendants,
  bounds: PageBounds,
): Promise<RecordPage> {
  const runKeys = await fewDescendants(db, namespaceId, scope, bounds);
  if (runKeys !== undefined) return readRuns(db, namespaceId, runKeys, bounds);
  return scanDescendants(db, namespaceId, scope, bounds);
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
    const whole = { ...bounds, ...left };
    const stretchEnd = await endOfStretch(db, namespaceId, scope.rootKey, whole);
    const stretch = stretchEnd === undefined ? left : through(stretchEnd, left);
    const others = await db
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
      .where(isInTreeScan(bounds, "r"))
      .where("r.last_seq", ">", stretch.afterSeq)
      .where("r.last_seq", "<=", stretch.upToSeq)
      .where("a.depth", ">=", scope.minDepth)
      .where("a.depth", "<=", scope.maxDepth)
      .orderBy("r.last_seq", order)
      .limit(maxKeys(bounds))
      .execute();
    const keys = firstOf(
      await ownKeys(db, namespaceId, scope, stretch, bounds),
      others,
      order,
      maxKeys(bounds),
    );
    if (keys.length > 0 || stretchEnd === undefined) {
      return bytesOf(db, namespaceId, { ...bounds, ...stretch }, keys);
    }
    const behind = past(stretchEnd, left);
    const next = await nextOfFamily(db, namespaceId, scope, { ...bounds, ...behind });
    if (next === undefined) return { records: [], reachSeq: lastOf(bounds) };
    left = from(next, behind);
  }
}

/** Keys of the root's own records in a stretch, where the family has them. */
async function ownKeys(
  db: Db,
  namespaceId: number,
  { rootKey, ancestorKey, minDepth }: Descendants,
  stretch: SeqRange,
  bounds: PageBounds,
): Promise<readonly Key[]> {
  // Of signals and facts the scan has them.
  if (ancestorKey !== rootKey || minDepth > 0 || bounds.withoutEvents) return [];
  return keysIn(db, namespaceId, stretch)
    .where("run_key", "=", rootKey)
    .orderBy("last_seq", courses[bounds.direction].order)
    .limit(maxKeys(bounds))
    .execute();
}

/** Key of the last row in the next stretch of a tree's index, or undefined where it is the last stretch. */
async function endOfStretch(
  db: Db,
  namespaceId: number,
  rootKey: number,
  bounds: PageBounds,
): Promise<number | undefined> {
  const row = await keysIn(db, namespaceId, bounds)
    .where("root_key", "=", rootKey)
    .where(isInTreeScan(bounds))
    .orderBy("last_seq", courses[bounds.direction].order)
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
  { direction, afterSeq, upToSeq, withoutEvents = false }: PageBounds,
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
            .$if(withoutEvents, (some) => some.where(isNoEvent("r")))
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
