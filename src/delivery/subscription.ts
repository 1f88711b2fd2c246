import { findEarliestSeq } from "../journal/trees.ts";
import { type MemoryHold, retryAfterMs } from "../memory-budget.ts";
import { invalidField, RefusedError } from "../refusal.ts";

import type { Filter } from "./filter.ts";
import { FilterReader } from "./filter-reader.ts";
import { type ItemsFrame, type SubscriptionFrame, takePage } from "./frames.ts";
import { type Page, PageSource } from "./page-source.ts";
import { findStartSeq } from "./start-seq.ts";
import type { DeliveryOptions, SubscriptionSpec } from "./subscription-spec.ts";

/** Frames of a step; one behind the other, in order. */
export type SubscriptionStepFrame =
  | SubscriptionFrame
  /** The last seq that the filter before decided. */
  | { readonly t: "filter_changed"; readonly seq: number };

/** What a step brought. */
export interface SubscriptionStep {
  readonly frames: readonly SubscriptionStepFrame[];
  /** `more`: ask again at once. `wait`: ask again once it is woken, or after `tick`. */
  readonly next: "more" | "wait" | "ended";
}

/** The rest of a page. */
interface Rest {
  readonly page: Page;
  readonly frames: readonly ItemsFrame[];
  /** Index of the next frame. */
  next: number;
  readonly upToSeq: number;
  /** Bytes of the frames that are left. */
  bytes: number;
}

type State = "starting" | "reading" | "idle" | "starved" | "ended";

/** Steps without a frame after which the subscriber gets its progress. */
const progressAfterSteps = 64;

/**
 * A subscription as a machine that is asked for its next frames. What it holds
 * between two steps is its cursor, its place among those who are woken, and what is
 * left of a page. The page goes where its memory is needed: it is read again from the
 * cursor, which moves with each frame.
 *
 *   starting  nothing was sent
 *   reading   the cursor has not been seen at the end
 *   idle      all that is durable was delivered: news go on, or the progress interval
 *   starved   more is durable than may be delivered: a grant goes on, or a new filter
 *   ended     by its stop policy
 */
export class Subscription {
  readonly #options: DeliveryOptions;
  readonly #spec: SubscriptionSpec;
  readonly #source: PageSource;
  readonly #wake: () => void;
  #state: State = "starting";
  #reader: FilterReader | undefined;
  #unwatch: () => void;
  #nextFilters: Filter[] = [];
  #rest: Rest | undefined;
  /** The hold on the rest of a page; made when a page first has a rest. */
  #hold: MemoryHold | undefined;
  /** Of the class of subscriptions. */
  #heldBytes = 0;
  /** Whether it counts in the subscriber's quota. */
  #isCounted = false;
  /** Items that may still be delivered. */
  #credit: number;
  #cursor = 0;
  /** The newest seq at the start: there the subscription has caught up. */
  #latestSeq = 0;
  #knownEndSeq = 0;
  /** How often the database, and the namespace, had gone back at the start. */
  #backCount = 0;
  #backs = 0;
  #isCaughtUp = false;
  #isProgressDue = false;
  #emptySteps = 0;

  /**
   * @param wake called when there may be something to ask for
   * @param credit items that may be delivered before the first grant; Infinity: not limited
   * @throws RefusedError where the subscription makes no sense, or there is no memory or quota for it
   */
  constructor(
    options: DeliveryOptions,
    spec: SubscriptionSpec,
    wake: () => void,
    credit = Number.POSITIVE_INFINITY,
  ) {
    checkTogether(spec, spec.filter);
    this.#options = options;
    this.#spec = spec;
    this.#wake = wake;
    this.#credit = credit;
    this.#source = new PageSource(options, spec.namespace);
    options.usage?.check("subscriptions", 1);
    this.#take(subscriptionBytes + costOf(spec.filter));
    options.usage?.take("subscriptions");
    this.#isCounted = true;
    this.#unwatch = this.#watch(spec.filter);
  }

  get namespace(): string {
    return this.#spec.namespace;
  }

  /** Filters that have been asked for and are not in force yet. */
  get pendingFilters(): number {
    return this.#nextFilters.length;
  }

  /** Whether something is left of a page. */
  get hasPage(): boolean {
    return this.#rest !== undefined;
  }

  /**
   * Takes another filter: from the cursor on, at the next step.
   *
   * @throws RefusedError overloaded where there is no memory for it
   */
  changeFilter(filter: Filter): void {
    this.#take(costOf(filter));
    this.#nextFilters.push(filter);
  }

