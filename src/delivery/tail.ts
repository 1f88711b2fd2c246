/**
 * The newest part of a namespace's journal, in memory: a cache that a
 * subscriber's cursor reads as it reads the journal, never a second source.
 *
 * Invariant: the tail holds every record that ends after startSeq and at or
 * before endSeq, and everything up to endSeq is durable.
 *
 * A record stands in the list of each run in its lineage, so that publishing
 * it, waking those who want it, and reading a family's part cost the depth of
 * its run, not the number of subscriptions nor of strangers' records.
 */
import type { CommittedRecord } from "../journal/committed-record.ts";
import { Deque } from "./deque.ts";
import { type Filter, matchesRecord, type Scope } from "./filter.ts";
import { Listeners, type Wake } from "./listeners.ts";

/** A page out of the tail. */
export interface TailPage {
  readonly records: readonly CommittedRecord[];
  /** Every wanted record up to this seq is in the page or before it. */
  readonly upToSeq: number;
  /** Trees of the namespace that had been deleted when the tail began, and since. */
  readonly deletionCount: number;
}

type Records = Deque<CommittedRecord>;

/** By the id of a run; one has an entry while it has records. */
type ByRun = Map<string, Records>;

// Bytes of memory, as test/delivery/tail-bytes.test.ts measures them.
/** A record, besides its data. */
const recordBytes = 330;
/** One of a record's places in a list. */
const placeBytes = 12;
/** A list of a run's records. */
const listBytes = 140;
/** A run id in the lineage of a run that has records. */
const lineageBytes = 90;

function endOf(record: CommittedRecord): number {
  return record.firstSeq + record.count - 1;
}

/** Bytes that a record holds in memory, about, without the lists of which it is the first. */
function costOf(record: CommittedRecord): number {
  const { data, types, lineage } = record;
  return data.length + types.length + recordBytes + placeBytes * (2 + lineage.length);
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
  readonly #listeners = new Listeners();
  #everything: Records = new Deque();
  /** What a run itself has. */
  #runs: ByRun = new Map();
  /** What a run and all below it have. */
  #families: ByRun = new Map();
  #bytes = 0;

  /** The newest seq that is known to be durable; undefined while the tail has not begun. */
  get endSeq(): number | undefined {
    return this.#range?.endSeq;
  }

  /** Whether somebody waits for news. */
  get isWatched(): boolean {
    return !this.#listeners.isEmpty;
  }

  /** Whether there is nothing in it. */
  get isEmpty(): boolean {
    return this.#everything.length === 0;
  }

  /**
   * Begins after a seq that is durable, with nothing in it. Whoever is not so far
   * yet is woken: what lies before is not in the tail.
   *
   * @param deletionCount trees of the namespace that have been deleted
   */
  begin(seq: number, deletionCount: number): void {
    this.#range = { startSeq: seq, endSeq: seq, deletionCount };
    this.#listeners.wakeAll();
  }

  /**
   * Whether these records go on where the tail ends, or it has not begun. Where
   * trees were deleted in between, the tail may hold what is not there any more.
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
      this.#bytes += costOf(record);
      this.#everything.push(record);
      const { lineage } = record;
      if (this.#pushTo(this.#runs, lineage[0]!, record)) {
        this.#bytes += lineageBytes * lineage.length;
      }
      for (const runId of lineage) this.#pushTo(this.#families, runId, record);
      this.#listeners.collect(record, woken);
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
    this.#bytes = 0;
    this.#range = undefined;
    if (!this.isEmpty) {
      this.#everything = new Deque();
      this.#runs = new Map();
      this.#families = new Map();
    }
    this.#listeners.wakeAll();
    return bytes;
  }

  /** Drops the oldest record; returns the bytes that it held. */
  evictOldest(): number {
    const oldest = this.#everything.shift();
    if (oldest === undefined || this.#range === undefined) return 0;
    const before = this.#bytes;
    this.#bytes -= costOf(oldest);
    const { lineage } = oldest;
    if (this.#shiftFrom(this.#runs, lineage[0]!)) this.#bytes -= lineageBytes * lineage.length;
    for (const runId of lineage) this.#shiftFrom(this.#families, runId);
    this.#range.startSeq = endOf(oldest);
    return before - this.#bytes;
  }

  /** Whether the run has got a list by it. */
  #pushTo(byRun: ByRun, runId: string, record: CommittedRecord): boolean {
    const known = byRun.get(runId);
    const list = known ?? new Deque<CommittedRecord>();
    list.push(record);
    if (known !== undefined) return false;
    byRun.set(runId, list);
    this.#bytes += listBytes;
    return true;
  }

  /** Whether the run has lost its list by it. */
  #shiftFrom(byRun: ByRun, runId: string): boolean {
    const list = byRun.get(runId);
    list?.shift();
    if (list?.length !== 0) return false;
    byRun.delete(runId);
    this.#bytes -= listBytes;
    return true;
  }

  /**
   * Reads a page after a cursor.
   *
   * @returns undefined where the cursor is before the tail: read the journal
   */
  read(
    { scope, types }: Filter,
    afterSeq: number,
    bounds: { readonly maxRecords: number; readonly maxBytes: number },
  ): TailPage | undefined {
    const range = this.#range;
    if (range === undefined || afterSeq < range.startSeq) return undefined;
    const { deletionCount } = range;
    const records: CommittedRecord[] = [];
    let bytes = 0;
    for (const record of this.#after(scope, afterSeq)) {
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
   * Calls `wake` after each publication that the scope may want, until the returned
   * function is called. Each watch has a function of its own.
   */
  watch(scope: Scope, wake: Wake): () => void {
    return this.#listeners.add(scope, wake);
  }

  /** The lists in which a scope's records after a cursor stand, where there are any. */
  #listsAfter(scope: Scope, afterSeq: number): (Records | undefined)[] {
    switch (scope.kind) {
      case "all":
        return [this.#everything];
      case "ancestor":
        return [this.#families.get(scope.ancestorId)];
      case "runs": {
        const inherited = scope.inherited?.filter(({ recordEndSeq }) => recordEndSeq > afterSeq);
        const runIds = [...scope.runIds, ...(inherited ?? []).map(({ runId }) => runId)];
        return [...new Set(runIds)].map((runId) => this.#runs.get(runId));
      }
    }
  }

  /** The wanted records after a cursor in seq order, merged over the scope's lists. */
  *#after(scope: Scope, afterSeq: number): Generator<CommittedRecord> {
    const heads: { list: Records; index: number }[] = [];
    for (const list of this.#listsAfter(scope, afterSeq)) {
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
