/**
 * Reading a journal from a cursor, for as long as it takes.
 *
 * Invariant: the cursor moves with every frame that says how far the journal
 * was read (events, CaughtUp, Progress), and every call after the first one
 * starts there. The server is exact, so nothing is compared or thrown away:
 * what this yields is each matching record once, in seq order.
 */
import { create, type MessageInitShape, toBinary } from "@bufbuild/protobuf";
import { durationFromMs, timestampFromDate } from "@bufbuild/protobuf/wkt";
import { createClient, type Transport } from "@connectrpc/connect";
import type { EventFilterSchema, SequencedEvent } from "../../gen/runlog/v1/record_pb.js";
import {
  StopPolicy,
  SubscribeRequestSchema,
  type SubscribeResponse,
  SubscribeService,
} from "../../gen/runlog/v1/subscribe_pb.js";
import { type BackoffOptions, defaultBackoff, delayMs, sleep } from "./backoff.ts";
import { retryAfterMsOf, toFinalError } from "./errors.ts";
import { nodeCountOf } from "./ingest-transport.ts";
import {
  followAnswerTimeoutMs,
  followProgressIntervalMs,
  followSilentIntervals,
} from "./limits.ts";
import { orAbort } from "./or-abort.ts";
import { Retries } from "./retries.ts";

/** A start that the server turns into a seq, once: a call that breaks is resumed after that. */
export type FollowStart =
  /** The newest records that match, at most so many, to 1000; fewer where few of the newest match. */
  | { readonly lastCount: number }
  /** Records of this time by the server's clock, or later. */
  | { readonly fromTime: Date };

/** What to follow, from where, and until when. */
export interface FollowRequest {
  /** Empty or unset: "default". */
  readonly namespace?: string;
  readonly filter: MessageInitShape<typeof EventFilterSchema>;
  /** Exclusive: 0n, the default, is the beginning, "now" what becomes durable from now on. */
  readonly after?: bigint | "now" | FollowStart;
  /** Where `after` came from; checked by the server where it is set. */
  readonly journalId?: string;
  /** Unset: never ends by itself. */
  readonly stop?: StopPolicy;
  /** Wait for runs that do not exist yet, instead of RUN_NOT_FOUND. */
  readonly allowMissing?: boolean;
  /** Milliseconds between Progress frames, at least 1000. Default 15,000. */
  readonly progressIntervalMs?: number;
}

/** Where a follower stands. */
export type FollowState =
  | { readonly t: "connecting"; readonly attempt: number }
  /** The subscription stands; the cursor belongs to this journal. */
  | { readonly t: "following"; readonly journalId: string; readonly resumed: boolean }
  /** The call ended; the next one resumes after `cursor`. */
  | {
      readonly t: "waiting";
      readonly attempt: number;
      readonly delayMs: number;
      readonly error: Error;
    };

/** How to follow. */
export interface FollowOptions {
  /** Ends the following: the iteration throws the signal's reason. */
  readonly signal?: AbortSignal;
  /** Told of every change. Must not throw. */
  readonly onState?: (state: FollowState) => void;
  readonly backoff?: BackoffOptions;
  /** Jitter of the waits between calls, in [0, 1). Default: Math.random. */
  readonly random?: () => number;
}

/** A step of the following. `cursor` can be handed back as `after`. */
export type FollowItem =
  /** Records in seq order, at least one. */
  | { readonly t: "records"; readonly records: readonly SequencedEvent[]; readonly cursor: bigint }
  /** What was durable at the start has been yielded; what follows is live. Once. */
  | { readonly t: "caught_up"; readonly cursor: bigint }
  /** Nothing up to the cursor is outstanding. */
  | { readonly t: "progress"; readonly cursor: bigint };

/**
 * Follows the records that match, across any number of calls and servers.
 * Ends where the stop policy does. Throws RunlogError where trying again
 * cannot help (CURSOR_TRIMMED, JOURNAL_CHANGED, RUN_ID_LIMIT, …), and what
 * protobuf-es throws where the request is no valid message.
 *
 * To stop early, abort the signal: a `return()` from outside would wait for
 * the next frame.
 */
