/** SubscribeService.SubscribeMany: a Watch call whose requests are a list. */
import { create } from "@bufbuild/protobuf";
import type { HandlerContext } from "@connectrpc/connect";
import {
  type NamedSubscription,
  type SubscribeManyRequest,
  type SubscribeManyResponse,
  SubscribeManyResponseSchema,
  SubscribeRequestSchema,
} from "../../gen/runlog/v1/subscribe_pb.js";
import type { DeliveryOptions } from "../delivery/subscription-spec.ts";
import { Watch } from "../delivery/watch.ts";
import { yieldToEventLoop } from "../event-loop.ts";
import { invalidField, RefusedError } from "../refusal.ts";
import { checkMessage } from "../validate.ts";
import { callerOf } from "./auth/caller.ts";
import type { Rights } from "./auth/rights.ts";
import { parseSubscription } from "./parse-subscription.ts";
import type { ServiceContext } from "./service-context.ts";
import { StreamEnding } from "./stream-ending.ts";
import { watchResponses } from "./watch.ts";

/** Subscriptions that start in one turn of the event loop. */
const startsPerTurn = 256;

/** Answers SubscribeMany. */
export async function* subscribeManyCall(
  context: ServiceContext,
  { subscriptions }: SubscribeManyRequest,
  call: HandlerContext,
): AsyncGenerator<SubscribeManyResponse> {
  const ending = new StreamEnding(context, call);
  const { usage } = ending;
  const watch = new Watch({ ...context, usage });
  const { rights } = callerOf(call);
  // Owned by the watch, which sees the end or the error.
  void startAll({ ...context, usage }, subscriptions, watch, rights).then(
    () => watch.end(),
    (error: unknown) => watch.fail(error),
  );
  for await (const { subscriptionId, frame } of watchResponses(context, watch, ending, call)) {
    if (frame.case === "filterChanged") throw new Error("a filter changed, which nobody asked for");
    yield create(SubscribeManyResponseSchema, { subscriptionId, frame });
  }
}

async function startAll(
  { limits, usage }: Pick<DeliveryOptions, "limits" | "usage">,
  subscriptions: readonly NamedSubscription[],
  watch: Watch,
  rights: Rights,
): Promise<void> {
  checkList(subscriptions, limits.maxSubscriptionsPerCall);
  // At once: a client would call again for the sake of those that are over it.
  usage?.check("subscriptions", subscriptions.length);
  for (const [index, { subscriptionId, request: asked }] of subscriptions.entries()) {
    if (index > 0 && index % startsPerTurn === 0) await yieldToEventLoop();
    const request = asked ?? create(SubscribeRequestSchema);
    const path = `subscriptions[${index}].request`;
    const parse = () => {
      checkMessage(path, SubscribeRequestSchema, request);
      return parseSubscription(`${path}.`, request, limits, rights);
    };
    watch.start(subscriptionId, parse, Number.POSITIVE_INFINITY);
    await watch.untilRoom();
  }
}

/** @throws RefusedError for a list of which nothing can start */
function checkList(subscriptions: readonly NamedSubscription[], limit: number): void {
  if (subscriptions.length === 0) {
    throw invalidField("subscriptions", "is empty: name at least one subscription");
  }
  if (subscriptions.length > limit) {
    const what = "subscriptions on one call: make another call";
    throw new RefusedError({ reason: "quota", what, limit });
  }
  const places = new Map<number, number>();
  for (const [index, { subscriptionId: id }] of subscriptions.entries()) {
    const field = `subscriptions[${index}].subscription_id`;
    if (id === 0) throw invalidField(field, "must be 1 or more");
    const first = places.get(id);
    if (first !== undefined) {
      throw invalidField(field, `${id} is that of subscriptions[${first}]: choose another one`);
    }
    places.set(id, index);
  }
}
