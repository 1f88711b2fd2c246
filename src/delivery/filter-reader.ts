import { RefusedError } from "../refusal.ts";
import type { Filter } from "./filter.ts";
import type { Page, PageSource, ScopeStanding } from "./page-source.ts";

/**
 * Reads what a filter selects, page by page, and notices deletions
 * meanwhile: a subscriber in the middle of a deleted tree gets an error.
 *
 * Invariant: a page that has holes is followed by an error, before another page
 * and before the end. The count of deletions is read with the end of the journal,
 * before each page; where it is the same before the next one, there are none.
 */
export class FilterReader {
  /** With what its forks inherit. */
  readonly filter: Filter;
  readonly #source: PageSource;
  /** The keys of the runs that the scope names and that have been seen, by their ids. */
  readonly #known = new Map<string, number>();
  #deletionCount: number;
  /** The cursor before the last page out of the journal, until it is known to be whole. */
  #uncertainSeq: number | undefined;

  private constructor(source: PageSource, filter: Filter, standing: ScopeStanding) {
    this.#source = source;
    this.filter = filter;
    this.#deletionCount = standing.namespace?.deletion_count ?? 0;
    for (const run of standing.runs) this.#known.set(run.run_id, run.run_key);
  }

  /**
   * Begins to read.
   *
   * @param allowMissing whether runs that do not exist are waited for
   * @throws RefusedError run_not_found; quota where forks inherit from too many runs
   */
  static async open(
    source: PageSource,
    filter: Filter,
    allowMissing: boolean,
  ): Promise<FilterReader> {
    const standing = await source.standingOf(filter.scope);
    // A caller that sees a part only does not wait: whether a run is missing, or lies
    // outside, must not show.
    const { scope } = filter;
    const mayWait = allowMissing && (scope.kind === "all" || scope.within === undefined);
    if (standing.missing !== undefined && !mayWait) {
      throw new RefusedError({ reason: "run_not_found", runId: standing.missing });
    }
    return new FilterReader(source, await source.withInherited(filter, standing), standing);
  }

  /**
   * The next page after a cursor; see PageSource.next.
   *
   * @throws RefusedError run_not_found or cursor_trimmed where something was
   *   deleted that lies after the cursor
   */
  async next(afterSeq: number, knownEndSeq: number, maxRecords: number): Promise<Page> {
    const page = await this.#source.next(this.filter, afterSeq, knownEndSeq, maxRecords);
    if (page.deletionCount === undefined) {
      const isNews = (page.tailDeletionCount ?? 0) > this.#deletionCount;
      await (isNews ? this.endSeq(afterSeq) : this.check(afterSeq));
      await this.#learn(page);
      return page;
    }
    if (page.deletionCount !== this.#deletionCount) {
      await this.#refuseDeleted(this.#uncertainSeq ?? afterSeq);
      this.#deletionCount = page.deletionCount;
    }
    this.#uncertainSeq = afterSeq;
    // Runs that came to be after the beginning.
    for (const run of page.runs ?? []) this.#known.set(run.run_id, run.run_key);
    return page;
  }

  /**
   * Makes sure that the last page had no holes.
   *
   * @throws RefusedError as `next` does
   */
  async check(afterSeq: number): Promise<void> {
    if (this.#uncertainSeq !== undefined) await this.endSeq(afterSeq);
  }

  /**
   * The newest durable seq.
   *
   * @throws RefusedError as `next` does
   */
  async endSeq(afterSeq: number): Promise<number> {
    const now = await this.#source.namespaceNow();
    if (now === undefined) return 0;
    if (now.deletion_count !== this.#deletionCount) {
      await this.#refuseDeleted(this.#uncertainSeq ?? afterSeq);
      this.#deletionCount = now.deletion_count;
    }
    this.#uncertainSeq = undefined;
    return now.last_seq;
  }

  /** See PageSource.finishedAt. */
  finishedAt(): Promise<number | undefined> {
    return this.#source.finishedAt(this.filter.scope);
  }

  async #refuseDeleted(afterSeq: number): Promise<void> {
    const { scope } = this.filter;
    const { namespace, runs } = await this.#source.standingOf(scope);
    if (scope.kind === "all") {
      const trimmedSeq = namespace?.trimmed_seq ?? 0;
      if (trimmedSeq <= afterSeq) return;
      throw new RefusedError({ reason: "cursor_trimmed", earliestSeq: trimmedSeq + 1 });
    }
    const keys = new Map(runs.map((run) => [run.run_id, run.run_key]));
    for (const [runId, known] of this.#known) {
      const key = keys.get(runId);
      // One that was created anew under the same id is another run.
      if (key !== known) throw new RefusedError({ reason: "run_not_found", runId });
    }
  }

  /** Looks up runs that came to be after the beginning, when the tail shows them for the first time. */
  async #learn({ records }: Page): Promise<void> {
    const { scope } = this.filter;
    if (scope.kind === "all") return;
    const named = scope.kind === "runs" ? scope.runIds : [scope.ancestorId];
    if (this.#known.size >= named.length) return;
    const seen = new Map<string, number>();
    for (const { lineage = [], firstSeq } of records) {
      const runId = scope.kind === "runs" ? lineage[0] : scope.ancestorId;
      if (runId !== undefined && !this.#known.has(runId)) seen.set(runId, firstSeq);
    }
    if (seen.size === 0) return;
    const { runs } = await this.#source.standingOf(scope);
    const keys = new Map(runs.map((run) => [run.run_id, run.run_key]));
    for (const [runId, seq] of seen) {
      const key = keys.get(runId);
      // A run begins before its records: one that begins later was created anew.
      if (key === undefined || key > seq) {
        throw new RefusedError({ reason: "run_not_found", runId });
      }
      this.#known.set(runId, key);
    }
  }
}
