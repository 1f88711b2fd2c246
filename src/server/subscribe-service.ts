/** SubscribeService over the domain. */
import { create } from "@bufbuild/protobuf";
import type { HandlerContext, ServiceImpl } from "@connectrpc/connect";
import {
  type SubscribeRequest,
  type SubscribeResponse,
  SubscribeResponseSchema,
  type SubscribeService,
} from "../../gen/runlog/v1/subscribe_pb.js";
import { subscribe } from "../delivery/subscribe.ts";
import { RefusedError } from "../journal/refusal.ts";
import { toConnectError } from "./errors.ts";
import { goAwayReason, toSubscribeResponse } from "./messages.ts";
import { formatOf, parseSubscription } from "./parse-subscription.ts";
import { readEventsPage } from "./read-events.ts";
import { type ServiceContext, unary } from "./service-context.ts";
import { StreamEnding } from "./stream-ending.ts";
import { watchCall } from "./watch.ts";

/** Implements SubscribeService. */
export function subscribeService(context: ServiceContext): ServiceImpl<typeof SubscribeService> {
  return {
    subscribe: (request, call) => stream(context, request, call),
    watch: (requests, call) => watchCall(context, requests, call),
    readEvents: unary(context, (request) => readEventsPage(context, request)),
  };
}

async function* stream(
  context: ServiceContext,
  request: SubscribeRequest,
  call: HandlerContext,
): AsyncGenerator<SubscribeResponse> {
  const ending = new StreamEnding(context, call);
  try {
    const format = formatOf(call);
    const subscription = parseSubscription("", request, context.limits);
    for await (const frame of subscribe(context, subscription, ending.signal)) {
      yield toSubscribeResponse(frame, format);
    }
    if (ending.isDraining) {
      yield create(SubscribeResponseSchema, {
        frame: { case: "goAway", value: { reason: goAwayReason } },
      });
      // An OK here would say that the subscription ended as asked.
      throw new RefusedError({ reason: "draining" });
    }
  } catch (error) {
    throw toConnectError(error, context.onUnexpected);
  } finally {
    ending.close();
  }
}
