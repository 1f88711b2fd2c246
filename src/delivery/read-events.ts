/**
 * One page of events, in either direction, out of the journal alone.
 *
 * Invariant: pages chained by their nextSeq hold every wanted event between
 * where the first began and where the last ended, once and in order, whatever
 * is appended meanwhile. A page is bounded in events, in bytes, and in what is
 * looked through for it, so that an empty one may not be the last.
 */

import { yieldToEventLoop } from "../event-loop.ts";
import type { Direction, SeqRange } from "../journal/pages/keys.ts";
import { rangeAfter } from "../journal/pages/read-page.ts";
import { type Limits, maxRecordBytes } from "../limits.ts";
import { isDataLoss, RefusedError } from "../refusal.ts";
import { itemsOf, stretchesOf } from "../wire/event-batch.ts";
import type { Filter } from "./filter.ts";
import { type PageRecord, PageSource } from "./page-source.ts";
import { refuseTrimmed } from "./start-seq.ts";
import type { DeliveryOptions } from "./subscription-spec.ts";
import type { TypeFilter } from "./type-filter.ts";

/** Which page. */
export interface EventsRequest {
  readonly namespace: string;
  readonly filter: Filter;
  readonly direction: Direction;
  /** Forward: events after this seq. Backward: events before it, 0 for all. */
  readonly seq: number;
  /** At most this many events. */
  readonly maxEvents: number;
}

/** A page. */
export interface EventsPage {
  /** In the order asked for; one behind the other they are the wire encoding of an EventBatch. */
  readonly items: readonly Uint8Array[];
  /** `seq` of the next page in this direction; from 1 on where it goes backward. */
  readonly nextSeq: number;
  /** Whether nothing wanted was durable beyond it. */
  readonly end: boolean;
}

/**
 * Reads a page.
 *
 * @throws RefusedError run_not_found where one of the filter's runs does not
 *   exist, cursor_ahead where seq is beyond the newest durable one,
 *   cursor_trimmed where something was deleted behind it, data_loss where the
 *   next record is damaged
 */
export async function readEvents(
  options: DeliveryOptions,
  request: EventsRequest,
): Promise<EventsPage> {
  const { pages } = options.memory;
  const { readBytes } = options.limits;
  while (pages.isOver) await pages.untilRoom();
  pages.take(readBytes);
  try {
    return await readWholePage(options, request);
  } finally {
    pages.give(readBytes);
  }
}

async function readWholePage(
  options: DeliveryOptions,
  request: EventsRequest,
): Promise<EventsPage> {
  const { limits } = options;
  const source = new PageSource(options, request.namespace);
  for (;;) {
    const standing = await source.standingOf(request.filter.scope);
    const { missing, namespace } = standing;
    if (missing !== undefined) throw new RefusedError({ reason: "run_not_found", runId: missing });
    const filter = await source.withInherited(request.filter, standing);
    if (request.direction === "forward") {
      refuseTrimmed(filter, request.seq, namespace?.trimmed_seq ?? 0);
    }
    const page = await readPageOf(source, { ...request, filter }, limits);
    // A tree that was deleted meanwhile may have left holes in it.
    const now = await source.namespaceNow();
    if (now?.deletion_count === namespace?.deletion_count) return page;
  }
}

async function readPageOf(
  source: PageSource,
  request: EventsRequest,
  limits: Limits,
): Promise<EventsPage> {
  const { filter, direction, maxEvents } = request;
  const snapshot = await source.snapshot(filter);
  const { endSeq } = snapshot;
  const isForward = direction === "forward";
  const seq = isForward || request.seq > 0 ? request.seq : endSeq + 1;
  if (seq > (isForward ? endSeq : endSeq + 1)) {
    throw new RefusedError({ reason: "cursor_ahead", latestSeq: endSeq });
  }
  const draft = new Draft(direction, seq, filter.types, maxEvents, limits.readBytes);
  let range: SeqRange = isForward
    ? { afterSeq: seq, upToSeq: endSeq }
    : // The event before seq may stand in the middle of a record.
      { afterSeq: 0, upToSeq: seq > 1 ? await snapshot.endOfRecord(seq - 1) : 0 };
  for (let pages = 0; range.afterSeq < range.upToSeq; pages++) {
    if (pages === limits.readPages) return draft.page(false);
    // A statement runs without a pause: others have their turn between two.
    if (pages > 0) await yieldToEventLoop();
    const read = snapshot.read(direction, range, {
      // One more than there is room for tells whether that was all.
      maxRecords: Math.min(limits.pageRecords, draft.eventsLeft + 1),
      // More than a record may be too much already.
      maxBytes: maxRecordBytes,
    });
    const page = await read.catch((error: unknown) => {
      // What lies before the damage is delivered first.
      if (isDataLoss(error) && !draft.isEmpty) return undefined;
      throw error;
    });
    if (page === undefined) return draft.page(false);
    const { records, reachSeq } = page;
    for (const record of records) {
      if (!draft.add(record)) return draft.page(false);
    }
    draft.reached(reachSeq);
    range = rangeAfter(reachSeq, direction, range);
    if (draft.eventsLeft === 0) break;
  }
  return draft.page(range.afterSeq >= range.upToSeq);
}

/** A page that is being filled. */
class Draft {
  readonly #direction: Direction;
  readonly #seq: number;
  readonly #types: TypeFilter | undefined;
  readonly #maxEvents: number;
  readonly #maxBytes: number;
  readonly #items: Uint8Array[] = [];
  #bytes = 0;
  #nextSeq: number;

  constructor(
    direction: Direction,
    seq: number,
    types: TypeFilter | undefined,
    maxEvents: number,
    maxBytes: number,
  ) {
    this.#direction = direction;
    this.#seq = seq;
    this.#types = types;
    this.#maxEvents = maxEvents;
    this.#maxBytes = maxBytes;
    this.#nextSeq = seq;
  }

  get isEmpty(): boolean {
    return this.#items.length === 0;
  }

  get eventsLeft(): number {
    return this.#maxEvents - this.#items.length;
  }

  /** Adds a record's matching events; false where some had no room. */
  add(record: PageRecord): boolean {
    const items = itemsOf(record.data).map((item, i) => ({ item, seq: record.firstSeq + i }));
    const isMixed = this.#types?.shareOf(record.types) === "some";
    for (const { item, seq } of this.#direction === "forward" ? items : items.reverse()) {
      if (this.#isBeyond(seq) && !(isMixed && !this.#wants(item))) {
        const bytes = this.#bytes + item.length;
        if (this.eventsLeft === 0 || (this.#items.length > 0 && bytes > this.#maxBytes)) {
          return false;
        }
        this.#items.push(item);
        this.#bytes = bytes;
      }
      this.reached(seq);
    }
    return true;
  }

  /** Everything up to this seq, inclusive, has been considered. */
  reached(seq: number): void {
    this.#nextSeq =
      this.#direction === "forward" ? Math.max(this.#nextSeq, seq) : Math.min(this.#nextSeq, seq);
  }

  page(end: boolean): EventsPage {
    return { items: this.#items, nextSeq: this.#nextSeq, end };
  }

  /** Whether a seq lies in the direction of the page, of which a record may hold only some. */
  #isBeyond(seq: number): boolean {
    return this.#direction === "forward" ? seq > this.#seq : seq < this.#seq;
  }

  #wants(item: Uint8Array): boolean {
    const types = this.#types;
    return types === undefined || stretchesOf(item, (type) => types.wants(type)).length > 0;
  }
}
