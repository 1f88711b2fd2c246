/**
 * Reads what a filter wants, page by page, and notices what is deleted
 * meanwhile: whole trees are, so a subscriber in the middle of one is told.
 *
 * Invariant: a page that is handed over has no holes. The count of deletions is
 * read before a page and after it; where it has changed, the page is read again.
 */
import type { NamespaceRow } from "../journal/namespaces.ts";
import { RefusedError } from "../journal/refusal.ts";
import type { Filter } from "./filter.ts";
import type { Page, PageSource, ScopeStanding } from "./page-source.ts";

/** See the head of this file. */
export class FilterReader {
  /** With what its forks inherit. */
  readonly filter: Filter;
  readonly #source: PageSource;
  /** The runs that the scope names and that have been seen, by id; a key that is not known is 0. */
  readonly #known = new Map<string, number>();
  #deletionCount: number;

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
    if (standing.missing !== undefined && !allowMissing) {
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
    for (;;) {
      const page = await this.#source.next(this.filter, afterSeq, knownEndSeq, maxRecords);
      if (page.deletionCount === undefined) {
        this.#learn(page);
        return page;
      }
      const now = await this.#source.namespaceNow();
      if (now === undefined || now.deletion_count === this.#deletionCount) return page;
      await this.#refuseDeleted(now, afterSeq);
      this.#deletionCount = now.deletion_count;
    }
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
      await this.#refuseDeleted(now, afterSeq);
      this.#deletionCount = now.deletion_count;
    }
    return now.last_seq;
  }

  /** See PageSource.finishedAt. */
  finishedAt(): Promise<number | undefined> {
    return this.#source.finishedAt(this.filter.scope);
  }

  async #refuseDeleted(now: NamespaceRow, afterSeq: number): Promise<void> {
    const { scope } = this.filter;
    if (scope.kind === "all") {
      if (now.trimmed_seq <= afterSeq) return;
      throw new RefusedError({ reason: "cursor_trimmed", earliestSeq: now.trimmed_seq + 1 });
    }
    const { runs } = await this.#source.standingOf(scope);
    const keys = new Map(runs.map((run) => [run.run_id, run.run_key]));
    for (const [runId, known] of this.#known) {
      const key = keys.get(runId);
      // One that was created anew under the same id is another run.
      if (key === undefined || (known !== 0 && key !== known)) {
        throw new RefusedError({ reason: "run_not_found", runId });
      }
    }
    for (const [runId, key] of keys) this.#known.set(runId, key);
  }

  /** Remembers runs that came to be after the beginning and were seen in the tail alone. */
  #learn({ records }: Page): void {
    const { scope } = this.filter;
    if (scope.kind === "all") return;
    const named = scope.kind === "runs" ? scope.runIds : [scope.ancestorId];
    if (this.#known.size >= named.length) return;
    for (const { lineage } of records) {
      const seen = scope.kind === "runs" ? lineage?.[0] : scope.ancestorId;
      if (seen !== undefined && !this.#known.has(seen)) this.#known.set(seen, 0);
    }
  }
}
