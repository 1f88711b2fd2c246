/** Frames for a subscriber, and how a page becomes some. */
import { itemsOf, skipItems, stretchesOf } from "../journal/record-codec.ts";
import type { Page, PageRecord } from "./page-source.ts";
import type { TypeFilter } from "./type-filter.ts";

/** A frame for the subscriber, before it is a message of the contract. */
export type SubscriptionFrame =
  | {
      readonly t: "subscribed";
      readonly journalId: string;
      readonly earliestSeq: number;
      readonly latestSeq: number;
    }
  /** The parts, one behind the other, are the wire encoding of an EventBatch. */
  | { readonly t: "events"; readonly parts: readonly Uint8Array[] }
  | { readonly t: "caught_up"; readonly seq: number }
  | { readonly t: "progress"; readonly seq: number };

/** What is taken of a page. */
export interface TakenPage {
  /** In frames of about `frameBytes`. */
  readonly frames: readonly SubscriptionFrame[];
  /** Everything wanted up to this seq is in the frames or before them. */
  readonly upToSeq: number;
  /** Items in the frames; counted only where they are limited. */
  readonly count: number;
}

/**
 * Takes a page's items after the cursor.
 *
 * @param maxItems Infinity takes all of them, and counts none
 */
export function takePage(
  page: Page,
  cursor: number,
  types: TypeFilter | undefined,
  frameBytes: number,
  maxItems: number,
): TakenPage {
  const frames: SubscriptionFrame[] = [];
  let parts: Uint8Array[] = [];
  let bytes = 0;
  const add = (part: Uint8Array) => {
    if (parts.length > 0 && bytes + part.length > frameBytes) {
      frames.push({ t: "events", parts });
      parts = [];
      bytes = 0;
    }
    parts.push(part);
    bytes += part.length;
  };
  const isLimited = maxItems !== Number.POSITIVE_INFINITY;
  let count = 0;
  let upToSeq = page.upToSeq;
  for (const record of page.records) {
    if (!isLimited) {
      for (const part of wantedParts(record, cursor, types)) add(part);
      continue;
    }
    const wanted = wantedItems(record, cursor, types);
    for (const { item } of wanted.slice(0, maxItems - count)) add(item);
    if (wanted.length > maxItems - count) {
      upToSeq = wanted[maxItems - count]!.seq - 1;
      count = maxItems;
      break;
    }
    count += wanted.length;
  }
  if (parts.length > 0) frames.push({ t: "events", parts });
  return { frames, upToSeq, count };
}

/** What is wanted of a record after a cursor, in as few pieces as may be. */
function wantedParts(
  { firstSeq, types: named, data }: PageRecord,
  cursor: number,
  types: TypeFilter | undefined,
): readonly Uint8Array[] {
  const rest = skipItems(data, Math.max(0, cursor - firstSeq + 1));
  if (types?.shareOf(named) !== "some") return [rest];
  return stretchesOf(rest, (type) => types.wants(type));
}

/** What is wanted of a record after a cursor, one by one. */
function wantedItems(
  { firstSeq, types: named, data }: PageRecord,
  cursor: number,
  types: TypeFilter | undefined,
): { readonly seq: number; readonly item: Uint8Array }[] {
  const isMixed = types?.shareOf(named) === "some";
  return itemsOf(data)
    .map((item, index) => ({ seq: firstSeq + index, item }))
    .filter(
      ({ seq, item }) =>
        seq > cursor && (!isMixed || stretchesOf(item, (type) => types.wants(type)).length > 0),
    );
}
