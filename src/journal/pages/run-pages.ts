/** Pages of runs that are named, and of the beginnings of others. */
import { sql } from "kysely";
import { compileOnce } from "../compile-once.ts";
import type { Db } from "../schema.ts";
import { padded } from "../statement-lists.ts";
import {
  bytesOf,
  courses,
  isNoEvent,
  keysIn,
  maxKeys,
  type PageBounds,
  type RecordPage,
  type RecordScope,
  type SeqRange,
} from "./keys.ts";

/**
 * Reads runs together with the beginnings of others. A beginning has an end, so
 * the range is read in parts: in each, a run belongs to the page as a whole or
 * not at all, and what it recorded behind its beginning is never looked at.
 */
export function readRunsOrBeginnings(
  db: Db,
  namespaceId: number,
  { runKeys, beginnings = [] }: Extract<RecordScope, { kind: "runs" }>,
  bounds: PageBounds,
): Promise<RecordPage> {
  const part = firstPart(
    beginnings.map(({ lastKey }) => lastKey),
    bounds,
  );
  const own = new Set(runKeys);
  const begun = beginnings
    .filter(({ runKey, lastKey }) => lastKey > part.afterSeq && !own.has(runKey))
    .map(({ runKey }) => runKey);
  if (begun.length === 0) return readRuns(db, namespaceId, runKeys, { ...bounds, ...part });
  const { wants = () => true } = bounds;
  return readRuns(db, namespaceId, [...runKeys, ...begun], {
    ...bounds,
    ...part,
    wants: (marks) => (marks.types !== "" || own.has(marks.run_key)) && wants(marks),
  });
}

/** The part of a range that is read first, if it is divided behind these seqs. */
function firstPart(dividers: readonly number[], { direction, ...range }: PageBounds): SeqRange {
  const { afterSeq, upToSeq } = range;
  const inside = dividers.filter((seq) => seq > afterSeq && seq < upToSeq);
  return direction === "forward"
    ? { afterSeq, upToSeq: Math.min(upToSeq, ...inside) }
    : { afterSeq: Math.max(afterSeq, ...inside), upToSeq };
}

/** Reads a page of runs, merged by seq. */
export async function readRuns(
  db: Db,
  namespaceId: number,
  runKeys: readonly number[],
  bounds: PageBounds,
): Promise<RecordPage> {
  const { order, lastOf } = courses[bounds.direction];
  const { withoutEvents = false } = bounds;
  const [only] = runKeys;
  if (only === undefined) return { records: [], reachSeq: lastOf(bounds) };
  if (runKeys.length === 1) {
    const { afterSeq, upToSeq } = bounds;
    const range = { namespaceId, afterSeq, upToSeq, runKey: only, limit: maxKeys(bounds) };
    const keysOfRun = (withoutEvents ? factKeysOfRun : allKeysOfRun)[order];
    return bytesOf(db, namespaceId, bounds, await keysOfRun(db, range));
  }
  const range = await withinShares(db, namespaceId, runKeys, bounds);
  const keys = await keysIn(db, namespaceId, { ...range, withoutEvents })
    .where("run_key", "in", padded(runKeys))
    // An expression: ordered by the column, a planner may walk the namespace's
    // records in that order and throw away all strangers'.
    .orderBy(sql`last_seq + 0`, order)
    .limit(maxKeys(bounds))
    .execute();
  return bytesOf(db, namespaceId, { ...bounds, ...range }, keys);
}

const allKeysOfRun = keysOfRun(false);
const factKeysOfRun = keysOfRun(true);

function keysOfRun(withoutEvents: boolean) {
  const inOrder = (order: "asc" | "desc") =>
    compileOnce((db, { namespaceId, runKey, limit, ...range }: KeysOfRun) =>
      keysIn(db, namespaceId, { ...range, withoutEvents })
        // Hidden from the planner: where it knows that a run has most of the records, it walks
        // all of the namespace's by seq, also through a range where that run has none.
        .where("run_key", "=", sql<number>`(select cast(${runKey} as bigint))`)
        .orderBy("last_seq", order)
        .limit(limit),
    );
  return { asc: inOrder("asc"), desc: inOrder("desc") };
}

interface KeysOfRun extends SeqRange {
  readonly namespaceId: number;
  readonly runKey: number;
  readonly limit: number;
}

/**
 * The part of a range in which no run has more than its share of the keys of
 * a page: it ends at the first run whose share is used up, so that nothing is
 * sorted that is not in this page or the next.
 */
async function withinShares(
  db: Db,
  namespaceId: number,
  runKeys: readonly number[],
  bounds: PageBounds,
): Promise<PageBounds> {
  const { order, first, through } = courses[bounds.direction];
  const { withoutEvents = false } = bounds;
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
            .$if(withoutEvents, (some) => some.where(isNoEvent("r")))
            .orderBy("r.last_seq", order)
            .limit(1)
            .offset(share - 1)
            .as("share_end"),
        )
        .where("k.namespace_id", "=", namespaceId)
        .where("k.run_key", "in", padded(runKeys))
        .where("k.last_seq", ">", bounds.afterSeq)
        .as("shares"),
    )
    .select((eb) => eb.fn[first]("share_end").as("seq"))
    .executeTakeFirst();
  return horizon?.seq == null ? bounds : { ...bounds, ...through(horizon.seq, bounds) };
}
