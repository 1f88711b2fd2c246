import type { CommittedRecord } from "../journal/committed-record.ts";
import { Deque } from "./deque.ts";
import type { Filter } from "./filter.ts";
import type { Wake, Watched } from "./listeners.ts";
import { Tail, type TailPage } from "./tail.ts";

/** A namespace's tail, and what this node knows of it. */
interface Held {
  readonly namespace: string;
  readonly tail: Tail;
  /** Times that it was forgotten. */
  epoch: number;
  /** Publications that are in it. */
  publications: number;
  /** When it was last used, counted in calls of dropIdle. */
  period: number;
}

/** Records that were published at once; they are in the tail while it has not been forgotten since. */
interface Publication {
  readonly held: Held;
  readonly epoch: number;
  /** Records of it that have not been evicted. */
  left: number;
}

/** Called when a namespace gets its first follower, or loses its last. */
export interface TailListeners {
  /** Somebody begins to wait for news of a namespace for which nobody did. */
  readonly onWatched?: (namespace: string) => void;
  /** Nobody waits for news of a namespace any more. */
  readonly onUnwatched?: (namespace: string) => void;
}

/** Forgotten publications that stay in the queue at least: fewer are not worth a look. */
const minForgotten = 1_024;

/**
 * The tails of all namespaces, within one bound of memory: the oldest record goes first.
 *
 * Invariant: a namespace has a tail while it has records in it or somebody waits for its
 * news. Where nobody does and nothing is published, dropIdle drops it: a namespace that
 * was used once costs nothing.
 */
export class Tails {
  /** In the order of the periods in which they were last used. */
  readonly #tails = new Map<string, Held>();
  /** Namespaces of which somebody waits for news. */
  readonly #watched = new Set<string>();
  /** Calls of dropIdle. */
  #period = 0;
  /** Published records in order; some have been dropped since. */
  #order = new Deque<Publication>();
  /** Publications in `#order` that have been forgotten. */
  #forgotten = 0;
  readonly #listeners: TailListeners;
  #maxBytes: number;
  #bytes = 0;

  /** @param maxBytes for all namespaces together */
  constructor(maxBytes: number, listeners: TailListeners = {}) {
    this.#maxBytes = maxBytes;
    this.#listeners = listeners;
  }

  /** Bytes that the tails hold in memory, about. */
  get bytes(): number {
    return this.#bytes;
  }

  /** Namespaces that have a tail. */
  get count(): number {
    return this.#tails.size;
  }

  /** Sets a new bound for the tails; drops the excess at once. */
  setMaxBytes(maxBytes: number): void {
    this.#maxBytes = maxBytes;
    this.#evict();
  }

  /** Namespaces of which somebody waits for news. */
  watched(): Iterable<string> {
    return this.#watched;
  }

  /** Whether somebody waits for news of a namespace. */
  isWatched(namespace: string): boolean {
    return this.#watched.has(namespace);
  }

  /** The newest seq of a namespace that is known to be durable; undefined where its tail has not begun. */
  endSeqOf(namespace: string): number | undefined {
    return this.#tails.get(namespace)?.tail.endSeq;
  }

  /** See Tail.isFollowedBy. */
  isFollowedBy(
    namespace: string,
    records: readonly CommittedRecord[],
    deletionCount: number,
  ): boolean {
    return this.#tails.get(namespace)?.tail.isFollowedBy(records, deletionCount) ?? true;
  }

  /** See Tail.read; undefined too where there is no tail. */
  read(
    namespace: string,
    filter: Filter,
    afterSeq: number,
    bounds: { readonly maxRecords: number; readonly maxBytes: number },
  ): TailPage | undefined {
    return this.#tails.get(namespace)?.tail.read(filter, afterSeq, bounds);
  }

  /** See Tail.watch. */
  watch(namespace: string, watched: Watched, wake: Wake): () => void {
    const held = this.#of(namespace);
    const { tail } = held;
    const wasWatched = tail.isWatched;
    const unwatch = tail.watch(watched, wake);
    if (!wasWatched) {
      this.#watched.add(namespace);
      this.#listeners.onWatched?.(namespace);
    }
    return () => {
      if (!tail.isWatched) return;
      unwatch();
      if (tail.isWatched) return;
      this.#watched.delete(namespace);
      this.#listeners.onUnwatched?.(namespace);
      this.#use(held);
      this.#dropIfUnused(held);
    };
  }

