/** SubscribeService.Watch over the engine. */
import { create } from "@bufbuild/protobuf";
import type { HandlerContext } from "@connectrpc/connect";
import { EventFilterSchema } from "../../gen/runlog/v1/record_pb.js";
import {
  type StartSubscription,
  SubscribeRequestSchema,
  type WatchRequest,
  type WatchResponse,
  WatchResponseSchema,
} from "../../gen/runlog/v1/subscribe_pb.js";
import { narrow, parseFilter } from "../delivery/filter.ts";
import { Watch, type WatchFrame } from "../delivery/watch.ts";
import { describeRefusal, invalidField, RefusedError } from "../refusal.ts";
import { checkMessage } from "../validate.ts";
import { callerOf } from "./auth/caller.ts";
import type { Rights } from "./auth/rights.ts";
import { toConnectError, toErrorDetail } from "./errors.ts";
import { goAwayReason, type MessageFormat, toSubscribeResponse } from "./messages.ts";
import { formatOf, parseSubscription } from "./parse-subscription.ts";
import type { ServiceContext } from "./service-context.ts";
import { StreamEnding } from "./stream-ending.ts";

/** Answers Watch. */
export async function* watchCall(
  context: ServiceContext,
  requests: AsyncIterable<WatchRequest>,
  call: HandlerContext,
): AsyncGenerator<WatchResponse> {
  const ending = new StreamEnding(context, call);
  const { usage } = ending;
  const watch = new Watch({ ...context, usage });
  // Owned by the watch: the end or the error of the requests is what it sees.
  void take(context, requests, watch, callerOf(call).rights).then(
    () => watch.end(),
    (error: unknown) => watch.fail(error),
  );
  yield* watchResponses(context, watch, ending, call);
}

/**
 * Yields a call's frames until its subscriptions and their requests have ended, and GoAway where
 * the server drains.
 *
 * @param ending closed with them
 * @throws ConnectError
 */
export async function* watchResponses(
  context: ServiceContext,
  watch: Watch,
  ending: StreamEnding,
  call: HandlerContext,
): AsyncGenerator<WatchResponse> {
  try {
    const format = formatOf(call);
    for await (const frame of watch.run(ending.signal)) {
      if (frame.t === "ended" && frame.refusal?.reason === "data_loss") {
        context.onUnexpected(new RefusedError(frame.refusal));
      }
      yield toWatchResponse(frame, format);
    }
    if (ending.isDraining) {
      const value = toSubscribeResponse({ t: "go_away", reason: goAwayReason }, format);
      yield create(WatchResponseSchema, { frame: { case: "response", value } });
      throw new RefusedError({ reason: "draining" });
    }
    ending.throwIfAborted();
  } catch (error) {
    throw toConnectError(error, context.onUnexpected);
  } finally {
    ending.close();
  }
}

async function take(
  { limits }: ServiceContext,
  requests: AsyncIterable<WatchRequest>,
  watch: Watch,
  rights: Rights,
): Promise<void> {
  for await (const { subscriptionId: id, frame } of requests) {
    if (id === 0) throw invalidField("subscription_id", "must be 1 or more");
    switch (frame.case) {
      case "start": {
        const { value: start } = frame;
        const request = start.request ?? create(SubscribeRequestSchema);
        watch.start(
          id,
          () => {
            checkMessage("start.request", SubscribeRequestSchema, request);
            return parseSubscription("start.request.", request, limits, rights);
          },
          creditOf(start),
        );
        break;
      }
      case "changeFilter":
        watch.changeFilter(id, (namespace) => {
          checkMessage("change_filter", EventFilterSchema, frame.value);
          const filter = parseFilter("change_filter", frame.value);
          return narrow("change_filter", filter, rights.within("read", namespace));
        });
        break;
      case "stop":
        watch.stop(id);
        break;
      case "grant":
        watch.grant(id, frame.value);
        break;
      default:
        throw invalidField("frame", "is missing: set start, change_filter, stop or grant");
    }
    await watch.untilRoom();
  }
}

function creditOf({ initialGrant }: StartSubscription): number {
  return initialGrant === 0 ? Number.POSITIVE_INFINITY : initialGrant;
}

function toWatchResponse(frame: WatchFrame, format: MessageFormat): WatchResponse {
  const { id: subscriptionId } = frame;
  if (frame.t === "ended") {
    const { refusal } = frame;
    const value =
      refusal === undefined
        ? {}
        : { detail: toErrorDetail(refusal), message: describeRefusal(refusal) };
    return create(WatchResponseSchema, { subscriptionId, frame: { case: "ended", value } });
  }
  const { frame: inner } = frame;
  return create(WatchResponseSchema, {
    subscriptionId,
    frame:
      inner.t === "filter_changed"
        ? { case: "filterChanged", value: { seq: BigInt(inner.seq) } }
        : { case: "response", value: toSubscribeResponse(inner, format) },
  });
}
