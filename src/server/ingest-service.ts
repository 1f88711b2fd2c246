/** IngestService over the domain. */
import type { HandlerContext, ServiceImpl } from "@connectrpc/connect";
import { Code, ConnectError } from "@connectrpc/connect";
import type { IngestResponse, IngestService } from "../../gen/runlog/v1/ingest_pb.js";
import { type AppendEventsBytes, appendWindow } from "../ingest/append-window.ts";
import { type IngestRequestBytes, IngestStream } from "../ingest/ingest-stream.ts";
import { RefusedError } from "../journal/refusal.ts";
import { toConnectError } from "./errors.ts";
import {
  asIngestBytes,
  asWindowBytes,
  type IngestBytesService,
  toIngestBytes,
  toWindowBytes,
} from "./ingest-bytes.ts";
import { goAwayReason, toIngestLimits, toIngestResponse } from "./messages.ts";
import { drainingOf, type ServiceContext, unary } from "./service-context.ts";

/** Implements IngestService, for requests in JSON. */
export function ingestService(context: ServiceContext): ServiceImpl<typeof IngestService> {
  return {
    ingest: (requests, call) => ingest(context, toIngestBytes(requests), call),
    appendEvents: unary(context, (request) => appendEvents(context, toWindowBytes(request))),
  };
}

/** Implements IngestBytesService. */
export function ingestBytesService(
  context: ServiceContext,
): ServiceImpl<typeof IngestBytesService> {
  return {
    ingest: (requests, call) => ingest(context, asIngestBytes(requests), call),
    appendEvents: unary(context, (request) => appendEvents(context, asWindowBytes(request))),
  };
}

async function appendEvents({ committer, limits }: ServiceContext, request: AppendEventsBytes) {
  const window = await appendWindow(committer, limits, request);
  return {
    epoch: BigInt(window.epoch),
    lastRunSeq: BigInt(window.lastRunSeq),
    seq: BigInt(window.seq),
    cancelRequested: window.cancelRequested,
    limits: toIngestLimits(limits),
  };
}

async function* ingest(
  context: ServiceContext,
  requests: AsyncIterable<IngestRequestBytes>,
  call: HandlerContext,
): AsyncGenerator<IngestResponse> {
  const { committer, limits, onUnexpected } = context;
  const draining = drainingOf(context, call);
  const stream = new IngestStream({ committer, limits });
  const onAbort = () => stream.fail(ConnectError.from(call.signal.reason, Code.Canceled));
  call.signal.addEventListener("abort", onAbort);
  const notDraining = draining.onStart(() => stream.goAway(goAwayReason));
  const notEnding = draining.onDeadline(() =>
    stream.fail(new RefusedError({ reason: "draining" })),
  );
  try {
    for await (const frames of stream.run(typed(requests, limits.maxMessageBytes))) {
      for (const frame of frames) yield toIngestResponse(frame, limits);
    }
  } catch (error) {
    throw toConnectError(error, onUnexpected);
  } finally {
    call.signal.removeEventListener("abort", onAbort);
    notDraining();
    notEnding();
  }
}

/** Gives the error for a message over the limit, which is Connect's own, our detail. */
async function* typed(
  requests: AsyncIterable<IngestRequestBytes>,
  limit: number,
): AsyncGenerator<IngestRequestBytes> {
  try {
    yield* requests;
  } catch (error) {
    if (!(error instanceof ConnectError) || error.code !== Code.ResourceExhausted) throw error;
    throw new RefusedError({ reason: "too_large", field: "frame", limit });
  }
}
