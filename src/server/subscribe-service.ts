/** SubscribeService over the domain. */
import { create } from "@bufbuild/protobuf";
import { durationMs } from "@bufbuild/protobuf/wkt";
import type { HandlerContext, ServiceImpl } from "@connectrpc/connect";
import {
  StopPolicy,
  type SubscribeRequest,
  type SubscribeResponse,
  SubscribeResponseSchema,
  type SubscribeService,
} from "../../gen/runlog/v1/subscribe_pb.js";
import { parseFilter } from "../delivery/filter.ts";
import { subscribe } from "../delivery/subscribe.ts";
import type { Stop, Subscription } from "../delivery/subscription.ts";
import { checkNamespace, checkPlace } from "../ingest/validate.ts";
import { invalidField, RefusedError } from "../journal/refusal.ts";
import { type Limits, minProgressIntervalMs } from "../limits.ts";
import { toConnectError } from "./errors.ts";
import { type MessageFormat, toSubscribeResponse } from "./messages.ts";
import { readEventsPage } from "./read-events.ts";
import { drainingOf, notYet, type ServiceContext, unary } from "./service-context.ts";

/** Implements SubscribeService. */
export function subscribeService(context: ServiceContext): ServiceImpl<typeof SubscribeService> {
  return {
    subscribe: (request, call) => stream(context, request, call),
    // biome-ignore lint/correctness/useYield: refused before the first frame
    async *watch() {
      await notYet(context, "Watch")();
    },
    readEvents: unary(context, (request) => readEventsPage(context, request)),
  };
}

async function* stream(
  context: ServiceContext,
  request: SubscribeRequest,
  call: HandlerContext,
): AsyncGenerator<SubscribeResponse> {
  const { onUnexpected, limits } = context;
  const draining = drainingOf(context, call);
  const ending = new AbortController();
  const onAbort = () => ending.abort();
  call.signal.addEventListener("abort", onAbort);
  const notDraining = draining.onStart(onAbort);
  try {
    const format = formatOf(call);
    const subscription = parseSubscription(request, limits);
    for await (const frame of subscribe(context, subscription, ending.signal)) {
      yield toSubscribeResponse(frame, format);
    }
    if (draining.started && ending.signal.aborted) {
      yield create(SubscribeResponseSchema, {
        frame: { case: "goAway", value: { reason: "this connection is going away" } },
      });
      // An OK here would say that the subscription ended as asked.
      throw new RefusedError({ reason: "draining" });
    }
  } catch (error) {
    throw toConnectError(error, onUnexpected);
  } finally {
    call.signal.removeEventListener("abort", onAbort);
    notDraining();
  }
}

/** All of Connect's and gRPC's JSON content types end this way. */
function formatOf(call: HandlerContext): MessageFormat {
  const contentType = call.requestHeader.get("content-type") ?? "";
  return /[/+]json\b/.test(contentType) ? "json" : "binary";
}

const stops: Readonly<Record<number, Stop>> = {
  [StopPolicy.UNSPECIFIED]: "never",
  [StopPolicy.CAUGHT_UP]: "caught_up",
  [StopPolicy.FINISHED]: "finished",
};

/** @throws RefusedError with the field at fault */
function parseSubscription(request: SubscribeRequest, limits: Limits): Subscription {
  const { start } = request;
  if (start.case === "fromNow" && !start.value) {
    throw invalidField("from_now", "is true, or left out for the beginning");
  }
  const stop = stops[request.stop];
  if (stop === undefined) throw invalidField("stop", `has no meaning as ${request.stop}`);
  return {
    namespace: checkNamespace("namespace", request.namespace),
    filter: parseFilter("filter", request.filter),
    start:
      start.case === "fromNow"
        ? "now"
        : { afterSeq: start.case === "afterSeq" ? checkPlace("after_seq", start.value) : 0 },
    stop,
    progressIntervalMs: progressInterval(request, limits),
    allowMissing: request.allowMissing,
    journalId: request.journalId,
  };
}

/** A timer's longest wait, 2^31 - 1 ms; a longer interval is as good as this one. */
const longestTimerMs = 2 ** 31 - 1;

function progressInterval({ progressInterval: asked }: SubscribeRequest, limits: Limits): number {
  if (asked === undefined) return limits.progressIntervalMs;
  const ms = durationMs(asked);
  if (ms < minProgressIntervalMs) {
    throw invalidField(
      "progress_interval",
      `is at least ${minProgressIntervalMs} ms`,
      minProgressIntervalMs,
    );
  }
  return Math.min(ms, longestTimerMs);
}
