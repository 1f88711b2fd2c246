/** Frames for a subscriber, and how a page becomes some. */
import { itemsOf, skipItems, stretchesOf } from "../wire/event-batch.ts";
import type { Page, PageRecord } from "./page-source.ts";
import type { TypeFilter } from "./type-filter.ts";

/** A frame for the subscriber, before it is a message of the contract. */
export type SubscriptionFrame =
  | {
      readonly t: "subscribed";
      readonly journalId: string;
      readonly earliestSeq: number;
      readonly latestSeq: number;
      /** Where the subscription starts, exclusive. */
      readonly afterSeq: number;
    }
  /** The parts, one behind the other, are the wire encoding of an EventBatch. */
  | { readonly t: "events"; readonly parts: readonly Uint8Array[] }
  | { readonly t: "caught_up"; readonly seq: number }
  | { readonly t: "progress"; readonly seq: number };

/** Items of a page that go out together. */
export interface ItemsFrame {
  readonly frame: Extract<SubscriptionFrame, { t: "events" }>;
  readonly bytes: number;
  /** Everything wanted up to this seq is in the frame or before it. */
  readonly upToSeq: number;
  /** Items in the frame; counted only where they are limited. */
  readonly count: number;
}

/** What is taken of a page. */
export interface TakenPage {
  /** Of about `frameBytes`; a record is in one of them. */
  readonly frames: readonly ItemsFrame[];
  /** Everything wanted up to this seq is in the frames or before them. */
  readonly upToSeq: number;
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
  const frames: ItemsFrame[] = [];
  let parts: Uint8Array[] = [];
  let bytes = 0;
  let count = 0;
  let upToSeq = cursor;
  const close = () => {
    if (parts.length > 0) frames.push({ frame: { t: "events", parts }, bytes, upToSeq, count });
    parts = [];
    bytes = 0;
    count = 0;
  };
  const add = (some: readonly Uint8Array[], toSeq: number) => {
    let size = 0;
    for (const part of some) size += part.length;
    if (bytes + size > frameBytes) close();
    for (const part of some) parts.push(part);
    bytes += size;
    upToSeq = toSeq;
  };
  const isLimited = maxItems !== Number.POSITIVE_INFINITY;
  let left = maxItems;
  for (const record of page.records) {
    if (!isLimited) {
      add(wantedParts(record, cursor, types), record.firstSeq + record.count - 1);
      continue;
    }
    for (const { item, seq } of wantedItems(record, cursor, types)) {
      if (left === 0) {
        upToSeq = seq - 1;
        close();
        return { frames, upToSeq: seq - 1 };
      }
      left--;
      add([item], seq);
      count++;
    }
  }
  close();
  return { frames, upToSeq: page.upToSeq };
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
export function wantedItems(
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