  /**
   * Adds a commit's records.
   *
   * @param deletionCount trees of the namespace that had been deleted by then
   */
  publish(namespace: string, records: readonly CommittedRecord[], deletionCount: number): void {
    if (records.length === 0) return;
    const held = this.#of(namespace);
    if (!held.tail.isFollowedBy(records, deletionCount)) this.#forget(held);
    this.#use(held);
    this.#bytes += held.tail.publish(records, deletionCount);
    held.publications++;
    this.#order.push({ held, epoch: held.epoch, left: records.length });
    this.#evict();
  }

  /** Begins a namespace's tail anew after a seq that is durable, with nothing in it. */
  restart(namespace: string, seq: number, deletionCount: number): void {
    const held = this.#of(namespace);
    this.#forget(held);
    held.tail.begin(seq, deletionCount);
    this.#dropIfUnused(held);
  }

  /**
   * Drops a namespace's tail and wakes its subscribers: a commit may be
   * durable that was not published, so they have to look in the journal.
   */
  forget(namespace: string): void {
    const held = this.#tails.get(namespace);
    if (held === undefined) return;
    this.#forget(held);
    this.#dropIfUnused(held);
  }

  /** Drops all that is held, and wakes everybody: the database is not what it was. */
  forgetAll(): void {
    for (const namespace of [...this.#tails.keys()]) this.forget(namespace);
  }

  /**
   * Drops the tails of namespaces that nobody has used since the call before. Costs what it
   * drops, and a look at those that somebody waits for.
   */
  dropIdle(): void {
    for (const held of this.#tails.values()) {
      if (held.period === this.#period) break;
      if (held.tail.isWatched) {
        this.#use(held);
      } else {
        this.#forget(held);
        this.#tails.delete(held.namespace);
      }
    }
    this.#period++;
    if (this.#forgotten > 0) this.#compact();
  }

  #use(held: Held): void {
    if (held.period === this.#period) return;
    held.period = this.#period;
    this.#tails.delete(held.namespace);
    this.#tails.set(held.namespace, held);
  }

  #of(namespace: string): Held {
    let held = this.#tails.get(namespace);
    if (held === undefined) {
      held = { namespace, tail: new Tail(), epoch: 0, publications: 0, period: this.#period };
      this.#tails.set(namespace, held);
    }
    return held;
  }

  /** What is in the queue of it stays there for a while: looking for it each time would cost what the queue holds. */
  #forget(held: Held): void {
    this.#bytes -= held.tail.forget();
    held.epoch++;
    this.#forgotten += held.publications;
    held.publications = 0;
    if (this.#forgotten >= Math.max(minForgotten, this.#order.length / 2)) this.#compact();
  }

  /** Takes the forgotten publications out of the queue. */
  #compact(): void {
    const kept = new Deque<Publication>();
    for (let i = 0; i < this.#order.length; i++) {
      const one = this.#order.at(i)!;
      if (one.epoch === one.held.epoch) kept.push(one);
    }
    this.#order = kept;
    this.#forgotten = 0;
  }

  #evict(): void {
    while (this.#bytes > this.#maxBytes && this.#order.length > 0) {
      const oldest = this.#order.at(0)!;
      const { held } = oldest;
      if (oldest.epoch !== held.epoch) {
        this.#order.shift();
        this.#forgotten--;
        continue;
      }
      this.#bytes -= held.tail.evictOldest();
      oldest.left--;
      if (oldest.left > 0) continue;
      this.#order.shift();
      held.publications--;
      this.#dropIfUnused(held);
    }
  }

  #dropIfUnused(held: Held): void {
    const { namespace, tail } = held;
    if (!tail.isEmpty || tail.isWatched) return;
    if (this.#tails.get(namespace) === held) this.#tails.delete(namespace);
  }
}
