/** What to follow, and where its reader stands. */
import { create, type MessageInitShape, toBinary } from "@bufbuild/protobuf";
import { durationFromMs, timestampFromDate } from "@bufbuild/protobuf/wkt";
import type { EventFilterSchema, SequencedEvent } from "../../gen/runlog/v1/record_pb.js";
import {
  StopPolicy,
  SubscribeRequestSchema,
  type SubscribeResponse,
} from "../../gen/runlog/v1/subscribe_pb.js";
import { followProgressIntervalMs, followSilentIntervals } from "./limits.ts";

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

/** A step of the following. `cursor` can be handed back as `after`. */
export type FollowItem =
  /** Records in seq order, at least one. */
  | { readonly t: "records"; readonly records: readonly SequencedEvent[]; readonly cursor: bigint }
  /** What was durable at the start has been yielded; what follows is live. Once. */
  | { readonly t: "caught_up"; readonly cursor: bigint }
  /**
   * Nothing up to the cursor is outstanding. `isCaughtUp`: what was durable when the call was
   * resumed has been yielded, too.
   */
  | { readonly t: "progress"; readonly cursor: bigint; readonly isCaughtUp: boolean };

function toStart(
  after: NonNullable<FollowRequest["after"]>,
): NonNullable<MessageInitShape<typeof SubscribeRequestSchema>["start"]> {
  if (after === "now") return { case: "fromNow", value: true };
  if (typeof after === "bigint") return { case: "afterSeq", value: after };
  return "lastCount" in after
    ? { case: "lastCount", value: after.lastCount }
    : { case: "fromTime", value: timestampFromDate(after.fromTime) };
}

/**
 * Where a follower stands in the journal, and whether it is done.
 *
 * Invariant: the cursor moves with every frame that says how far the journal was read (events,
 * CaughtUp, Progress), and every request after the first one starts there.
 */
export class Position {
  readonly #request: FollowRequest;
  #after: NonNullable<FollowRequest["after"]>;
  #journalId: string;
  #caughtUp = false;
  #subscribed = false;

  /** @throws what protobuf-es throws where the request is no valid message */
  constructor(request: FollowRequest) {
    this.#request = request;
    this.#after = request.after ?? 0n;
    this.#journalId = request.journalId ?? "";
    // What cannot be encoded fails here, once: on a call it would look like a
    // passing fault of the transport and be tried for ever.
    toBinary(SubscribeRequestSchema, create(SubscribeRequestSchema, this.toRequest()));
  }

  /** Milliseconds without any frame after which its call is held to be dead. */
  get silentMs(): number {
    return followSilentIntervals * (this.#request.progressIntervalMs ?? followProgressIntervalMs);
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
        // A resumed call catches up again; for the reader that is little news.
        if (this.#caughtUp) return { t: "progress", cursor, isCaughtUp: true };
        this.#caughtUp = true;
        return { t: "caught_up", cursor };
      }
      case "progress":
        this.#after = frame.value.seq;
        return { t: "progress", cursor: frame.value.seq, isCaughtUp: false };
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
