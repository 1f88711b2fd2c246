/**
 * What is missing between records that follow each other without a gap: seqs are
 * dense, so a namespace of which nothing was ever deleted has no holes.
 */
import type { Direction, SeqRange } from "../journal/pages/keys.ts";

/** Seqs, both inclusive. */
interface Hole {
  readonly firstSeq: number;
  readonly lastSeq: number;
}

/** Where a record lies. */
interface Placed {
  readonly firstSeq: number;
  readonly count: number;
}

/** Records, and how far was looked for them, inclusive. */
interface Stretch<Row extends Placed> {
  readonly records: readonly Row[];
  readonly reachSeq: number;
}

/** Records up to a hole, or the hole where they begin with it. */
type Looked<Row extends Placed> = { readonly page: Stretch<Row> } | { readonly hole: Hole };

/** A page up to its first hole; the hole, where it begins with it. */
export function beforeHole<Row extends Placed>(
  page: Stretch<Row>,
  direction: Direction,
  range: SeqRange,
): Looked<Row> {
  return direction === "forward" ? forward(page, range) : backward(page, range);
}

function forward<Row extends Placed>(page: Stretch<Row>, { afterSeq }: SeqRange): Looked<Row> {
  let reached = afterSeq;
  for (const [index, { firstSeq, count }] of page.records.entries()) {
    // The cursor may be in the middle of the first record.
    if (firstSeq > reached + 1) {
      if (index === 0) return { hole: { firstSeq: reached + 1, lastSeq: firstSeq - 1 } };
      return { page: { records: page.records.slice(0, index), reachSeq: reached } };
    }
    reached = Math.max(reached, firstSeq + count - 1);
  }
  if (reached >= page.reachSeq) return { page };
  if (page.records.length === 0) {
    return { hole: { firstSeq: reached + 1, lastSeq: page.reachSeq } };
  }
  return { page: { records: page.records, reachSeq: reached } };
}

function backward<Row extends Placed>(page: Stretch<Row>, { upToSeq }: SeqRange): Looked<Row> {
  let next = upToSeq;
  for (const [index, { firstSeq, count }] of page.records.entries()) {
    const lastSeq = firstSeq + count - 1;
    if (lastSeq < next) {
      if (index === 0) return { hole: { firstSeq: lastSeq + 1, lastSeq: next } };
      return { page: { records: page.records.slice(0, index), reachSeq: next + 1 } };
    }
    next = firstSeq - 1;
  }
  if (next < page.reachSeq) return { page };
  if (page.records.length === 0) return { hole: { firstSeq: page.reachSeq, lastSeq: next } };
  return { page: { records: page.records, reachSeq: next + 1 } };
}
