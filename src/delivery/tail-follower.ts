import type { CommittedRecord } from "../journal/committed-record.ts";
import type { Journal } from "../journal/journal.ts";
import { LineageCache } from "../journal/lineage-cache.ts";
import type { NamespaceRow } from "../journal/namespaces.ts";
import { readPage } from "../journal/pages/read-page.ts";
import type { Limits } from "../limits.ts";
import { isDataLoss } from "../refusal.ts";
import { Deque } from "./deque.ts";
import { costOf } from "./tail.ts";
import type { Tails } from "./tails.ts";

/** Bytes of memory of this node's records that wait for what comes before them; more are read again instead. */
const maxAheadBytes = 16 * 1024 * 1024;

/** What is known of a namespace that is followed. */
interface Following {
  readonly namespaceId: number;
  /** The newest seq that is known to be durable. */
  targetSeq: number;
  /** Trees that had been deleted by then: the tail may hold records of those deleted since. */
  deletionCount: number;
  /** Commits of this node that wait for what comes before them, in seq order. */
  ahead: Deque<readonly CommittedRecord[]>;
  aheadBytes: number;
  isReading: boolean;
}

/** What the follower works with. */
export interface TailFollowerOptions {
  readonly journal: Journal;
  readonly tails: Tails;
  readonly limits: Pick<Limits, "pageRecords" | "pageBytes">;
  /** Called when a read of the journal failed; the next look tries again. */
  readonly onFailure: (error: unknown) => void;
}

function bytesIn(records: readonly CommittedRecord[]): number {
  return records.reduce((sum, record) => sum + costOf(record), 0);
}

/**
 * Keeps the tails in the order of the journal where other nodes append as well:
 * what they committed is read from the journal, and what this node committed is
 * added when everything before it is there.
 *
 * Only namespaces of which somebody waits for news are followed. The tail of
 * another one has a gap as soon as a stranger appends, and begins anew.
 */
export class TailFollower {
  readonly #options: TailFollowerOptions;
  readonly #lineages = new LineageCache();
  readonly #following = new Map<string, Following>();
  readonly #underWay = new Set<Promise<void>>();
  #isStopped = false;

  constructor(options: TailFollowerOptions) {
    this.#options = options;
    options.journal.history.onBack(({ namespace }) => {
      this.unfollow(namespace);
      this.#lineages.clear();
    });
  }