export async function* follow(
  transport: Transport,
  request: FollowRequest,
  options: FollowOptions = {},
): AsyncGenerator<FollowItem, void, undefined> {
  const { onState, backoff = defaultBackoff, random = Math.random } = options;
  const signal = options.signal ?? new AbortController().signal;
  const silentMs = followSilentIntervals * (request.progressIntervalMs ?? followProgressIntervalMs);
  const client = createClient(SubscribeService, transport);
  const position = new Position(request);
  const retries = new Retries();
  // What cannot be encoded fails here, once: on a call it would look like a
  // passing fault of the transport and be tried for ever.
  toBinary(SubscribeRequestSchema, create(SubscribeRequestSchema, position.toRequest()));
  for (let failures = 0; ; ) {
    signal.throwIfAborted();
    onState?.({ t: "connecting", attempt: failures });
    const call = new AbortController();
    const onAbort = () => call.abort(signal.reason);
    signal.addEventListener("abort", onAbort, { once: true });
    let progressed = false;
    let goAway = false;
    let error: unknown;
    try {
      const responses = client.subscribe(position.toRequest(), {
        signal: call.signal,
        timeoutMs: 0,
      });
      const iterator = responses[Symbol.asyncIterator]();
      let answerMs = Math.min(silentMs, followAnswerTimeoutMs);
      while (!goAway) {
        const next = await orAbort(
          iterator.next(),
          call.signal,
          answerMs,
          "frame of the subscription",
        );
        if (next.done === true) {
          break;
        }
        answerMs = silentMs;
        const { frame } = next.value;
        goAway = frame.case === "goAway";
        if (frame.case === "subscribed") {
          retries.answered();
          onState?.({
            t: "following",
            journalId: frame.value.journalId,
            resumed: position.subscribed,
          });
        }
        const item = position.advance(frame);
        if (item !== undefined) {
          progressed = true;
          yield item;
        }
      }
    } catch (thrown) {
      // Connect wraps the reason of an abort; our own says more.
      error = call.signal.aborted ? call.signal.reason : thrown;
    } finally {
      signal.removeEventListener("abort", onAbort);
      // The transport leaves a node that did not answer.
      call.abort(error);
    }
    signal.throwIfAborted();
    if (position.isDone(error === undefined && !goAway)) {
      return;
    }
    if (error !== undefined && retries.isFinal(error)) {
      throw toFinalError(error);
    }
    failures = progressed ? 1 : failures + 1;
    const retryAfterMs = retryAfterMsOf(error);
    const waitMs = delayMs(failures, retryAfterMs, backoff, random, nodeCountOf(transport));
    const reason = error instanceof Error ? error : new Error("the server ended the call");
    onState?.({ t: "waiting", attempt: failures, delayMs: waitMs, error: reason });
    await sleep(waitMs, signal);
  }
}

function toStart(
  after: NonNullable<FollowRequest["after"]>,
): NonNullable<MessageInitShape<typeof SubscribeRequestSchema>["start"]> {
  if (after === "now") return { case: "fromNow", value: true };
  if (typeof after === "bigint") return { case: "afterSeq", value: after };
  return "lastCount" in after
    ? { case: "lastCount", value: after.lastCount }
    : { case: "fromTime", value: timestampFromDate(after.fromTime) };
}

/** Where a follower stands in the journal, and whether it is done. */
class Position {
  readonly #request: FollowRequest;
  #after: NonNullable<FollowRequest["after"]>;
  #journalId: string;
  #caughtUp = false;
  #subscribed = false;

  constructor(request: FollowRequest) {
    this.#request = request;
    this.#after = request.after ?? 0n;
    this.#journalId = request.journalId ?? "";
  }

  /** Whether a call was accepted before. */
  get subscribed(): boolean {
    return this.#subscribed;
  }

  toRequest(): MessageInitShape<typeof SubscribeRequestSchema> {
    const {
      namespace = "",
      filter,
      stop,
      allowMissing = false,
      progressIntervalMs,
    } = this.#request;
    return {
      namespace,
      filter,
      start: toStart(this.#after),
      stop: stop ?? StopPolicy.UNSPECIFIED,
      progressInterval: durationFromMs(progressIntervalMs ?? followProgressIntervalMs),
      allowMissing,
      journalId: this.#journalId,
    };
  }

  /** Moves with a frame and says what the follower yields for it, if anything. */
  advance(frame: SubscribeResponse["frame"]): FollowItem | undefined {
    switch (frame.case) {
      case "subscribed":
        this.#journalId = frame.value.journalId;
        this.#subscribed = true;
        // "now" was this moment: after a break, what came since is wanted too.
        if (this.#after === "now") {
          this.#after = frame.value.latestSeq;
        } else if (typeof this.#after === "object") {
          this.#after = frame.value.afterSeq;
        }
        return undefined;
      case "events": {
        const records = frame.value.events;
        const last = records.at(-1);
        if (last === undefined) {
          return undefined;
        }
        this.#after = last.seq;
        return { t: "records", records, cursor: last.seq };
      }
      case "caughtUp": {
        const cursor = frame.value.seq;
        this.#after = cursor;
        // A resumed call catches up again; for the reader that is no news.
        const t = this.#caughtUp ? "progress" : "caught_up";
        this.#caughtUp = true;
        return { t, cursor };
      }
      case "progress":
        this.#after = frame.value.seq;
        return { t: "progress", cursor: frame.value.seq };
      default:
        return undefined;
    }
  }

  /** Whether the stop policy is met, after a call that the server ended regularly or not. */
  isDone(endedByServer: boolean): boolean {
    switch (this.#request.stop) {
      case StopPolicy.CAUGHT_UP:
        // Once caught up, a broken end has nothing left to bring.
        return endedByServer || this.#caughtUp;
      case StopPolicy.FINISHED:
        return endedByServer;
      default:
        return false;
    }
  }
}