  /** Allows so many more items, where the subscription is limited. */
  grant(count: number): void {
    if (this.#credit === Number.POSITIVE_INFINITY) return;
    this.#credit = Math.min(this.#credit + count, Number.MAX_SAFE_INTEGER);
    if (this.#state === "starved" && this.#credit > 0) this.#state = "reading";
  }

  /** Nothing was sent for the progress interval: the next step says how far the subscription is. */
  tick(): void {
    this.#isProgressDue = true;
  }

  /** Leaves those who are woken. */
  close(): void {
    this.#unwatch();
    this.#dropPage();
    this.#options.memory.subscriptions.give(this.#heldBytes);
    this.#heldBytes = 0;
    if (this.#isCounted) this.#options.usage?.give("subscriptions");
    this.#isCounted = false;
  }

  #take(bytes: number): void {
    if (!this.#options.memory.subscriptions.tryTake(bytes)) {
      throw new RefusedError({ reason: "overloaded", what: "subscriptions", retryAfterMs });
    }
    this.#heldBytes += bytes;
  }

  #dropPage(): void {
    this.#rest = undefined;
    this.#hold?.release();
  }

  /**
   * The next frames.
   *
   * @throws RefusedError where the subscription cannot start or go on
   */
  async step(): Promise<SubscriptionStep> {
    if (this.#state === "ended") return { frames: [], next: "ended" };
    if (this.#state === "starting") return { frames: [await this.#start()], next: "more" };
    if (this.#hasGoneBack) await this.#refuseBack();
    if (this.#nextFilters.length > 0) return { frames: await this.#applyFilters(), next: "more" };
    if (this.#state === "starved") return { frames: this.#progressIfDue([]), next: "wait" };
    return this.#read(this.#reader!);
  }

  /** Whether the namespace is not any more what it was when the subscription began. */
  get #hasGoneBack(): boolean {
    const { history } = this.#options.journal;
    if (history.backCount === this.#backCount) return false;
    this.#backCount = history.backCount;
    return history.backsOf(this.#spec.namespace) !== this.#backs;
  }

  /**
   * The seqs up to the cursor may be other records' now, and those after it be
   * records that were moved up.
   */
  async #refuseBack(): Promise<never> {
    const latestSeq = (await this.#source.namespaceNow())?.last_seq ?? 0;
    throw new RefusedError({ reason: "cursor_ahead", latestSeq });
  }

  async #start(): Promise<SubscriptionStepFrame> {
    const { filter, allowMissing } = this.#spec;
    const reader = await FilterReader.open(this.#source, filter, allowMissing);
    this.#reader = reader;
    const { journal } = this.#options;
    const { earliestSeq, latestSeq, afterSeq } = await this.#startSeqs(reader);
    this.#cursor = afterSeq;
    this.#latestSeq = latestSeq;
    this.#knownEndSeq = latestSeq;
    this.#state = "reading";
    return { t: "subscribed", journalId: journal.id, earliestSeq, latestSeq, afterSeq };
  }

  async #startSeqs({
    filter,
  }: FilterReader): Promise<{ earliestSeq: number; latestSeq: number; afterSeq: number }> {
    const { journal } = this.#options;
    const { start, journalId } = this.#spec;
    if (journalId !== "" && journalId !== journal.id) {
      throw new RefusedError({ reason: "journal_changed", journalId: journal.id });
    }
    const row = await this.#source.namespaceNow();
    this.#backCount = journal.history.backCount;
    this.#backs = journal.history.backsOf(this.#spec.namespace);
    const afterSeq = await findStartSeq(this.#options, this.#source, filter, { start, row });
    if (row === undefined) return { earliestSeq: 1, latestSeq: 0, afterSeq };
    const { last_seq: latestSeq, trimmed_seq: trimmedSeq } = row;
    const earliest = trimmedSeq === 0 ? 1 : await findEarliestSeq(journal.db, row.namespace_id);
    return { earliestSeq: earliest ?? latestSeq + 1, latestSeq, afterSeq };
  }

  async #applyFilters(): Promise<SubscriptionStepFrame[]> {
    const changes = this.#nextFilters;
    const { allowMissing } = this.#spec;
    for (const filter of changes) {
      checkTogether(this.#spec, filter);
      // Watched before it is read, so that no news are missed in between.
      const unwatch = this.#watch(filter);
      this.#unwatch();
      this.#unwatch = unwatch;
      this.#reader = await FilterReader.open(this.#source, filter, allowMissing);
    }
    this.#nextFilters = [];
    this.#dropPage();
    const bytes = subscriptionBytes + costOf(changes.at(-1)!);
    this.#options.memory.subscriptions.give(this.#heldBytes - bytes);
    this.#heldBytes = bytes;
    this.#state = "reading";
    return changes.map(() => ({ t: "filter_changed", seq: this.#cursor }));
  }

  async #read(reader: FilterReader): Promise<SubscriptionStep> {
    const rest = this.#rest ?? (await this.#nextPage(reader));
    this.#rest = undefined;
    const taken = rest.frames[rest.next];
    const frames: SubscriptionStepFrame[] = [];
    if (taken !== undefined) {
      frames.push(taken.frame);
      this.#credit -= taken.count;
      this.#cursor = taken.upToSeq;
      rest.next++;
      rest.bytes -= taken.bytes;
      if (rest.next < rest.frames.length) {
        this.#rest = rest;
        this.#hold ??= this.#options.memory.pages.hold(() => this.#dropPage());
        this.#hold.set(rest.bytes);
        return { frames, next: "more" };
      }
    }
    this.#hold?.release();
    return this.#endPage(reader, rest, frames);
  }

  async #nextPage(reader: FilterReader): Promise<Rest> {
    const { limits } = this.#options;
    if (this.#isProgressDue) {
      // Nobody woke us, which may be because a wake-up was lost: look for ourselves.
      this.#knownEndSeq = await reader.endSeq(this.#cursor);
    }
    // Without credit one record tells whether there is something to wait for.
    const maxRecords = Math.max(1, Math.min(limits.pageRecords, this.#credit));
    const page = await reader.next(this.#cursor, this.#knownEndSeq, maxRecords);
    if (this.#hasGoneBack) await this.#refuseBack();
    const { types } = reader.filter;
    const taken = takePage(page, this.#cursor, types, limits.frameBytes, this.#credit);
    let bytes = 0;
    for (const frame of taken.frames) bytes += frame.bytes;
    return { page, ...taken, next: 0, bytes };
  }

  async #endPage(
    reader: FilterReader,
    { page, upToSeq }: Rest,
    frames: SubscriptionStepFrame[],
  ): Promise<SubscriptionStep> {
    this.#cursor = upToSeq;
    const isStarved = upToSeq < page.upToSeq;
    if (!this.#isCaughtUp && this.#cursor >= this.#latestSeq) {
      this.#isCaughtUp = true;
      frames.push({ t: "caught_up", seq: this.#cursor });
      if (this.#spec.stop === "caught_up") {
        await reader.check(this.#cursor);
        return this.#end(frames);
      }
    }
    if (isStarved) {
      // A grant may have come since the page was taken.
      if (this.#credit > 0) return { frames, next: "more" };
      this.#state = "starved";
      return { frames: this.#progressIfDue(frames), next: "wait" };
    }
    if (!page.atEnd) {
      return { frames: this.#progressIfLong(this.#progressIfDue(frames)), next: "more" };
    }
    if (this.#spec.stop === "finished") {
      const finishedAt = await reader.finishedAt();
      if (finishedAt !== undefined && finishedAt <= this.#cursor) return this.#end(frames);
      if (finishedAt !== undefined) {
        this.#knownEndSeq = finishedAt;
        return { frames, next: "more" };
      }
    }
    this.#state = "idle";
    this.#emptySteps = 0;
    return { frames: this.#progressIfDue(frames), next: "wait" };
  }

  #end(frames: readonly SubscriptionStepFrame[]): SubscriptionStep {
    this.#state = "ended";
    return { frames, next: "ended" };
  }

  #progressIfDue(frames: SubscriptionStepFrame[]): SubscriptionStepFrame[] {
    const isDue = this.#isProgressDue;
    this.#isProgressDue = false;
    return isDue && frames.length === 0 ? [{ t: "progress", seq: this.#cursor }] : frames;
  }

  /** A filter that matches hardly anything moves on all the same. */
  #progressIfLong(frames: SubscriptionStepFrame[]): SubscriptionStepFrame[] {
    this.#emptySteps = frames.length === 0 ? this.#emptySteps + 1 : 0;
    if (this.#emptySteps < progressAfterSteps) return frames;
    this.#emptySteps = 0;
    return [{ t: "progress", seq: this.#cursor }];
  }

  #watch(filter: Filter): () => void {
    const { tails } = this.#options;
    // A function of its own each time: leaving by one filter must not leave by the next.
    return tails.watch(this.#spec.namespace, filter, () => this.#wake());
  }
}

/** Bytes that a subscription takes besides its filter, about. */
const subscriptionBytes = 4 * 1024;
/** Bytes that a text in a filter takes besides its characters, in its places. */
const filterTextBytes = 300;

/** Bytes that a filter takes, about. */
function costOf({ scope, types }: Filter): number {
  const texts = types?.count ?? 0;
  if (scope.kind !== "runs") return texts * filterTextBytes;
  let bytes = (texts + scope.runIds.length) * filterTextBytes;
  for (const runId of scope.runIds) bytes += runId.length;
  return bytes;
}

/** @throws RefusedError where a filter and the rest of a subscription do not go together */
function checkTogether({ stop, allowMissing }: SubscriptionSpec, { scope }: Filter): void {
  if (stop === "finished" && scope.kind === "all") {
    throw invalidField("stop", "FINISHED needs an ancestor or run ids: a namespace never ends");
  }
  if (allowMissing && scope.kind === "runs" && scope.inherited !== undefined) {
    const problem =
      "cannot be combined with include_inherited: a fork inherits events that are older than the fork";
    throw invalidField("allow_missing", problem);
  }
}
