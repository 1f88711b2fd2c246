/** IngestService over the engine. */
import type { HandlerContext, ServiceImpl } from "@connectrpc/connect";
import { Code, ConnectError } from "@connectrpc/connect";
import { ErrorDetailSchema } from "../../gen/runlog/v1/error_pb.js";
import { type IngestResponse, IngestService } from "../../gen/runlog/v1/ingest_pb.js";
import { type AppendEventsBytes, appendWindow } from "../ingest/append-window.ts";
import type { IngestFrame, IngestRequestBytes } from "../ingest/frames.ts";
import { IngestStream } from "../ingest/ingest-stream.ts";
import { RefusedError } from "../refusal.ts";
import { checkNamespace } from "../validate.ts";
import { type Caller, callerOf } from "./auth/caller.ts";
import { toConnectError } from "./errors.ts";
import type { GrpcStream, StreamCall } from "./http/grpc-handler.ts";
import { asIngestBytes, asWindowBytes, parseIngestBytes } from "./ingest-bytes.ts";
import { encodeFrames } from "./ingest-frames.ts";
import { goAwayReason, toIngestLimits, toIngestResponse } from "./messages.ts";
import { drainingOf, type ServiceContext, unary } from "./service-context.ts";
import { countStream } from "./stream-ending.ts";

/** Implements IngestService; its events come as bytes, whatever the protocol. */
export function ingestService(context: ServiceContext): ServiceImpl<typeof IngestService> {
  return {
    ingest: (requests, call) => ingest(context, asIngestBytes(requests), call),
    appendEvents: unary(context, (request, signal, caller) =>
      appendEvents(context, asWindowBytes(request), signal, caller),
    ),
  };
}

async function appendEvents(
  context: ServiceContext,
  request: AppendEventsBytes,
  signal: AbortSignal,
  { rights, usage }: Caller,
) {
  const within = rights.within("ingest", checkNamespace("namespace", request.namespace));
  const window = await appendWindow({ ...context, usage }, request, signal, within);
  return {
    epoch: BigInt(window.epoch),
    lastRunSeq: BigInt(window.lastRunSeq),
    seq: BigInt(window.seq),
    cancelRequested: window.cancelRequested,
    limits: toIngestLimits(context.limits),
    handledSignalSeq: BigInt(window.handledSignalSeq),
    lastSignalSeq: BigInt(window.lastSignalSeq),
  };
}

async function* ingest(
  context: ServiceContext,
  requests: AsyncIterable<readonly IngestRequestBytes[]>,
  call: HandlerContext,
): AsyncGenerator<IngestResponse> {
  for await (const frames of ingestFrames(context, requests, call)) {
    for (const frame of frames) yield toIngestResponse(frame, context.limits);
  }
}

/** Ingest as bytes, for plain gRPC. */
export function ingestGrpc(context: ServiceContext): GrpcStream {
  return {
    method: IngestService.method.ingest,
    async *serve(requests, call) {
      for await (const frames of ingestFrames(context, parsed(requests), call)) {
        yield [encodeFrames(frames, context.limits)];
      }
    },
  };
}

async function* parsed(
  batches: AsyncIterable<readonly Uint8Array[]>,
): AsyncGenerator<readonly IngestRequestBytes[]> {
  for await (const messages of batches) {
    const frames: IngestRequestBytes[] = [];
    let failure: RefusedError | undefined;
    try {
      for (const message of messages) frames.push(parseIngestBytes(message));
    } catch (error) {
      if (!(error instanceof RefusedError)) throw error;
      failure = error;
    }
    // Those before the one that is none were sent, and are taken.
    if (frames.length > 0) yield frames;
    if (failure !== undefined) throw failure;
  }
}

async function* ingestFrames(
  context: ServiceContext,
  requests: AsyncIterable<readonly IngestRequestBytes[]>,
  call: StreamCall,
): AsyncGenerator<readonly IngestFrame[]> {
  const { limits, onUnexpected } = context;
  const draining = drainingOf(context, call);
  const caller = callerOf(call);
  const withinOf = (namespace: string) => caller.rights.within("ingest", namespace);
  const { usage, end } = countStream(context, call);
  const stream = new IngestStream({ ...context, withinOf, usage });
  const onAbort = () => stream.fail(ConnectError.from(call.signal.reason, Code.Canceled));
  call.signal.addEventListener("abort", onAbort);
  const notDraining = draining.onStart(() => stream.goAway(goAwayReason));
  const notEnding = draining.onDeadline(() =>
    stream.fail(new RefusedError({ reason: "draining" })),
  );
  const notExpiring = caller.onEnd((error) => stream.fail(error));
  try {
    yield* stream.run(typed(requests, limits.maxMessageBytes));
  } catch (error) {
    throw toConnectError(error, onUnexpected);
  } finally {
    call.signal.removeEventListener("abort", onAbort);
    notDraining();
    notEnding();
    notExpiring();
    end();
  }
}

/** Gives the error for a message over the limit, which is Connect's own, our detail. */
async function* typed(
  requests: AsyncIterable<readonly IngestRequestBytes[]>,
  limit: number,
): AsyncGenerator<readonly IngestRequestBytes[]> {
  try {
    yield* requests;
  } catch (error) {
    if (!(error instanceof ConnectError) || error.code !== Code.ResourceExhausted) throw error;
    // One of ours, which says more.
    if (error.findDetails(ErrorDetailSchema).length > 0) throw error;
    throw new RefusedError({ reason: "too_large", field: "frame", limit });
  }
}
