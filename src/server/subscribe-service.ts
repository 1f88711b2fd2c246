/** SubscribeService over the engine. */
import { Code, ConnectError, type HandlerContext, type ServiceImpl } from "@connectrpc/connect";
import {
  type SubscribeRequest,
  type SubscribeResponse,
  SubscribeService,
} from "../../gen/runlog/v1/subscribe_pb.js";
import type { SubscriptionFrame } from "../delivery/frames.ts";
import { subscribe } from "../delivery/subscribe.ts";
import type { SubscriptionSpec } from "../delivery/subscription-spec.ts";
import { RefusedError } from "../refusal.ts";
import { callerOf } from "./auth/caller.ts";
import { toConnectError } from "./errors.ts";
import type { GrpcStream, StreamCall } from "./http/grpc-handler.ts";
import { type GoAwayFrame, goAwayReason, toSubscribeResponse } from "./messages.ts";
import { formatOf, parseSubscription } from "./parse-subscription.ts";
import { readEventsPage } from "./read-events.ts";
import { parserOf } from "./request-messages.ts";
import { type ServiceContext, unary } from "./service-context.ts";
import { SharedFrames } from "./shared-frames.ts";
import { StreamEnding } from "./stream-ending.ts";
import { subscribeManyCall } from "./subscribe-many.ts";
import { watchCall } from "./watch.ts";

/** Implements SubscribeService. */
export function subscribeService(context: ServiceContext): ServiceImpl<typeof SubscribeService> {
  return {
    subscribe: (request, call) => stream(context, request, call),
    watch: (requests, call) => watchCall(context, requests, call),
    subscribeMany: (request, call) => subscribeManyCall(context, request, call),
    readEvents: unary(context, (request, _, { rights }) =>
      readEventsPage(context, request, rights),
    ),
  };
}

async function* stream(
  context: ServiceContext,
  request: SubscribeRequest,
  call: HandlerContext,
): AsyncGenerator<SubscribeResponse> {
  const format = formatOf(call);
  const { rights } = callerOf(call);
  const subscription = async () => parseSubscription("", request, context.limits, rights);
  for await (const frame of frames(context, subscription(), call)) {
    yield toSubscribeResponse(frame, format);
  }
}

/** Subscribe as bytes, for plain gRPC. */
export function subscribeGrpc(context: ServiceContext): GrpcStream {
  const shared = new SharedFrames();
  return {
    method: SubscribeService.method.subscribe,
    serve(requests, call) {
      // Neither the request nor what read it is kept while the subscription goes on.
      const subscription = onlyRequest(requests).then((request) =>
        parseSubscription("", request, context.limits, callerOf(call).rights),
      );
      return piecesOf(shared, frames(context, subscription, call));
    },
  };
}

async function* piecesOf(
  shared: SharedFrames,
  frames: AsyncIterable<SubscriptionFrame | GoAwayFrame>,
): AsyncGenerator<readonly Uint8Array[]> {
  for await (const frame of frames) yield shared.piecesOf(frame);
}

const parseRequest = parserOf(SubscribeService.method.subscribe, "binary");

async function onlyRequest(
  requests: AsyncIterable<readonly Uint8Array[]>,
): Promise<SubscribeRequest> {
  let request: SubscribeRequest | undefined;
  for await (const messages of requests) {
    for (const message of messages) {
      if (request !== undefined) {
        throw new ConnectError(
          "a subscription has one request, and several came",
          Code.Unimplemented,
        );
      }
      request = parseRequest(message) as SubscribeRequest;
    }
  }
  if (request !== undefined) return request;
  throw new ConnectError("a subscription has one request, and none came", Code.Unimplemented);
}

async function* frames(
  context: ServiceContext,
  subscription: Promise<SubscriptionSpec>,
  call: StreamCall,
): AsyncGenerator<SubscriptionFrame | GoAwayFrame> {
  // Nobody waits for it where the stream is refused.
  subscription.catch(() => undefined);
  const ending = new StreamEnding(context, call);
  const { usage } = ending;
  try {
    yield* subscribe({ ...context, usage }, await subscription, ending.signal);
    if (ending.isDraining) {
      yield { t: "go_away", reason: goAwayReason };
      // An OK here would say that the subscription ended as asked.
      throw new RefusedError({ reason: "draining" });
    }
    ending.throwIfAborted();
  } catch (error) {
    throw toConnectError(error, context.onUnexpected);
  } finally {
    ending.close();
  }
}
