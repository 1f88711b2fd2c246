import type { Readable } from "node:stream";
import type { MessageInitShape } from "@bufbuild/protobuf";
import {
  type SubscribeRequestSchema,
  type SubscribeResponse,
  SubscribeService,
  type WatchResponse,
} from "../../gen/runlog/v1/subscribe_pb.js";
import type { SeenFilter } from "../history/entry.ts";
import type { Random } from "../random.ts";
import { backoffMs, pause, type Stage, withChannel } from "./actor.ts";
import { type Channel, failureOf, reasonName } from "./channel.ts";
import { filterMessage, seen } from "./seen.ts";

/** What a subscriber does. */
export interface SubscriberOptions {
  readonly name: string;
  readonly random: Random;
  readonly filter: SeenFilter;
  readonly over: "Subscribe" | "Watch";
  /** Milliseconds that it stays on one stream at most. */
  readonly staysMs: { readonly min: number; readonly max: number };
}

/** Milliseconds between Progress frames: the least that a server allows. */
const progressMs = 1_000;
/** Records that a Watch subscription may get ahead of its next grant. */
const grant = 200;
/** Milliseconds without any frame after which a node is given up; Progress comes each second. */
const patienceMs = 20_000;
const deadlineMs = 600_000;

/**
 * A subscriber on Subscribe or Watch: it resumes from its cursor at a node of its choice
 * after every end, and often leaves by itself.
 */
export class Subscriber {
  readonly name: string;
  /** The last seq that it need not see again. */
  cursor = 0;
  readonly #stage: Stage;
  readonly #options: SubscriberOptions;
  #journalId = "";

  constructor(stage: Stage, options: SubscriberOptions) {
    this.#stage = stage;
    this.#options = options;
    this.name = options.name;
  }

  /** Follows until it has to end. */
  async run(): Promise<void> {
    const { random } = this.#options;
    const { ending } = this.#stage;
    while (!ending.aborted) {
      await withChannel(this.#stage, random, (channel, node) => this.#stay(channel, node));
      await pause(random.between(backoffMs.min, backoffMs.max), ending);
    }
  }

  async #stay(channel: Channel, node: string): Promise<void> {
    const { history, ending } = this.#stage;
    const { name: by, filter, over, random, staysMs } = this.#options;
    const left = new AbortController();
    history.append({ t: "subscribing", by, node, after: this.cursor, filter, progressMs });
    const request = {
      filter: filterMessage(filter),
      start: { case: "afterSeq" as const, value: BigInt(this.cursor) },
      progressInterval: { seconds: BigInt(progressMs / 1000) },
      // What a fork inherits lies before it: it has to be there.
      allowMissing: !(filter.scope.t === "runs" && filter.scope.inherited === true),
      journalId: this.#journalId,
    };
    let heardMs = performance.now();
    let isOver = false;
    const onFrame = (frame: SubscribeResponse["frame"]) => {
      if (isOver) return;
      heardMs = performance.now();
      if (this.#take(frame)) left.abort();
    };
    const onEnd = (reason: string, code: number, message: string, isLocal: boolean) => {
      if (!isOver) history.append({ t: "unsubscribed", by, reason, code, message, isLocal });
      isOver = true;
      left.abort();
    };
    const call =
      over === "Subscribe"
        ? this.#subscribe(channel, request, onFrame)
        : this.#watch(channel, request, onFrame, onEnd);
    call.on("error", (error: Error) => {
      const { reason, code, message, isLocal } = failureOf(error);
      onEnd(reason, code, message, isLocal);
    });
    call.on("end", () => onEnd("", 0, "ended", false));
    const leaving = AbortSignal.any([left.signal, ending]);
    const leavesMs = performance.now() + random.between(staysMs.min, staysMs.max);
    while (!leaving.aborted && performance.now() < leavesMs) {
      if (performance.now() - heardMs > patienceMs) break;
      await pause(250, leaving);
    }
    onEnd("", 0, "left", true);
    call.cancel();
  }

  #subscribe(
    channel: Channel,
    request: MessageInitShape<typeof SubscribeRequestSchema>,
    onFrame: (frame: SubscribeResponse["frame"]) => void,
  ): Readable & { cancel(): void } {
    const call = channel.serverStream(SubscribeService.method.subscribe, request, deadlineMs);
    call.on("data", (response: SubscribeResponse) => onFrame(response.frame));
    return call;
  }

  #watch(
    channel: Channel,
    request: MessageInitShape<typeof SubscribeRequestSchema>,
    onFrame: (frame: SubscribeResponse["frame"]) => void,
    onEnd: (reason: string, code: number, message: string, isLocal: boolean) => void,
  ): Readable & { cancel(): void } {
    const call = channel.duplex(SubscribeService.method.watch, deadlineMs);
    const subscriptionId = 1;
    call.on("data", ({ frame }: WatchResponse) => {
      if (frame.case === "response") {
        const inner = frame.value.frame;
        onFrame(inner);
        if (inner.case === "events") {
          call.write({
            subscriptionId,
            frame: { case: "grant", value: inner.value.events.length },
          });
        }
      } else if (frame.case === "ended") {
        const { detail, message } = frame.value;
        onEnd(detail === undefined ? "" : reasonName(detail.reason), 0, message, false);
      }
    });
    const value = { request, initialGrant: grant };
    call.write({ subscriptionId, frame: { case: "start", value } });
    return call;
  }

  /** Whether the node asks to go elsewhere. */
  #take(frame: SubscribeResponse["frame"]): boolean {
    const { history } = this.#stage;
    const { name: by } = this.#options;
    switch (frame.case) {
      case "subscribed":
        this.#journalId = frame.value.journalId;
        history.append({ t: "subscribed", by, journalId: this.#journalId });
        return false;
      case "events": {
        const records = frame.value.events.map(seen);
        history.append({ t: "records", by, records });
        this.cursor = records.at(-1)?.seq ?? this.cursor;
        return false;
      }
      case "caughtUp":
      case "progress": {
        const seq = Number(frame.value.seq);
        history.append({ t: "progress", by, seq });
        this.cursor = Math.max(this.cursor, seq);
        return false;
      }
      case "goAway":
        return true;
      default:
        return false;
    }
  }
}
