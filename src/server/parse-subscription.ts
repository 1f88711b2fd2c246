/** What a subscriber asks for, checked. */
import { durationMs } from "@bufbuild/protobuf/wkt";
import type { HandlerContext } from "@connectrpc/connect";
import { StopPolicy, type SubscribeRequest } from "../../gen/runlog/v1/subscribe_pb.js";
import { parseFilter } from "../delivery/filter.ts";
import type { Stop, SubscriptionSpec } from "../delivery/subscription-spec.ts";
import { type Limits, minProgressIntervalMs } from "../limits.ts";
import { invalidField } from "../refusal.ts";
import { longestTimerMs } from "../timers.ts";
import { checkNamespace, checkPlace } from "../validate.ts";
import type { MessageFormat } from "./messages.ts";

/** All of Connect's and gRPC's JSON content types end this way. */
export function formatOf(call: HandlerContext): MessageFormat {
  const contentType = call.requestHeader.get("content-type") ?? "";
  return /[/+]json\b/.test(contentType) ? "json" : "binary";
}

const stops: Readonly<Record<number, Stop>> = {
  [StopPolicy.UNSPECIFIED]: "never",
  [StopPolicy.CAUGHT_UP]: "caught_up",
  [StopPolicy.FINISHED]: "finished",
};

/**
 * Checks a request.
 *
 * @param at the path of the request, as a prefix of its fields'
 * @throws RefusedError with the field at fault
 */
export function parseSubscription(
  at: string,
  request: SubscribeRequest,
  limits: Limits,
): SubscriptionSpec {
  const { start } = request;
  if (start.case === "fromNow" && !start.value) {
    throw invalidField(`${at}from_now`, "must be true: leave it out to start at the beginning");
  }
  const stop = stops[request.stop];
  if (stop === undefined) throw invalidField(`${at}stop`, `has the unknown value ${request.stop}`);
  return {
    namespace: checkNamespace(`${at}namespace`, request.namespace),
    filter: parseFilter(`${at}filter`, request.filter),
    start:
      start.case === "fromNow"
        ? "now"
        : { afterSeq: start.case === "afterSeq" ? checkPlace(`${at}after_seq`, start.value) : 0 },
    stop,
    progressIntervalMs: progressInterval(at, request, limits),
    allowMissing: request.allowMissing,
    journalId: request.journalId,
  };
}

function progressInterval(
  at: string,
  { progressInterval: asked }: SubscribeRequest,
  limits: Limits,
): number {
  if (asked === undefined) return limits.progressIntervalMs;
  const ms = durationMs(asked);
  if (ms < minProgressIntervalMs) {
    throw invalidField(
      `${at}progress_interval`,
      `must be at least ${minProgressIntervalMs} ms`,
      minProgressIntervalMs,
    );
  }
  return Math.min(ms, longestTimerMs);
}
