/**
 * Where a subscriber's next page comes from: the tail or the journal, chosen
 * by its cursor alone.
 */

import { RunState } from "../../gen/runlog/v1/run_pb.js";
import type { Journal } from "../journal/journal.ts";
import { findNamespace } from "../journal/namespaces.ts";
import {
  type Direction,
  findRecordEnd,
  type RecordScope,
  readPage,
  type SeqRange,
} from "../journal/record-pages.ts";
import { familyIsRunning, findRuns } from "../journal/runs.ts";
import type { Limits } from "../limits.ts";
import type { Filter, Scope } from "./filter.ts";
import type { Tails } from "./tail.ts";

/** A record's place and bytes. */
export interface PageRecord {
  readonly firstSeq: number;
  readonly count: number;
  /** The distinct event types in it, one a line; empty for a fact. */
  readonly types: string;
  /** The wire encoding of an EventBatch. */
  readonly data: Uint8Array;
}

/** A page; every wanted record up to `upToSeq` is in it or before it. */
export interface Page {
  readonly records: readonly PageRecord[];
  readonly upToSeq: number;
  /** Whether everything durable has been looked at. */
  readonly atEnd: boolean;
}

/** A page out of the journal alone. */
export interface StoredPage {
  /** In the order asked for. */
  readonly records: readonly PageRecord[];
  /** How far the page looked, inclusive; the range's other end where nothing is left in it. */
  readonly reachSeq: number;
}

/** How much one page holds. A record is returned at least, where there is one. */
export interface PageSize {
  readonly maxRecords: number;
  readonly maxBytes: number;
}

/** What was durable of a filter's records at one moment; what is recorded later is not in it. */
export interface Snapshot {
  /** The newest durable seq of the namespace. */
  readonly endSeq: number;
  /** Where the record ends that holds a seq up to endSeq. */
  endOfRecord(seq: number): Promise<number>;
  /** Reads a page. Of a record some events may be unwanted; one without a wanted event is left out. */
  read(direction: Direction, range: SeqRange, size: PageSize): Promise<StoredPage>;
}

/** Reads pages of one namespace. */
export class PageSource {
  readonly #journal: Journal;
  readonly #tails: Tails;
  readonly #namespace: string;
  readonly #limits: Limits;

  constructor(journal: Journal, tails: Tails, namespace: string, limits: Limits) {
    this.#journal = journal;
    this.#tails = tails;
    this.#namespace = namespace;
    this.#limits = limits;
  }

  /**
   * The next page of what a filter wants after a cursor. Of a record some events
   * may be unwanted; one that holds no wanted event is left out.
   *
   * @param knownEndSeq a seq that is known to be durable. The tail may end before
   *   it: a commit is durable a moment before it is published, and one whose
   *   outcome is unknown is not published at all. Then the journal is read.
   */
  async next(filter: Filter, afterSeq: number, knownEndSeq: number): Promise<Page> {
    const { pageRecords: maxRecords, pageBytes: maxBytes } = this.#limits;
    const cached = this.#tails.of(this.#namespace).read(filter, afterSeq, { maxRecords, maxBytes });
    if (cached !== undefined && (cached.records.length > 0 || cached.upToSeq >= knownEndSeq)) {
      return { ...cached, atEnd: cached.records.length === 0 };
    }
    const snapshot = await this.snapshot(filter);
    const { endSeq } = snapshot;
    if (endSeq <= afterSeq) return { records: [], upToSeq: afterSeq, atEnd: true };
    const range = { afterSeq, upToSeq: endSeq };
    const { records, reachSeq } = await snapshot.read("forward", range, { maxRecords, maxBytes });
    return { records, upToSeq: reachSeq, atEnd: reachSeq === endSeq && records.length === 0 };
  }

