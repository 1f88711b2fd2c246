import type { Transport } from "@connectrpc/connect";
import type { BackoffOptions } from "../backoff.ts";
import { toFinalError } from "../errors.ts";
import { follow } from "../follow.ts";
import type { FollowState } from "../follow-calls.ts";
import type { FollowItem, FollowRequest } from "../follow-position.ts";
import { toNumber } from "../uint64.ts";
import type { Cursor, Selection } from "./follow-request.ts";
import { Listeners } from "./listeners.ts";
import { type LogRecord, recordOf } from "./records.ts";

/**
 * Where a follower stands.
 *
 *     connecting → catching-up → live
 *     catching-up, live → reconnecting → catching-up, whenever a connection is lost
 *     any of these → ended | failed, which are final
 *
 * "ended" means that nothing is left to read, or that the reader stopped: never that a connection
 * was lost. "failed" means that trying again cannot help.
 */
export type FollowStatus =
  | "connecting"
  | "catching-up"
  | "live"
  | "reconnecting"
  | "ended"
  | "failed";

/** How to follow. */
export interface FollowingOptions extends Selection {
  /** Stops the following: its loop ends, and nothing is thrown. */
  readonly signal?: AbortSignal | undefined;
  /** Told of every change of the status. */
  readonly onStatus?: ((status: FollowStatus) => void) | undefined;
  /** Waits between connections. */
  readonly backoff?: BackoffOptions | undefined;
}

/**
 * The records that match, to be iterated once: each exactly once, in the order of seq, over any
 * number of connections and servers. Begins with the loop. The loop ends where `until` says, or
 * where the reader stops; it throws RunlogError where trying again cannot help (RUN_NOT_FOUND,
 * CURSOR_TRIMMED, JOURNAL_CHANGED, RUN_ID_LIMIT, …).
 *
 * Invariant: once it was stopped it yields nothing and makes no call.
 */
export class Following implements AsyncIterable<LogRecord>, AsyncDisposable {
  readonly #transport: Transport;
  readonly #request: FollowRequest;
  readonly #backoff: BackoffOptions | undefined;
  readonly #stop = new AbortController();
  readonly #signal: AbortSignal;
  readonly #listeners = new Listeners<[FollowStatus]>();
  #status: FollowStatus = "connecting";
  #error: Error | undefined;
  #seq: number | undefined;
  #journalId: string;
  #isIterated = false;

  /** @param lifetime of its owner: stops it */
  constructor(
    transport: Transport,
    request: FollowRequest,
    { signal, onStatus, backoff }: FollowingOptions,
    lifetime: AbortSignal,
  ) {
    this.#transport = transport;
    this.#request = request;
    this.#backoff = backoff;
    const { after = 0n, journalId = "" } = request;
    if (typeof after === "bigint") this.#seq = toNumber(after, "after");
    this.#journalId = journalId;
    const signals = [this.#stop.signal, lifetime];
    this.#signal = AbortSignal.any(signal === undefined ? signals : [...signals, signal]);
    if (onStatus !== undefined) this.#listeners.add(onStatus);
  }

  /** Where it stands. */
  get status(): FollowStatus {
    return this.#status;
  }

  /** Why it is reconnecting or has failed; undefined otherwise. */
  get error(): Error | undefined {
    return this.#error;
  }

  /**
   * The place of the last record that the loop got, or a later one where nothing else matches: to
   * be saved, and given to `after` of another following with any filter. Undefined before the
   * server has said where this one begins.
   */
  get cursor(): Cursor | undefined {
    if (this.#seq === undefined || this.#journalId === "") return undefined;
    return { seq: this.#seq, journalId: this.#journalId };
  }

  /** Tells of every change of the status; the result ends that. */
  onStatus(listener: (status: FollowStatus) => void): () => void {
    return this.#listeners.add(listener);
  }

  /** Ends the loop, for good. */
  stop(): void {
    this.#stop.abort();
    this.#enter("ended");
  }

  async [Symbol.asyncDispose](): Promise<void> {
    this.stop();
  }

  /** The records one by one. */
  async *[Symbol.asyncIterator](): AsyncGenerator<LogRecord, void, undefined> {
    for await (const item of this.#items()) {
      if (item.t === "records") {
        for (const message of item.records) {
          if (this.#signal.aborted) return;
          const record = recordOf(message);
          this.#seq = record.seq;
          yield record;
        }
      }
      this.#seq = toNumber(item.cursor, "cursor");
    }
  }

  /** The records as they come, many at a time: faster than one by one. */
  async *batches(): AsyncGenerator<readonly LogRecord[], void, undefined> {
    for await (const item of this.#items()) {
      const records = item.t === "records" ? item.records.map(recordOf) : [];
      this.#seq = toNumber(item.cursor, "cursor");
      if (records.length > 0) yield records;
    }
  }

  async *#items(): AsyncGenerator<FollowItem, void, undefined> {
    if (this.#isIterated) {
      throw new TypeError("this is followed already: to go on, follow again after `cursor`");
    }
    this.#isIterated = true;
    try {
      for await (const item of follow(this.#transport, this.#request, {
        signal: this.#signal,
        onState: (state) => this.#onState(state),
        ...(this.#backoff !== undefined && { backoff: this.#backoff }),
      })) {
        if (this.#signal.aborted) return;
        if (item.t === "caught_up" || (item.t === "progress" && item.isCaughtUp)) {
          this.#enter("live");
        }
        yield item;
      }
    } catch (thrown) {
      if (this.#signal.aborted) return;
      const error = toFinalError(thrown);
      this.#enter("failed", error);
      throw error;
    } finally {
      this.#enter("ended");
    }
  }

  #onState(state: FollowState): void {
    switch (state.t) {
      case "following":
        this.#journalId = state.journalId;
        this.#enter("catching-up");
        return;
      case "connecting":
        // A connection that is back at once has lost nothing: there is no error.
        if (this.#status !== "connecting") this.#enter("reconnecting", this.#error);
        return;
      case "waiting":
        if (this.#status === "connecting") this.#error = state.error;
        else this.#enter("reconnecting", state.error);
    }
  }

  /** The only place where the status changes; a final one stays. */
  #enter(status: FollowStatus, error?: Error): void {
    if (this.#status === "ended" || this.#status === "failed") return;
    this.#error = error;
    if (status === this.#status) return;
    this.#status = status;
    this.#listeners.tell(status);
  }
}
