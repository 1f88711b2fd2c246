/** What a subscriber asks for, checked. */
import { durationMs } from "@bufbuild/protobuf/wkt";
import type { HandlerContext } from "@connectrpc/connect";
import { StopPolicy, type SubscribeRequest } from "../../gen/runlog/v1/subscribe_pb.js";
import { narrow, parseFilter } from "../delivery/filter.ts";
import type { Start, Stop, SubscriptionSpec } from "../delivery/subscription-spec.ts";
import { type Limits, maxLastCount, minProgressIntervalMs } from "../limits.ts";
import { invalidField } from "../refusal.ts";
import { longestTimerMs } from "../timers.ts";
import { checkNamespace, checkPlace } from "../validate.ts";
import type { Rights } from "./auth/rights.ts";
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
 * @throws RefusedError with the field at fault; permission
 */
export function parseSubscription(
  at: string,
  request: SubscribeRequest,
  limits: Limits,
  rights: Rights,
): SubscriptionSpec {
  const { start } = request;
  const stop = stops[request.stop];
  if (stop === undefined) throw invalidField(`${at}stop`, `has the unknown value ${request.stop}`);
  const namespace = checkNamespace(`${at}namespace`, request.namespace);
  const filter = parseFilter(`${at}filter`, request.filter);
  return {
    namespace,
    filter: narrow(`${at}filter`, filter, rights.within("read", namespace)),
    start: parseStart(at, start),
    stop,
    progressIntervalMs: progressInterval(at, request, limits),
    allowMissing: request.allowMissing,
    journalId: request.journalId,
  };
}

function parseStart(at: string, start: SubscribeRequest["start"]): Start {
  switch (start.case) {
    case "fromNow":
      if (start.value) return { t: "now" };
      throw invalidField(`${at}from_now`, "must be true: leave it out to start at the beginning");
    case "lastCount":
      if (start.value <= maxLastCount) return { t: "last", count: start.value };
      throw invalidField(`${at}last_count`, `must be at most ${maxLastCount}`, maxLastCount);
    case "fromTime": {
      const { seconds, nanos } = start.value;
      // Up, since earlier ones are not wanted.
      return { t: "from", timeMs: Number(seconds) * 1_000 + Math.ceil(nanos / 1_000_000) };
    }
    case "afterSeq":
      return { t: "after", seq: checkPlace(`${at}after_seq`, start.value) };
    default:
      return { t: "after", seq: 0 };
  }
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
