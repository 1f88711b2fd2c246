/**
 * Where a subscription starts: what it asks for is turned into a seq once, before it
 * begins, and is of no importance afterwards.
 */
import { yieldToEventLoop } from "../event-loop.ts";
import type { NamespaceRow } from "../journal/namespaces.ts";
import type { SeqRange } from "../journal/pages/keys.ts";
import { rangeAfter } from "../journal/pages/read-page.ts";
import { findSeqBefore } from "../journal/record-times.ts";
import type { Limits } from "../limits.ts";
import { RefusedError } from "../refusal.ts";
import type { Filter } from "./filter.ts";
import { wantedItems } from "./frames.ts";
import type { PageSource, Snapshot } from "./page-source.ts";
import type { DeliveryOptions, Start } from "./subscription-spec.ts";

/**
 * The seq behind which a subscription starts.
 *
 * @param row the namespace as it is now; undefined while nothing was written to it
 * @throws RefusedError cursor_ahead, cursor_trimmed; data_loss as below
 */
export async function findStartSeq(
  { journal, limits }: DeliveryOptions,
  source: PageSource,
  filter: Filter,
  { start, row }: { readonly start: Start; readonly row: NamespaceRow | undefined },
): Promise<number> {
  const latestSeq = row?.last_seq ?? 0;
  switch (start.t) {
    case "after":
      if (start.seq > latestSeq) throw new RefusedError({ reason: "cursor_ahead", latestSeq });
      refuseTrimmed(filter, start.seq, row?.trimmed_seq ?? 0);
      return start.seq;
    case "now":
      return latestSeq;
    // Like 0, these ask for all that is left.
    case "last":
      return findLastItems(source, filter, start.count, latestSeq, limits);
    case "from":
      return row === undefined
        ? 0
        : findSeqBefore(journal.db, row.namespace_id, start.timeMs, latestSeq);
  }
}

/**
 * Refuses a cursor behind which something was deleted. Runs and families are
 * there as a whole or not at all, and 0 asks for whatever is left.
 *
 * @throws RefusedError cursor_trimmed
 */
export function refuseTrimmed({ scope }: Filter, afterSeq: number, trimmedSeq: number): void {
  if (scope.kind !== "all" || afterSeq === 0 || afterSeq >= trimmedSeq) return;
  throw new RefusedError({ reason: "cursor_trimmed", earliestSeq: trimmedSeq + 1 });
}

/**
 * The seq behind which the newest items that a filter wants lie, up to `count` of them;
 * `latestSeq` where none is found. The search back ends after as many pages as a call of
 * ReadEvents looks through, so that it may find fewer than there are.
 *
 * @param latestSeq at which a record ends
 * @throws RefusedError data_loss where some of a damaged record may be wanted
 */
async function findLastItems(
  source: PageSource,
  filter: Filter,
  count: number,
  latestSeq: number,
  { readPages }: Pick<Limits, "readPages">,
): Promise<number> {
  const snapshot = await source.snapshot(filter);
  let range: SeqRange = { afterSeq: 0, upToSeq: Math.min(latestSeq, snapshot.endSeq) };
  let left = count;
  let seq = latestSeq;
  for (let pages = 0; pages < readPages; pages++) {
    if (left === 0 || range.afterSeq >= range.upToSeq) return seq;
    if (pages > 0) await yieldToEventLoop();
    // Each record holds one wanted item at least.
    const size = { maxRecords: left, maxBytes: Number.MAX_SAFE_INTEGER, withoutData: true };
    const { records, reachSeq } = await snapshot.read("backward", range, size);
    for (const { firstSeq, count: items, types } of records) {
      const isMixed = filter.types?.shareOf(types) === "some";
      const seqs = isMixed ? await wantedSeqs(snapshot, filter, firstSeq + items - 1) : undefined;
      const found = Math.min(left, seqs?.length ?? items);
      if (found > 0) seq = (seqs === undefined ? firstSeq + items - found : seqs.at(-found)!) - 1;
      left -= found;
      if (left === 0) return seq;
    }
    range = rangeAfter(reachSeq, "backward", range);
  }
  return seq;
}

/** The seqs that are wanted of the record that holds this one. */
async function wantedSeqs(
  snapshot: Snapshot,
  { types }: Filter,
  seq: number,
): Promise<readonly number[]> {
  const upToSeq = await snapshot.endOfRecord(seq);
  const size = { maxRecords: 1, maxBytes: 1 };
  const { records } = await snapshot.read("backward", { afterSeq: upToSeq - 1, upToSeq }, size);
  return records.flatMap((record) => wantedItems(record, 0, types).map((item) => item.seq));
}