  /** Told how a namespace is now: reads on where somebody waits for its news. */
  onRow(row: NamespaceRow): void {
    const { name, last_seq: lastSeq, deletion_count: deletionCount } = row;
    const { tails } = this.#options;
    if (!tails.isWatched(name)) {
      this.unfollow(name);
      return;
    }
    const known = this.#following.get(name);
    if (known === undefined) {
      this.#following.set(name, {
        namespaceId: row.namespace_id,
        targetSeq: lastSeq,
        deletionCount,
        ahead: new Deque(),
        aheadBytes: 0,
        isReading: false,
      });
      // What others appended while nobody waited is not worth being read.
      if ((tails.endSeqOf(name) ?? -1) < lastSeq) tails.restart(name, lastSeq, deletionCount);
      return;
    }
    this.#noteDeletions(name, known, deletionCount);
    known.targetSeq = Math.max(known.targetSeq, lastSeq);
    this.#readOn(name, known);
  }

  /** Namespaces that are followed, and lineages that are kept. */
  get counts(): { readonly following: number; readonly lineages: number } {
    return { following: this.#following.size, lineages: this.#lineages.count };
  }

  /** Drops the lineages that were not used since the call before. */
  dropIdle(): void {
    this.#lineages.dropIdle();
  }

  /** Stops following a namespace that nobody waits for any more. */
  unfollow(namespace: string): void {
    this.#following.delete(namespace);
  }

  /** Told of a commit of this node, in the order of its commits. */
  onCommitted(namespace: string, records: readonly CommittedRecord[], deletionCount: number): void {
    const { tails } = this.#options;
    const known = this.#following.get(namespace);
    if (known === undefined) {
      tails.publish(namespace, records, deletionCount);
      return;
    }
    this.#noteDeletions(namespace, known, deletionCount);
    const endSeq = tails.endSeqOf(namespace) ?? 0;
    // It may have been read from the journal by now.
    const news = records.filter(({ firstSeq }) => firstSeq > endSeq);
    const last = records.at(-1);
    if (last === undefined || news.length === 0) return;
    known.targetSeq = Math.max(known.targetSeq, last.firstSeq + last.count - 1);
    if (known.ahead.length === 0 && tails.isFollowedBy(namespace, news, known.deletionCount)) {
      tails.publish(namespace, news, known.deletionCount);
      return;
    }
    known.ahead.push(news);
    known.aheadBytes += bytesIn(news);
    if (known.aheadBytes > maxAheadBytes) clear(known);
    this.#readOn(namespace, known);
  }

  /** Resolves when nothing is read any more. */
  async stop(): Promise<void> {
    this.#isStopped = true;
    await Promise.all(this.#underWay);
  }

  #noteDeletions(namespace: string, known: Following, deletionCount: number): void {
    // Answers of the database may overtake each other; the count only grows.
    if (deletionCount <= known.deletionCount) return;
    known.deletionCount = deletionCount;
    this.#options.tails.forget(namespace);
  }

  #readOn(namespace: string, known: Following): void {
    if (known.isReading) return;
    known.isReading = true;
    const reading = this.#read(namespace, known)
      .catch((error: unknown) => {
        // The next look goes on from where the tail ends.
        if (!this.#isStopped) this.#options.onFailure(error);
      })
      .finally(() => {
        this.#underWay.delete(reading);
      });
    this.#underWay.add(reading);
  }

  async #read(namespace: string, known: Following): Promise<void> {
    try {
      await this.#readUp(namespace, known);
    } finally {
      // At once: a notification from now on begins another read.
      known.isReading = false;
    }
  }

  async #readUp(namespace: string, known: Following): Promise<void> {
    const { tails } = this.#options;
    while (!this.#isStopped && this.#following.get(namespace) === known) {
      const endSeq = tails.endSeqOf(namespace);
      if (endSeq === undefined) {
        // Forgotten: everybody was woken and reads the journal for what lies before.
        clear(known);
        tails.restart(namespace, known.targetSeq, known.deletionCount);
        return;
      }
      const next = this.#nextAhead(known, endSeq);
      if (next?.[0]?.firstSeq === endSeq + 1) {
        shift(known);
        tails.publish(namespace, next, known.deletionCount);
        continue;
      }
      const upToSeq = next === undefined ? known.targetSeq : next[0]!.firstSeq - 1;
      if (endSeq >= upToSeq) return;
      const records = await this.#readRecords(known.namespaceId, endSeq, upToSeq);
      // A deletion has begun the tail anew meanwhile.
      if (tails.endSeqOf(namespace) !== endSeq) continue;
      if (records === undefined) tails.forget(namespace);
      else tails.publish(namespace, records, known.deletionCount);
    }
  }

  /** The next commit of this node that is not in the tail. */
  #nextAhead(known: Following, endSeq: number): readonly CommittedRecord[] | undefined {
    for (;;) {
      const next = known.ahead.at(0);
      if (next === undefined || next[0]!.firstSeq > endSeq) return next;
      shift(known);
    }
  }

  /** The records that follow a seq, a page of them; undefined where some have been deleted, or are damaged. */
  async #readRecords(
    namespaceId: number,
    afterSeq: number,
    upToSeq: number,
  ): Promise<CommittedRecord[] | undefined> {
    const { journal, limits } = this.#options;
    const { db } = journal;
    const page = await readPage(
      db,
      namespaceId,
      { kind: "all", exceptRoots: [] },
      {
        direction: "forward",
        afterSeq,
        upToSeq,
        maxRecords: limits.pageRecords,
        maxBytes: limits.pageBytes,
      },
    ).catch((error: unknown) => {
      // Subscribers come upon it in the journal, and are refused.
      if (isDataLoss(error)) return undefined;
      throw error;
    });
    if (page === undefined) return undefined;
    const records: CommittedRecord[] = [];
    let endSeq = afterSeq;
    for (const row of page.records) {
      const { last_seq, event_count: count, first_run_seq: firstRunSeq, types, data } = row;
      const firstSeq = last_seq - count + 1;
      const lineage = await this.#lineages.get(db, namespaceId, row.run_key);
      if (firstSeq !== endSeq + 1 || lineage.length === 0) return undefined;
      endSeq = last_seq;
      records.push({ firstSeq, count, lineage, firstRunSeq, types, data });
    }
    return records.length === 0 ? undefined : records;
  }
}

function shift(known: Following): void {
  known.aheadBytes -= bytesIn(known.ahead.shift() ?? []);
}

function clear(known: Following): void {
  known.ahead = new Deque();
  known.aheadBytes = 0;
}
