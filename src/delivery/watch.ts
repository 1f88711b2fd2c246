import { yieldToEventLoop } from "../event-loop.ts";
import { QuietTimer } from "../quiet-timer.ts";
import { type Refusal, RefusedError } from "../refusal.ts";
import { Wakeup } from "../wakeup.ts";
import { Deque } from "./deque.ts";
import type { Filter } from "./filter.ts";
import { Subscription, type SubscriptionStepFrame } from "./subscription.ts";
import type { DeliveryOptions, SubscriptionSpec } from "./subscription-spec.ts";

/** A frame for the subscriber; `id` is the subscription's. */
export type WatchFrame =
  | { readonly t: "frame"; readonly id: number; readonly frame: SubscriptionStepFrame }
  /** Without a refusal it ended as asked. */
  | { readonly t: "ended"; readonly id: number; readonly refusal: Refusal | undefined };

/** Answers that may wait to be written before no more requests are taken. */
const maxPendingAnswers = 1_024;

/** One subscription. */
interface Entry {
  readonly id: number;
  readonly subscription: Subscription;
  readonly quiet: QuietTimer;
  isQueued: boolean;
  /** Set once it is to end: as asked, or for a filter that makes no sense. */
  ending: { readonly refusal: Refusal | undefined } | undefined;
}

/**
 * Many subscriptions on one call.
 *
 * Invariant: nothing is pushed. Subscriptions that have something to deliver
 * stand in one queue; who writes the call takes the first, lets it do one step,
 * writes what that brought, and puts it at the back if it has more. So one page
 * is held at a time however many subscriptions there are, and a busy one is
 * asked no more often than a quiet one that has news.
 */
export class Watch {
  readonly #options: DeliveryOptions;
  readonly #entries = new Map<number, Entry>();
  readonly #ready = new Deque<Entry>();
  /** Starts that were refused. */
  readonly #refused = new Deque<WatchFrame>();
  readonly #wakeup = new Wakeup();
  /** Filters that were asked for and are not in force yet. */
  #pendingChanges = 0;
  #hasEnded = false;
  #isOver = false;
  #failure: { readonly error: unknown } | undefined;
  #wakeReader: (() => void) | undefined;

  constructor(options: DeliveryOptions) {
    const { frames, pages, subscriptions } = options.memory;
    // One call does not take what others need.
    const memory = { frames, pages, subscriptions: subscriptions.part() };
    this.#options = { ...options, memory };
  }

