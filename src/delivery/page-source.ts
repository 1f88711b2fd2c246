/**
 * Where a subscriber's next page comes from: the tail or the journal, chosen
 * by its cursor alone.
 */

import type { Journal } from "../journal/journal.ts";
import { findNamespace, type NamespaceRow } from "../journal/namespaces.ts";
import type {
  Direction,
  PageBounds,
  RecordRow,
  RecordScope,
  SeqRange,
} from "../journal/pages/keys.ts";
import { findRecordEnd, readPage } from "../journal/pages/read-page.ts";
import { isOpenState } from "../journal/run-conditions.ts";
import { familyIsOpen, findRuns, type RunRow } from "../journal/runs.ts";
import type { Db } from "../journal/schema.ts";
import { findCovered } from "../journal/subtrees.ts";
import { findMarkedRoots } from "../journal/trees.ts";
import { type Limits, maxDepth as maxTreeDepth } from "../limits.ts";
import { RefusedError } from "../refusal.ts";
import { takeItems } from "../wire/event-batch.ts";
import { type Filter, isWithoutEvents, type Scope } from "./filter.ts";
import { beforeHole } from "./holes.ts";
import { findInherited } from "./inherited.ts";
import type { DeliveryOptions } from "./subscription-spec.ts";
import type { Tails } from "./tails.ts";

/** A record's place and bytes. */
export interface PageRecord {
  readonly firstSeq: number;
  readonly count: number;
  /** The distinct event types in it, one a line; empty for a fact. */
  readonly types: string;
  /** The wire encoding of an EventBatch. */
  readonly data: Uint8Array;
  /** Run ids from its run to its root; told by the tail alone. */
  readonly lineage?: readonly string[];
}

/** A page; every wanted record up to `upToSeq` is in it or before it. */
export interface Page {
  readonly records: readonly PageRecord[];
  readonly upToSeq: number;
  /** Whether everything durable has been looked at. */
  readonly atEnd: boolean;
  /**
   * Set where the page came from the journal: the trees that had been deleted
   * before it was read. One that was deleted meanwhile may have left holes.
   */
  readonly deletionCount?: number;
  /** Set where it came from the tail: the trees that were known to be deleted. */
  readonly tailDeletionCount?: number;
  /** Set with deletionCount: the runs that the scope names and that exist. */
  readonly runs?: readonly RunRow[];
}

/** What there is of a scope. */
export interface ScopeStanding {
  /** Undefined while nothing was written to the namespace. */
  readonly namespace: NamespaceRow | undefined;
  /** The runs that the scope names and that exist. */
  readonly runs: readonly RunRow[];
  /** The first of them that does not exist. */
  readonly missing: string | undefined;
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
  /** Whether the data of records are left out. */
  readonly withoutData?: boolean;
}

/** A filter's records that were durable at one moment, without later ones. */
export interface Snapshot {
  /** The newest durable seq of the namespace. */
  readonly endSeq: number;
  /** Trees of it that had been deleted by then. */
  readonly deletionCount: number;
  /** The runs that the scope names and that exist. */
  readonly runs: readonly RunRow[];
  /** Where the record ends that holds a seq up to endSeq. */
  endOfRecord(seq: number): Promise<number>;
  /** Reads a page. Of a record some events may be unwanted; one without a wanted event is left out. */
  read(direction: Direction, range: SeqRange, size: PageSize): Promise<StoredPage>;
}

/** Reads pages of one namespace. */
export class PageSource {
  readonly #journal: Journal;
  readonly #tails: Tails;
  readonly #memory: DeliveryOptions["memory"];
  readonly #namespace: string;
  readonly #limits: Limits;

  constructor({ journal, tails, memory, limits }: DeliveryOptions, namespace: string) {
    this.#journal = journal;
    this.#tails = tails;
    this.#memory = memory;
    this.#namespace = namespace;
    this.#limits = limits;
  }

  /**
   * The next page of what a filter wants after a cursor. Of a record some events
   * may be unwanted; one that holds no wanted event is left out.
   *
   * @param knownEndSeq a seq that is known to be durable. The tail may end before
   *   it: a commit is durable a moment before it is published, and one whose
   *   outcome is unknown is not published at all. Then the journal is read, once
   *   there is memory for a page; what the tail has waits for nobody.
   */
  async next(
    filter: Filter,
    afterSeq: number,
    knownEndSeq: number,
    maxRecords = this.#limits.pageRecords,
  ): Promise<Page> {
    const { pageBytes: maxBytes } = this.#limits;
    const bounds = { maxRecords, maxBytes };
    const cached = this.#tails.read(this.#namespace, filter, afterSeq, bounds);
    if (cached !== undefined && (cached.records.length > 0 || cached.upToSeq >= knownEndSeq)) {
      const records = cached.records.map((record) => cutInherited(filter.scope, record));
      const { upToSeq, deletionCount: tailDeletionCount } = cached;
      return { records, upToSeq, atEnd: records.length === 0, tailDeletionCount };
    }
    const { pages, frames } = this.#memory;
    while (frames.isOver || pages.isOver) await (frames.isOver ? frames : pages).untilRoom();
    pages.take(maxBytes);
    try {
      return await this.#nextStored(filter, afterSeq, { maxRecords, maxBytes });
    } finally {
      pages.give(maxBytes);
    }
  }

