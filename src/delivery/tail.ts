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
import { Channel, type Channels, channelOf, type Wake } from "./channel.ts";
import { Deque } from "./deque.ts";
import { type Filter, matchesRecord, type Scope } from "./filter.ts";

/** A page out of the tail. */
export interface TailPage {
  readonly records: readonly CommittedRecord[];
  /** Every wanted record up to this seq is in the page or before it. */
  readonly upToSeq: number;
  /** Trees of the namespace that had been deleted when the tail began, and since. */
  readonly deletionCount: number;
}

function endOf(record: CommittedRecord): number {
  return record.firstSeq + record.count - 1;
}

/** Bytes that a record holds in memory, about: its data and its places in the lists. */
function costOf(record: CommittedRecord): number {
  return record.data.length + record.types.length + 100 + 16 * record.lineage.length;
}

/** The tail of one namespace. */
export class Tail {
  /** Undefined until something is published. */
  #range: { startSeq: number; endSeq: number; readonly deletionCount: number } | undefined;
  readonly #everything = new Channel();
  /** What a run itself has. */
  readonly #runs: Channels = new Map();
  /** What a run and all below it have. */
  readonly #families: Channels = new Map();
  readonly #watchers = new Set<Wake>();
  readonly #onWatched: () => void;
  #bytes = 0;

  /** @param onWatched told when somebody begins to wait for news where nobody did */
  constructor(onWatched: () => void = () => undefined) {
    this.#onWatched = onWatched;
  }

  /** The newest seq that is known to be durable; undefined while the tail has not begun. */
  get endSeq(): number | undefined {
    return this.#range?.endSeq;
  }

  /** Whether somebody waits for news. */
  get isWatched(): boolean {
    return this.#watchers.size > 0;
  }

  /**
   * Begins after a seq that is durable, with nothing in it. Whoever is not so far
   * yet is woken: what lies before is not in the tail.
   *
   * @param deletionCount trees of the namespace that have been deleted
   */
  begin(seq: number, deletionCount: number): void {
    this.#range = { startSeq: seq, endSeq: seq, deletionCount };
    this.#wakeAll();
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
      for (const channel of this.#channelsOf(record)) {
        channel.records.push(record);
        for (const wake of channel.wakes) woken.add(wake);
      }
      range.endSeq = endOf(record);
    }
    for (const wake of woken) wake();
    return this.#bytes - before;
  }

  /**
   * Drops everything and wakes everybody: what the journal holds is not known
   * any more. Returns by how many bytes the tail has shrunk.
   */
  forget(): number {
    const bytes = this.#bytes;
    for (const channel of this.#channels()) {
      channel.records.clear();
      channel.leaveIfEmpty();
    }
    this.#bytes = 0;
    this.#range = undefined;
    this.#wakeAll();
    return bytes;
  }

  #wakeAll(): void {
    for (const wake of this.#watchers) wake();
  }

  /** Drops the oldest record; returns the bytes that it held. */
  evictOldest(): number {
    const oldest = this.#everything.records.at(0);
    if (oldest === undefined || this.#range === undefined) return 0;
    for (const channel of this.#channelsOf(oldest)) {
      channel.records.shift();
      channel.leaveIfEmpty();
    }
    this.#range.startSeq = endOf(oldest);
    const cost = costOf(oldest);
    this.#bytes -= cost;
    return cost;
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
    const channels = this.#channelsFor(scope);
    const wasWatched = this.isWatched;
    for (const channel of channels) channel.watch(wake);
    this.#watchers.add(wake);
    if (!wasWatched) this.#onWatched();
    return () => {
      this.#watchers.delete(wake);
      for (const channel of channels) {
        channel.unwatch(wake);
        channel.leaveIfEmpty();
      }
    };
  }

  /** Those in which a record stands. */
  #channelsOf({ lineage }: CommittedRecord): Channel[] {
    const channels = [this.#everything, channelOf(this.#runs, lineage[0]!)];
    for (const runId of lineage) channels.push(channelOf(this.#families, runId));
    return channels;
  }

  /** Those in which news for a scope stand. */
  #channelsFor(scope: Scope): Channel[] {
    switch (scope.kind) {
      case "all":
        return [this.#everything];
      case "ancestor":
        return [channelOf(this.#families, scope.ancestorId)];
      case "runs":
        return scope.runIds.map((runId) => channelOf(this.#runs, runId));
    }
  }

  /** Those in which a scope's records after a cursor stand, as far as there are any. */
  #channelsAfter(scope: Scope, afterSeq: number): (Channel | undefined)[] {
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

  *#channels(): Generator<Channel> {
    yield this.#everything;
    yield* this.#runs.values();
    yield* this.#families.values();
  }

  /** The wanted records after a cursor in seq order, merged over the scope's lists. */
  *#after(scope: Scope, afterSeq: number): Generator<CommittedRecord> {
    const heads: { list: Deque<CommittedRecord>; index: number }[] = [];
    for (const channel of this.#channelsAfter(scope, afterSeq)) {
      if (channel === undefined) continue;
      const list = channel.records;
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

/** The tails of all namespaces, within one bound of memory: the oldest record goes first. */
export class Tails {
  readonly #tails = new Map<string, Tail>();
  /** The namespace of each record that is held, in the order of publication. */
  #order = new Deque<Tail>();
  readonly #maxBytes: number;
  readonly #onWatched: (namespace: string) => void;
  #bytes = 0;

  /**
   * @param maxBytes for all namespaces together
   * @param onWatched told when somebody begins to wait for news of a namespace
   */
  constructor(maxBytes: number, onWatched: (namespace: string) => void = () => undefined) {
    this.#maxBytes = maxBytes;
    this.#onWatched = onWatched;
  }

  /** Namespaces of which somebody waits for news. */
  *watched(): Generator<string> {
    for (const [namespace, tail] of this.#tails) if (tail.isWatched) yield namespace;
  }

  /** The tail of a namespace, which may have nothing in it yet. */
  of(namespace: string): Tail {
    let tail = this.#tails.get(namespace);
    if (tail === undefined) {
      tail = new Tail(() => this.#onWatched(namespace));
      this.#tails.set(namespace, tail);
    }
    return tail;
  }

  /**
   * Adds a commit's records.
   *
   * @param deletionCount trees of the namespace that had been deleted by then
   */
  publish(namespace: string, records: readonly CommittedRecord[], deletionCount: number): void {
    const tail = this.of(namespace);
    if (!tail.isFollowedBy(records, deletionCount)) this.forget(namespace);
    this.#bytes += tail.publish(records, deletionCount);
    for (let i = 0; i < records.length; i++) this.#order.push(tail);
    while (this.#bytes > this.#maxBytes && this.#order.length > 0) {
      this.#bytes -= this.#order.shift()!.evictOldest();
    }
  }

  /** Begins a namespace's tail anew after a seq that is durable, with nothing in it. */
  restart(namespace: string, seq: number, deletionCount: number): void {
    this.forget(namespace);
    this.of(namespace).begin(seq, deletionCount);
  }

  /**
   * Drops what is held of a namespace and wakes its subscribers: a commit may be
   * durable that was not published, so they have to look in the journal.
   */
  forget(namespace: string): void {
    const tail = this.of(namespace);
    this.#bytes -= tail.forget();
    const others = new Deque<Tail>();
    for (let i = 0; i < this.#order.length; i++) {
      const one = this.#order.at(i)!;
      if (one !== tail) others.push(one);
    }
    this.#order = others;
  }
}