  /**
   * Starts a subscription. A mistake in it ends this one with the error; the others
   * go on, also the one that has the id already. Once the call is over nothing starts.
   *
   * @param credit items that may be delivered before the first grant; Infinity: not limited
   * @param parse returns what to deliver; throws RefusedError for a request that makes no sense
   */
  start(id: number, parse: () => SubscriptionSpec, credit: number): void {
    if (this.#isOver) return;
    try {
      const { maxSubscriptionsPerCall: limit } = this.#options.limits;
      if (this.#entries.has(id)) {
        const problem = `${id} is in use on this call: choose another one`;
        throw new RefusedError({ reason: "invalid_field", field: "subscription_id", problem });
      }
      if (this.#entries.size >= limit) {
        const what = "subscriptions on one call: make another call";
        throw new RefusedError({ reason: "quota", what, limit });
      }
      const spec = parse();
      const wake = () => this.#queue(entry);
      const subscription = new Subscription(this.#options, spec, wake, credit);
      const quiet = new QuietTimer(spec.progressIntervalMs, () => {
        subscription.tick();
        wake();
      });
      const entry: Entry = {
        id,
        subscription,
        quiet,
        isQueued: false,
        ending: undefined,
      };
      this.#entries.set(id, entry);
      this.#queue(entry);
    } catch (error) {
      if (!(error instanceof RefusedError)) throw error;
      this.#refused.push({ t: "ended", id, refusal: error.refusal });
      this.#wakeup.wake();
    }
  }

  /**
   * Changes a subscription's filter; one that has ended is left alone, since its
   * end may be under way.
   *
   * @param parse the filter in the subscription's namespace; RefusedError, which ends the
   *   subscription, where it makes no sense
   */
  changeFilter(id: number, parse: (namespace: string) => Filter): void {
    const entry = this.#entries.get(id);
    if (entry === undefined) return;
    try {
      entry.subscription.changeFilter(parse(entry.subscription.namespace));
      this.#pendingChanges++;
    } catch (error) {
      if (!(error instanceof RefusedError)) throw error;
      entry.ending ??= { refusal: error.refusal };
    }
    this.#queue(entry);
  }

  /** Allows a subscription so many more items. */
  grant(id: number, count: number): void {
    const entry = this.#entries.get(id);
    if (entry === undefined) return;
    entry.subscription.grant(count);
    this.#queue(entry);
  }

  /** Ends a subscription. */
  stop(id: number): void {
    const entry = this.#entries.get(id);
    if (entry === undefined) return;
    entry.ending ??= { refusal: undefined };
    this.#queue(entry);
  }

  /** No more requests will come: the call ends with its last subscription. */
  end(): void {
    this.#hasEnded = true;
    this.#wakeup.wake();
  }

  /** The requests have failed: so does the call. */
  fail(error: unknown): void {
    this.#failure ??= { error };
    this.#wakeup.wake();
  }

  /** Resolves when another request may be taken, so that a client which does not read bounds itself. */
  async untilRoom(): Promise<void> {
    while (!this.#isOver && this.#refused.length + this.#pendingChanges > maxPendingAnswers) {
      await new Promise<void>((resolve) => {
        this.#wakeReader = resolve;
      });
    }
  }

  /**
   * Yields the frames of all subscriptions, until they and the requests have
   * ended, or `signal` aborts.
   *
   * @throws what the requests failed with, and whatever is no refusal
   */
  async *run(signal: AbortSignal): AsyncGenerator<WatchFrame> {
    try {
      while (!signal.aborted) {
        this.#wakeup.reset();
        if (this.#failure !== undefined) throw this.#failure.error;
        const refused = this.#refused.shift();
        if (refused !== undefined) {
          yield refused;
          this.#wakeReader?.();
          continue;
        }
        const entry = this.#ready.shift();
        if (entry !== undefined) {
          entry.isQueued = false;
          if (this.#entries.get(entry.id) === entry) yield* this.#step(entry);
          this.#wakeReader?.();
        } else if (this.#hasEnded && this.#entries.size === 0) {
          return;
        } else {
          // Each subscription has a timer of its own.
          await this.#wakeup.wait(signal);
        }
      }
    } finally {
      this.#isOver = true;
      for (const entry of this.#entries.values()) this.#close(entry);
      this.#wakeReader?.();
    }
  }

  async *#step(entry: Entry): AsyncGenerator<WatchFrame> {
    const { subscription } = entry;
    if (entry.ending !== undefined) {
      yield this.#endOf(entry, entry.ending.refusal);
      return;
    }
    try {
      let step = await subscription.step();
      yield* this.#framesOf(entry, step.frames);
      // To its end, so that one page is held at a time.
      while (subscription.hasPage) {
        step = await subscription.step();
        yield* this.#framesOf(entry, step.frames);
      }
      const { frames, next } = step;
      if (next === "ended") {
        yield this.#endOf(entry, undefined);
      } else if (next === "more") {
        if (frames.length === 0) await yieldToEventLoop();
        this.#queue(entry);
      }
    } catch (error) {
      if (!(error instanceof RefusedError)) throw error;
      yield this.#endOf(entry, error.refusal);
    }
  }

  *#framesOf(
    { id, quiet }: Entry,
    frames: readonly SubscriptionStepFrame[],
  ): Generator<WatchFrame> {
    for (const frame of frames) {
      if (frame.t === "filter_changed") this.#pendingChanges--;
      yield { t: "frame", id, frame };
    }
    if (frames.length > 0) quiet.note();
  }

  #queue(entry: Entry): void {
    if (entry.isQueued || this.#entries.get(entry.id) !== entry) return;
    entry.isQueued = true;
    this.#ready.push(entry);
    this.#wakeup.wake();
  }

  #endOf(entry: Entry, refusal: Refusal | undefined): WatchFrame {
    this.#close(entry);
    this.#pendingChanges -= entry.subscription.pendingFilters;
    this.#entries.delete(entry.id);
    return { t: "ended", id: entry.id, refusal };
  }

  #close(entry: Entry): void {
    entry.quiet.close();
    entry.subscription.close();
  }
}