  async #nextStored(filter: Filter, afterSeq: number, size: PageSize): Promise<Page> {
    const snapshot = await this.snapshot(filter);
    const { endSeq, deletionCount, runs } = snapshot;
    if (endSeq < afterSeq) throw new RefusedError({ reason: "cursor_ahead", latestSeq: endSeq });
    if (endSeq === afterSeq) {
      return { records: [], upToSeq: afterSeq, atEnd: true, deletionCount, runs };
    }
    const range = { afterSeq, upToSeq: endSeq };
    const { records, reachSeq } = await snapshot.read("forward", range, size);
    const atEnd = reachSeq === endSeq && records.length === 0;
    return { records, upToSeq: reachSeq, atEnd, deletionCount, runs };
  }

  /** Looks up the runs that a scope names. */
  async standingOf(scope: Scope): Promise<ScopeStanding> {
    const namespace = await this.namespaceNow();
    const wanted = namedIn(scope);
    const runs =
      namespace === undefined || wanted.length === 0
        ? []
        : await findVisible(this.#journal.db, namespace.namespace_id, scope, wanted);
    const found = new Set(runs.map((run) => run.run_id));
    return { namespace, runs, missing: wanted.find((runId) => !found.has(runId)) };
  }

  /**
   * A filter with what its forks inherit, where it asks for that.
   *
   * @throws RefusedError quota where they inherit from too many runs
   */
  async withInherited(filter: Filter, { namespace, runs }: ScopeStanding): Promise<Filter> {
    const { scope } = filter;
    if (scope.kind !== "runs" || scope.inherited === undefined) return filter;
    if (namespace === undefined) return filter;
    const own = new Set(runs.map((run) => run.run_key));
    const all = await findInherited(this.#journal.scans, namespace.namespace_id, runs);
    // A run that the filter names as a whole is not inherited as well.
    const inherited = all.filter(({ runKey }) => !own.has(runKey));
    return { ...filter, scope: { ...scope, inherited } };
  }

  /** Opens a snapshot of what is durable now. */
  async snapshot(filter: Filter): Promise<Snapshot> {
    const { scope } = filter;
    const { db } = this.#journal;
    // The end is read first: whatever is durable up to it is visible to the
    // queries that follow, runs that started up to it included.
    const namespace = await this.namespaceNow();
    if (namespace === undefined) return emptySnapshot(0, 0);
    const {
      namespace_id: namespaceId,
      last_seq: endSeq,
      deletion_count: deletionCount,
    } = namespace;
    const named = namedIn(scope);
    const runs = named.length === 0 ? [] : await findVisible(db, namespaceId, scope, named);
    const stored = await this.#resolve(namespace, scope, runs);
    if (stored === undefined) return emptySnapshot(endSeq, deletionCount);
    const choice = choiceOf(filter);
    return {
      endSeq,
      deletionCount,
      runs,
      endOfRecord: async (seq) => (await findRecordEnd(db, namespaceId, seq)) ?? seq,
      read: async (direction, range, size) => {
        const bounds = { direction, ...range, ...size, ...choice };
        const { records, reachSeq } = await readPage(db, namespaceId, stored, bounds);
        const toRecord = ({ last_seq, event_count: count, types: named, data }: RecordRow) => {
          const record = { firstSeq: last_seq - count + 1, count, types: named, data };
          return cutInherited(scope, record);
        };
        const page = { records: records.map(toRecord), reachSeq };
        const isWhole = isEverything(choice) && !size.withoutData;
        const isDense = scope.kind === "all" && isWhole && deletionCount === 0;
        return isDense ? this.#withoutHoles(page, direction, range) : page;
      },
    };
  }

  /**
   * A page of a namespace of which nothing had been deleted when it was read.
   *
   * @throws RefusedError data_loss where records are missing all the same
   */
  async #withoutHoles(
    page: StoredPage,
    direction: Direction,
    range: SeqRange,
  ): Promise<StoredPage> {
    const looked = beforeHole(page, direction, range);
    if ("page" in looked) return looked.page;
    const now = await this.namespaceNow();
    // Trees were deleted meanwhile: the reader notices by the count.
    if ((now?.deletion_count ?? 0) > 0) return page;
    const latestSeq = now?.last_seq ?? 0;
    // The database went back in time meanwhile.
    if (latestSeq < looked.hole.lastSeq)
      throw new RefusedError({ reason: "cursor_ahead", latestSeq });
    throw new RefusedError({ reason: "data_loss", ...looked.hole });
  }

  /** The scope's runs by their keys; undefined while none of them exists. */
  async #resolve(
    namespace: NamespaceRow,
    scope: Scope,
    runs: readonly RunRow[],
  ): Promise<RecordScope | undefined> {
    if (scope.kind === "all") {
      const { namespace_id: namespaceId, deletion_count: deletionCount } = namespace;
      const { db } = this.#journal;
      const exceptRoots = deletionCount > 0 ? await findMarkedRoots(db, namespaceId) : [];
      return { kind: "all", exceptRoots };
    }
    if (scope.kind === "runs") {
      if (runs.length === 0) return undefined;
      const beginnings = (scope.inherited ?? []).map(({ runKey, recordEndSeq }) => ({
        runKey,
        lastKey: recordEndSeq,
      }));
      return { kind: "runs", runKeys: runs.map((run) => run.run_key), beginnings };
    }
    const [ancestor] = runs;
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
      // No tree is deeper; Infinity is no number to a database.
      maxDepth: Math.min(maxDepth, maxTreeDepth),
    };
  }

  /** The namespace as it is now; undefined while nothing was written to it. */
  namespaceNow(): Promise<NamespaceRow | undefined> {
    const { db, history } = this.#journal;
    return history.read(this.#namespace, () => findNamespace(db, this.#namespace));
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
    const namespace = await this.namespaceNow();
    if (namespace === undefined) return undefined;
    const { namespace_id: namespaceId } = namespace;
    const { scans } = this.#journal;
    const wanted = namedIn(scope);
    const runs = await findVisible(db, namespaceId, scope, wanted);
    if (runs.length < wanted.length) return undefined;
    if (runs.some((run) => isOpenState(run.state))) return undefined;
    if (scope.kind === "ancestor" && (await familyIsOpen(scans, runs[0]!))) {
      return undefined;
    }
    // Read last, so that it is not before what ended the last run.
    return (await this.namespaceNow())?.last_seq;
  }
}

