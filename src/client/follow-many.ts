/** Following several filters over one call, which needs no stream in both directions. */
import { createClient, type Transport } from "@connectrpc/connect";
import {
  type SubscribeManyResponse,
  SubscribeService,
  type SubscriptionEnded,
} from "../../gen/runlog/v1/subscribe_pb.js";
import { isRetryableDetail, RunlogError } from "./errors.ts";
import {
  type CallReader,
  type FollowOptions,
  followCalls,
  Reopen,
  type Taken,
} from "./follow-calls.ts";
import { type FollowItem, type FollowRequest, Position } from "./follow-position.ts";

/** A step of following several filters; `id` is the name under which the filter was added. */
export type FollowManyItem =
  | (FollowItem & { readonly id: string })
  /**
   * The id is followed no longer, and the others are: its stop policy was met, or, with an
   * error, the server refused it for a reason that trying again does not change.
   */
  | { readonly t: "ended"; readonly id: string; readonly error: RunlogError | undefined };

/** One filter that is followed. */
interface Entry {
  readonly id: string;
  /** The id on the wire, which no other entry ever has. */
  readonly number: number;
  readonly position: Position;
}

/**
 * Filters that are followed over one call, each with a cursor of its own.
 *
 * Invariant: a call names the filters that were in the set when it was opened. A change opens
 * another call at once, on which each filter goes on after its own cursor, so the others lose
 * and repeat nothing.
 */
export class FollowSet {
  readonly #entries = new Map<number, Entry>();
  #lastNumber = 0;
  /** Set while somebody follows the set. */
  #calls: ManyCalls | undefined;

  /**
   * @param requests what to follow, by an id of the caller's choice
   * @throws what protobuf-es throws where a request is no valid message
   */
  constructor(requests: Readonly<Record<string, FollowRequest>> = {}) {
    for (const [id, request] of Object.entries(requests)) this.add(id, request);
  }

  /** What is followed. */
  get ids(): readonly string[] {
    return Array.from(this.#entries.values(), ({ id }) => id);
  }

  /**
   * Follows one filter more.
   *
   * @throws TypeError where the id is in use; what protobuf-es throws where the request is no
   *   valid message
   */
  add(id: string, request: FollowRequest): void {
    if (this.ids.includes(id)) {
      throw new TypeError(`${JSON.stringify(id)} is followed already: remove it first`);
    }
    const entry = { id, number: this.#lastNumber + 1, position: new Position(request) };
    this.#entries.set(++this.#lastNumber, entry);
    this.#calls?.reopen();
  }

  /** Follows a filter no longer; false where it was not. */
  remove(id: string): boolean {
    for (const [number, entry] of this.#entries) {
      if (entry.id !== id) continue;
      this.#entries.delete(number);
      this.#calls?.reopen();
      return true;
    }
    return false;
  }

  /**
   * Follows the records that match, across any number of calls and servers. Ends when nothing is
   * left in the set. Throws RunlogError where trying again cannot help and no single filter is
   * at fault (UNAUTHENTICATED, QUOTA: more filters than the server carries on one call). What
   * cannot be followed alone ends with an item, and leaves the set.
   *
   * The filters share a call: while the caller does not ask for the next item, none moves. To
   * stop early, abort the signal; the set keeps its cursors.
   *
   * @throws TypeError where the set is being followed
   */
  async *follow(
    transport: Transport,
    options: FollowOptions = {},
  ): AsyncGenerator<FollowManyItem, void, undefined> {
    if (this.#calls !== undefined) throw new TypeError("the set is being followed already");
    if (this.#entries.size === 0) return;
    const calls = new ManyCalls(transport, this.#entries);
    this.#calls = calls;
    try {
      yield* followCalls(transport, calls, options);
    } finally {
      this.#calls = undefined;
    }
  }
}

/** Reads the calls of a set. */
class ManyCalls implements CallReader<SubscribeManyResponse, FollowManyItem> {
  readonly #client;
  readonly #entries: Map<number, Entry>;
  #call: AbortController | undefined;
  /** Whether the server has answered the call. */
  #isFollowing = false;
  /** Whether it has answered one before. */
  #hasFollowed = false;

  constructor(transport: Transport, entries: Map<number, Entry>) {
    this.#client = createClient(SubscribeService, transport);
    this.#entries = entries;
  }

  get silentMs(): number {
    return Math.min(...Array.from(this.#entries.values(), ({ position }) => position.silentMs));
  }

  get isDone(): boolean {
    return this.#entries.size === 0;
  }

  /** Ends the call, if there is one: what is followed has changed. */
  reopen(): void {
    this.#call?.abort(new Reopen());
  }

  open(call: AbortController): AsyncIterable<SubscribeManyResponse> {
    this.#call = call;
    this.#isFollowing = false;
    const subscriptions = Array.from(this.#entries.values(), ({ number, position }) => ({
      subscriptionId: number,
      request: position.toRequest(),
    }));
    const { signal } = call;
    return this.#client.subscribeMany({ subscriptions }, { signal, timeoutMs: 0 });
  }

  take({ subscriptionId, frame }: SubscribeManyResponse): Taken<FollowManyItem> {
    if (frame.case === "response" && frame.value.frame.case === "goAway") return { goAway: true };
    const entry = this.#entries.get(subscriptionId);
    if (entry === undefined) return {};
    if (frame.case === "ended") return { item: this.#end(entry, frame.value) };
    if (frame.case !== "response") return {};
    const { frame: inner } = frame.value;
    const item = entry.position.advance(inner);
    if (item !== undefined) return { item: { ...item, id: entry.id } };
    if (inner.case !== "subscribed" || this.#isFollowing) return {};
    const resumed = this.#hasFollowed;
    this.#isFollowing = true;
    this.#hasFollowed = true;
    return { following: { journalId: inner.value.journalId, resumed } };
  }

  close(): readonly FollowManyItem[] {
    this.#call = undefined;
    // One that had only its end to come has nothing left to bring.
    const done = Array.from(this.#entries.values()).filter(({ position }) =>
      position.isDone(false),
    );
    return done.map((entry) => this.#end(entry));
  }

  /** @throws RunlogError where the server may take it the next time */
  #end(entry: Entry, { detail, message }: Partial<SubscriptionEnded> = {}): FollowManyItem {
    const { id, number } = entry;
    const error = detail && new RunlogError(message ?? "", undefined, detail);
    if (error?.detail !== undefined && isRetryableDetail(error.detail)) throw error;
    this.#entries.delete(number);
    return { t: "ended", id, error };
  }
}

/**
 * Follows several filters over one call, each under an id of the caller's choice: `follow`, for
 * all of them together. For browsers, whose transports have no stream in both directions, and
 * for pages with several families. To change what is followed, use a FollowSet.
 *
 * Ends when all have ended, each with an item of its own.
 */
export function followMany(
  transport: Transport,
  requests: Readonly<Record<string, FollowRequest>>,
  options: FollowOptions = {},
): AsyncGenerator<FollowManyItem, void, undefined> {
  return new FollowSet(requests).follow(transport, options);
}