  /** Opens what is durable now for reading out of the journal. */
  async snapshot({ scope, types }: Filter): Promise<Snapshot> {
    const { db } = this.#journal;
    // The end is read first: whatever is durable up to it is visible to the
    // queries that follow, runs that started up to it included.
    const namespace = await findNamespace(db, this.#namespace);
    if (namespace === undefined) return emptySnapshot(0);
    const { namespace_id: namespaceId, last_seq: endSeq } = namespace;
    const stored = await this.#resolve(namespaceId, scope);
    if (stored === undefined) return emptySnapshot(endSeq);
    const wants =
      types === undefined ? {} : { wants: (named: string) => types.shareOf(named) !== "none" };
    return {
      endSeq,
      endOfRecord: async (seq) => (await findRecordEnd(db, namespaceId, seq)) ?? seq,
      async read(direction, range, size) {
        const bounds = { direction, ...range, ...size, ...wants };
        const { records, reachSeq } = await readPage(db, namespaceId, stored, bounds);
        return {
          records: records.map(({ last_seq, event_count, types: named, data }) => ({
            firstSeq: last_seq - event_count + 1,
            count: event_count,
            types: named,
            data,
          })),
          reachSeq,
        };
      },
    };
  }

  /** The scope's runs by their keys; undefined while none of them exists. */
  async #resolve(namespaceId: number, scope: Scope): Promise<RecordScope | undefined> {
    if (scope.kind === "all") return scope;
    const { db } = this.#journal;
    if (scope.kind === "runs") {
      const runs = await findRuns(db, namespaceId, scope.runIds);
      return runs.length === 0
        ? undefined
        : { kind: "runs", runKeys: runs.map((run) => run.run_key) };
    }
    const [ancestor] = await findRuns(db, namespaceId, [scope.ancestorId]);
    if (ancestor === undefined) return undefined;
    const { includeSelf, maxDepth } = scope;
    if (ancestor.depth === 0 && includeSelf && maxDepth === Number.POSITIVE_INFINITY) {
      return { kind: "tree", rootKey: ancestor.run_key };
    }
    return {
      kind: "descendants",
      rootKey: ancestor.root_key,
      ancestorKey: ancestor.run_key,
      minDepth: includeSelf ? 0 : 1,
      // Every run is within this; Infinity is no number to a database.
      maxDepth: Math.min(maxDepth, Number.MAX_SAFE_INTEGER),
    };
  }

  /** The first of the scope's runs that does not exist, if any. */
  async missing(scope: Scope): Promise<string | undefined> {
    if (scope.kind === "all") return undefined;
    const wanted = scope.kind === "runs" ? scope.runIds : [scope.ancestorId];
    const namespace = await findNamespace(this.#journal.db, this.#namespace);
    if (namespace === undefined) return wanted[0];
    const runs = await findRuns(this.#journal.db, namespace.namespace_id, wanted);
    const found = new Set(runs.map((run) => run.run_id));
    return wanted.find((runId) => !found.has(runId));
  }

  /** The newest durable seq. */
  async endSeq(): Promise<number> {
    return (await findNamespace(this.#journal.db, this.#namespace))?.last_seq ?? 0;
  }

  /**
   * Whether all of the scope's runs exist and have ended: the ancestor with all
   * its descendants whatever the depth, or all of the run ids.
   *
   * @returns a seq up to which everything that they recorded lies, or undefined
   *   while one of them goes on
   */
  async finishedAt(scope: Scope): Promise<number | undefined> {
    if (scope.kind === "all") return undefined;
    const { db } = this.#journal;
    const namespace = await findNamespace(db, this.#namespace);
    if (namespace === undefined) return undefined;
    const { namespace_id: namespaceId } = namespace;
    const wanted = scope.kind === "runs" ? scope.runIds : [scope.ancestorId];
    const runs = await findRuns(db, namespaceId, wanted);
    if (runs.length < wanted.length) return undefined;
    if (runs.some((run) => run.state === RunState.RUNNING)) return undefined;
    if (scope.kind === "ancestor" && (await familyIsRunning(db, namespaceId, runs[0]!.run_key))) {
      return undefined;
    }
    // Read last, so that it is not before what ended the last run.
    return this.endSeq();
  }
}

/** Holds no wanted record, however many others there are. */
function emptySnapshot(endSeq: number): Snapshot {
  return {
    endSeq,
    endOfRecord: (seq) => Promise.resolve(seq),
    read: (direction, { afterSeq, upToSeq }) =>
      Promise.resolve({ records: [], reachSeq: direction === "forward" ? upToSeq : afterSeq + 1 }),
  };
}