/** Which records of a scope a page looks at, and which of those it holds. */
type Choice = Pick<PageBounds, "wants" | "withoutEvents">;

function choiceOf(filter: Filter): Choice {
  const { types, kinds } = filter;
  const withoutEvents = isWithoutEvents(filter);
  if (types === undefined && (kinds === undefined || kinds.isAllButEvents)) {
    return { withoutEvents };
  }
  return {
    withoutEvents,
    wants: ({ first_run_seq: firstRunSeq, types: named }) =>
      kinds?.wants({ firstRunSeq, types: named }) !== false && types?.shareOf(named) !== "none",
  };
}

function isEverything({ wants, withoutEvents }: Choice): boolean {
  return wants === undefined && !withoutEvents;
}

/** Of the runs that a scope names, those that exist where they have to lie. */
async function findVisible(
  db: Db,
  namespaceId: number,
  scope: Scope,
  runIds: readonly string[],
): Promise<RunRow[]> {
  const runs = await findRuns(db, namespaceId, runIds);
  if (scope.kind === "all" || scope.within === undefined) return runs;
  const keys = runs.map((run) => run.run_key);
  const covered = await findCovered(db, namespaceId, scope.within, keys);
  return runs.filter((run) => covered.has(run.run_key));
}

/** The runs that a scope names. */
function namedIn(scope: Scope): readonly string[] {
  switch (scope.kind) {
    case "all":
      return [];
    case "ancestor":
      return [scope.ancestorId];
    case "runs":
      return scope.runIds;
  }
}

/** Leaves the inherited events of the record in which they end. */
function cutInherited(scope: Scope, record: PageRecord): PageRecord {
  if (scope.kind !== "runs" || scope.inherited === undefined) return record;
  const { firstSeq, count } = record;
  const lastSeq = firstSeq + count - 1;
  for (const { throughSeq, recordEndSeq } of scope.inherited) {
    // A seq lies in one record, so its end says which run it is of.
    if (recordEndSeq !== lastSeq || throughSeq === lastSeq) continue;
    const inheritedCount = throughSeq - firstSeq + 1;
    const { data } = record;
    const isWithoutData = data.length === 0;
    const inherited = isWithoutData ? data : takeItems(data, inheritedCount);
    return { ...record, count: inheritedCount, data: inherited };
  }
  return record;
}

/** Holds no wanted record, however many others there are. */
function emptySnapshot(endSeq: number, deletionCount: number): Snapshot {
  return {
    endSeq,
    deletionCount,
    runs: [],
    endOfRecord: (seq) => Promise.resolve(seq),
    read: (direction, { afterSeq, upToSeq }) =>
      Promise.resolve({ records: [], reachSeq: direction === "forward" ? upToSeq : afterSeq + 1 }),
  };
}
