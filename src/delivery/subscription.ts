/**
 * A subscription: a filter and a cursor. Take the next page after the cursor,
 * hand it over, move the cursor; where there is no page, wait for a wake-up or
 * for the progress interval. History and live are the same loop.
 *
 * Between two frames it holds one page, so a subscriber that does not read
 * costs that much and delays nobody.
 */
import type { Journal } from "../journal/journal.ts";
import { findNamespace } from "../journal/namespaces.ts";
import { skipItems, stretchesOf } from "../journal/record-codec.ts";
import { invalidField, RefusedError } from "../journal/refusal.ts";
import type { Limits } from "../limits.ts";
import type { Filter, Scope } from "./filter.ts";
import { type Page, PageSource } from "./page-source.ts";
import type { Tails } from "./tail.ts";
import type { TypeFilter } from "./type-filter.ts";
import { Wakeup } from "./wakeup.ts";

/** When a subscription ends by itself. */
export type Stop = "never" | "caught_up" | "finished";

/** What to deliver. */
export interface Subscription {
  readonly namespace: string;
  readonly filter: Filter;
  /** Deliver what comes after this seq, or after the newest one. */
  readonly start: { readonly afterSeq: number } | "now";
  readonly stop: Stop;
  /** Milliseconds without a frame after which Progress is sent. */
  readonly progressIntervalMs: number;
  /** Whether runs that do not exist are waited for. */
  readonly allowMissing: boolean;
  /** The journal that the cursor came from; empty skips the check. */
  readonly journalId: string;
}

/** A frame for the subscriber, before it is a message of the contract. */
export type SubscriptionFrame =
  | {
      readonly t: "subscribed";
      readonly journalId: string;
      readonly earliestSeq: number;
      readonly latestSeq: number;
    }
  /** The parts, one behind the other, are the wire encoding of an EventBatch. */
  | { readonly t: "events"; readonly parts: readonly Uint8Array[] }
  | { readonly t: "caught_up"; readonly seq: number }
  | { readonly t: "progress"; readonly seq: number };

/** What subscriptions read from. */
export interface DeliveryOptions {
  readonly journal: Journal;
  readonly tails: Tails;
  readonly limits: Limits;
}

/** Pages without a wanted record after which the subscriber is told how far that was. */
const progressAfterPages = 64;

/**
 * Delivers a subscription until it ends by itself or `signal` aborts; then the
 * generator returns, and who aborted knows why.
 *
 * @throws RefusedError where the subscription cannot start
 */
export async function* subscribe(
  options: DeliveryOptions,
  subscription: Subscription,
  signal: AbortSignal,
): AsyncGenerator<SubscriptionFrame> {
  const { journal, tails, limits } = options;
  const { namespace, filter, stop, progressIntervalMs } = subscription;
  const { scope, types } = filter;
  if (stop === "finished" && scope.kind === "all") {
    throw invalidField("stop", "FINISHED needs an ancestor or run ids: a namespace never ends");
  }
  const source = new PageSource(journal, tails, namespace, limits);
  const wakeup = new Wakeup();
  const unwatch = tails.of(namespace).watch(scope, wakeup.wake);
  try {
    if (!subscription.allowMissing) await refuseMissing(source, scope);
    const { earliestSeq, latestSeq, afterSeq } = await startOf(journal, subscription);
    yield { t: "subscribed", journalId: journal.id, earliestSeq, latestSeq };
    let cursor = afterSeq;
    let knownEndSeq = latestSeq;
    let caughtUp = false;
    let emptyPages = 0;
    while (!signal.aborted) {
      wakeup.reset();
      const page = await source.next(filter, cursor, knownEndSeq);
      yield* framesOf(page, cursor, types, limits.frameBytes);
      cursor = page.upToSeq;
      emptyPages = page.records.length === 0 && !page.atEnd ? emptyPages + 1 : 0;
      if (emptyPages === progressAfterPages) {
        emptyPages = 0;
        yield { t: "progress", seq: cursor };
      }
      if (!caughtUp && cursor >= latestSeq) {
        caughtUp = true;
        yield { t: "caught_up", seq: cursor };
        if (stop === "caught_up") return;
      }
      if (!page.atEnd) continue;
      const finishedAt = stop === "finished" ? await source.finishedAt(scope) : undefined;
      if (finishedAt !== undefined && finishedAt <= cursor) return;
      if (finishedAt !== undefined) {
        knownEndSeq = finishedAt;
        continue;
      }
      if ((await wakeup.wait(progressIntervalMs, signal)) !== "timeout") continue;
      // Nobody woke us, which may be because a wake-up was lost: look for ourselves.
      knownEndSeq = await source.endSeq();
      const quiet = await source.next(filter, cursor, knownEndSeq);
      if (quiet.records.length > 0) continue;
      cursor = quiet.upToSeq;
      yield { t: "progress", seq: cursor };
    }
  } finally {
    unwatch();
  }
}

async function refuseMissing(source: PageSource, scope: Scope): Promise<void> {
  const runId = await source.missing(scope);
  if (runId !== undefined) throw new RefusedError({ reason: "run_not_found", runId });
}

async function startOf(
  journal: Journal,
  { namespace, start, journalId }: Subscription,
): Promise<{ earliestSeq: number; latestSeq: number; afterSeq: number }> {
  if (journalId !== "" && journalId !== journal.id) {
    throw new RefusedError({ reason: "journal_changed", journalId: journal.id });
  }
  const row = await findNamespace(journal.db, namespace);
  const latestSeq = row?.last_seq ?? 0;
  const earliestSeq = (row?.trimmed_seq ?? 0) + 1;
  const afterSeq = start === "now" ? latestSeq : start.afterSeq;
  if (afterSeq > latestSeq) throw new RefusedError({ reason: "cursor_ahead", latestSeq });
  return { earliestSeq, latestSeq, afterSeq };
}

/** A page's items after the cursor, in frames of about `frameBytes`. */
function* framesOf(
  page: Page,
  cursor: number,
  types: TypeFilter | undefined,
  frameBytes: number,
): Generator<SubscriptionFrame> {
  let parts: Uint8Array[] = [];
  let bytes = 0;
  for (const { firstSeq, types: named, data } of page.records) {
    const rest = skipItems(data, Math.max(0, cursor - firstSeq + 1));
    const isMixed = types?.shareOf(named) === "some";
    for (const part of isMixed ? stretchesOf(rest, (type) => types.wants(type)) : [rest]) {
      if (parts.length > 0 && bytes + part.length > frameBytes) {
        yield { t: "events", parts };
        parts = [];
        bytes = 0;
      }
      parts.push(part);
      bytes += part.length;
    }
  }
  if (parts.length > 0) yield { t: "events", parts };
}
