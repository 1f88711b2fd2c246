/**
 * The newest part of a namespace's journal, in memory: a cache that a
 * subscriber's cursor reads as it reads the journal, never a second source.
 *
 * Invariant: the tail holds every record that ends after startSeq and at or
 * before endSeq, and everything up to endSeq is durable.
 *
 * Signals and facts stand in lists of their own besides: who wants nothing else
 * passes no event over.
 */
import type { CommittedRecord } from "../journal/committed-record.ts";
import { type Filter, isWithoutEvents, matchesRecord } from "./filter.ts";
import { Listeners, type Wake, type Watched } from "./listeners.ts";
import { RecordLists, type Records } from "./record-lists.ts";

/** A page out of the tail. */
export interface TailPage {
  readonly records: readonly CommittedRecord[];
  /** Every wanted record up to this seq is in the page or before it. */
  readonly upToSeq: number;
  /** Trees of the namespace that had been deleted when the tail began, and since. */
  readonly deletionCount: number;
}

/** Bytes of memory that a record takes besides its data, as test/delivery/tails.test.ts measures them. */
const recordBytes = 330;
/** The same of a tail that has records, besides them. */
const tailBytes = 1_100;

function endOf(record: CommittedRecord): number {
  return record.firstSeq + record.count - 1;
}

/** Bytes that a record holds in memory, about, without its places in lists. */
export function costOf({ data, types }: CommittedRecord): number {
  return data.length + types.length + recordBytes;
}

function isEvents({ firstRunSeq }: CommittedRecord): boolean {
  return firstRunSeq > 0;
}

/** Which part of the journal a tail is. */
interface Range {
  startSeq: number;
  endSeq: number;
  readonly deletionCount: number;
}

/** The tail of one namespace. */
export class Tail {
  /** Undefined until something is published. */
  #range: Range | undefined;
  /** Undefined until somebody waits for news: most namespaces have nobody. */
  #listeners: Listeners | undefined;
  #records = new RecordLists();
  /** Of them, those that are no events. */
  #others = new RecordLists();
  /** Of the records, without their places. */
  #recordBytes = 0;

  /** The newest seq that is known to be durable; undefined while the tail has not begun. */
  get endSeq(): number | undefined {
    return this.#range?.endSeq;
  }

  /** Whether somebody waits for news. */
  get isWatched(): boolean {
    return this.#listeners?.isEmpty === false;
  }

  /** Whether there is nothing in it. */
  get isEmpty(): boolean {
    return this.#records.isEmpty;
  }

  get #bytes(): number {
    if (this.isEmpty) return 0;
    return tailBytes + this.#recordBytes + this.#records.bytes + this.#others.bytes;
  }

  /**
   * Begins after a seq that is durable, with nothing in it. Wakes the
   * subscribers that are not so far yet: what lies before is not in the tail.
   *
   * @param deletionCount trees of the namespace that have been deleted
   */
  begin(seq: number, deletionCount: number): void {
    this.#range = { startSeq: seq, endSeq: seq, deletionCount };
    this.#listeners?.wakeAll();
  }

  /**
   * Whether these records go on where the tail ends, or it has not begun. Where
   * trees were deleted in between, the tail may hold deleted records.
   */
  isFollowedBy(records: readonly CommittedRecord[], deletionCount: number): boolean {
    const range = this.#range;
    if (range === undefined) return true;
    return records[0]?.firstSeq === range.endSeq + 1 && deletionCount === range.deletionCount;
  }

  /**
   * Adds a commit's records, which follow each other and the tail without a
   * gap, and wakes who may want them. Returns by how many bytes it has grown.
   */
  publish(records: readonly CommittedRecord[], deletionCount: number): number {
    const first = records[0];
    if (first === undefined) return 0;
    const before = this.#bytes;
    if (this.#range === undefined) this.begin(first.firstSeq - 1, deletionCount);
    const range = this.#range!;
    const woken = new Set<Wake>();
    for (const record of records) {
      this.#recordBytes += costOf(record);
      this.#records.push(record);
      if (!isEvents(record)) this.#others.push(record);
      this.#listeners?.collect(record, woken);
      range.endSeq = endOf(record);
    }
    for (const wake of woken) wake();
    return this.#bytes - before;
  }

  /**
   * Drops everything and wakes everybody: what the journal holds is not known
   * any more. Costs the same whatever the tail holds. Returns by how many bytes
   * it has shrunk.
   */
  forget(): number {
    const bytes = this.#bytes;
    this.#recordBytes = 0;
    this.#range = undefined;
    if (!this.isEmpty) {
      this.#records = new RecordLists();
      this.#others = new RecordLists();
    }
    this.#listeners?.wakeAll();
    return bytes;
  }

  /** Drops the oldest record; returns the bytes that it held. */
  evictOldest(): number {
    const before = this.#bytes;
    const oldest = this.#records.shift();
    if (oldest === undefined || this.#range === undefined) return 0;
    if (!isEvents(oldest)) this.#others.shift();
    this.#recordBytes -= costOf(oldest);
    this.#range.startSeq = endOf(oldest);
    return before - this.#bytes;
  }

  /**
   * Reads a page after a cursor.
   *
   * @returns undefined where the cursor is before the tail: read the journal
   */
  read(
    filter: Filter,
    afterSeq: number,
    bounds: { readonly maxRecords: number; readonly maxBytes: number },
  ): TailPage | undefined {
    const range = this.#range;
    if (range === undefined || afterSeq < range.startSeq) return undefined;
    const { types, kinds } = filter;
    const { deletionCount } = range;
    const records: CommittedRecord[] = [];
    let bytes = 0;
    for (const record of this.#after(filter, afterSeq)) {
      if (kinds?.wants(record) === false) continue;
      if (types?.shareOf(record.types) === "none") continue;
      bytes += record.data.length;
      if (records.length === bounds.maxRecords || (records.length > 0 && bytes > bounds.maxBytes)) {
        return { records, upToSeq: endOf(records.at(-1)!), deletionCount };
      }
      records.push(record);
    }
    return { records, upToSeq: Math.max(range.endSeq, afterSeq), deletionCount };
  }

  /**
   * Calls `wake` after each publication that may be wanted, until the returned
   * function is called. Each watch has a function of its own.
   */
  watch(watched: Watched, wake: Wake): () => void {
    this.#listeners ??= new Listeners();
    return this.#listeners.add(watched, wake);
  }

  /** The scope's records after a cursor in seq order, merged over its lists. */
  *#after(filter: Filter, afterSeq: number): Generator<CommittedRecord> {
    const { scope } = filter;
    const lists = isWithoutEvents(filter) ? this.#others : this.#records;
    const heads: { list: Records; index: number }[] = [];
    for (const list of lists.listsAfter(scope, afterSeq)) {
      if (list === undefined) continue;
      const index = list.firstIndex((record) => endOf(record) > afterSeq);
      if (index < list.length) heads.push({ list, index });
    }
    while (heads.length > 0) {
      let next = 0;
      for (let i = 1; i < heads.length; i++) {
        const { list, index } = heads[i]!;
        const best = heads[next]!;
        if (list.at(index)!.firstSeq < best.list.at(best.index)!.firstSeq) next = i;
      }
      const head = heads[next]!;
      const record = head.list.at(head.index)!;
      head.index++;
      if (head.index === head.list.length) heads.splice(next, 1);
      if (matchesRecord(scope, record)) yield record;
    }
  }
}
