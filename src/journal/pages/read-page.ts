/**
 * Reads pages of records, oldest or newest first. A page is bounded before it
 * is read: its keys and sizes come from an index, then its bytes by their
 * keys, so that a page costs the same wherever it lies, in whichever direction
 * it is read, and whatever else the namespace holds.
 */
import { lost } from "../checksum.ts";
import type { Db } from "../schema.ts";
import { padded } from "../statement-lists.ts";
import { readDescendants } from "./family-pages.ts";
import {
  bytesOf,
  courses,
  type Direction,
  keysIn,
  MissingRecordError,
  maxKeys,
  type PageBounds,
  type RecordPage,
  type RecordScope,
  type SeqRange,
  treeKeys,
} from "./keys.ts";
import { readRunsOrBeginnings } from "./run-pages.ts";

/** What is left of a range once a page has reached a seq. */
export function rangeAfter(reachSeq: number, direction: Direction, range: SeqRange): SeqRange {
  return courses[direction].past(reachSeq, range);
}

/**
 * Reads one page of a scope. What is damaged ends a page; where it is the first
 * record, it is refused.
 *
 * @throws RefusedError data_loss
 */
export async function readPage(
  db: Db,
  namespaceId: number,
  scope: RecordScope,
  bounds: PageBounds,
): Promise<RecordPage> {
  for (let missing: number | undefined; ; ) {
    try {
      return await readOnce(db, namespaceId, scope, bounds);
    } catch (error) {
      if (!(error instanceof MissingRecordError)) throw error;
      // A deletion takes a record and its entries in the indexes at once.
      if (error.seq === missing) throw lost(missing);
      missing = error.seq;
    }
  }
}

async function readOnce(
  db: Db,
  namespaceId: number,
  scope: RecordScope,
  bounds: PageBounds,
): Promise<RecordPage> {
  const all = keysIn(db, namespaceId, bounds)
    .orderBy("last_seq", courses[bounds.direction].order)
    .limit(maxKeys(bounds));
  switch (scope.kind) {
    case "all": {
      const { exceptRoots } = scope;
      const some =
        exceptRoots.length === 0 ? all : all.where("root_key", "not in", padded(exceptRoots));
      return bytesOf(db, namespaceId, bounds, await some.execute());
    }
    case "tree": {
      const { order } = courses[bounds.direction];
      const limit = maxKeys(bounds);
      const keys = await treeKeys(db, namespaceId, scope.rootKey, bounds, order, limit);
      return bytesOf(db, namespaceId, bounds, keys);
    }
    case "runs":
      return readRunsOrBeginnings(db, namespaceId, scope, bounds);
    case "descendants":
      return readDescendants(db, namespaceId, scope, bounds);
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
