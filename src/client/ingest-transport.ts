/**
 * How Ingest is called: many frames at a time where the transport can, one
 * after the other where it is any Connect transport.
 */
import { create, fromBinary, type MessageInitShape, toBinary } from "@bufbuild/protobuf";
import { ConnectError, createClient, type Transport } from "@connectrpc/connect";
import { EventSchema } from "../../gen/runlog/v1/event_pb.js";
import {
  type IngestRequest,
  IngestRequestSchema,
  type IngestResponse,
  IngestService,
} from "../../gen/runlog/v1/ingest_pb.js";
import type { EncodedAppend } from "../wire/append.ts";

/** A frame that is no Append. */
export interface MessageFrame {
  readonly t: "message";
  readonly message: IngestRequest;
  readonly encoded: Uint8Array;
}

/** A frame for the server. */
export type RequestFrame =
  | { readonly t: "append"; readonly append: EncodedAppend; readonly bytes: number }
  | MessageFrame;

/** A call, made with what is sent; it ends with ConnectError where it fails, or once the signal aborts. */
export type IngestMethod = (
  requests: AsyncIterable<readonly RequestFrame[]>,
  signal: AbortSignal,
  header?: Headers,
) => AsyncIterable<readonly IngestResponse[]>;

/** A transport that carries the frames of an Ingest call many at a time. */
export interface IngestTransport extends Transport {
  /** Nodes that its calls can go to: after a failure it takes the next. Unset: one. */
  readonly nodeCount?: number;
  readonly ingest: IngestMethod;
}

/** Throws where it cannot be encoded. */
export function messageFrame(
  frame: MessageInitShape<typeof IngestRequestSchema>["frame"] & {},
): MessageFrame {
  const message = create(IngestRequestSchema, { frame });
  return { t: "message", message, encoded: toBinary(IngestRequestSchema, message) };
}

/** How many nodes the calls of a transport can go to. */
export function nodeCountOf(transport: Transport): number {
  return (transport as Partial<IngestTransport>).nodeCount ?? 1;
}

/** Calls Ingest as the transport does it best. */
export function ingestMethodOf(transport: Transport): IngestMethod {
  if ("ingest" in transport) return (transport as IngestTransport).ingest;
  return (requests, signal) => ingestByConnect(transport, requests, signal);
}

async function* ingestByConnect(
  transport: Transport,
  requests: AsyncIterable<readonly RequestFrame[]>,
  signal: AbortSignal,
): AsyncGenerator<readonly IngestResponse[]> {
  const { ingest } = createClient(IngestService, transport);
  try {
    for await (const response of ingest(messages(requests), { signal, timeoutMs: 0 })) {
      yield [response];
    }
  } catch (error) {
    // Transports over fetch throw a text before anything is sent; what fails on the way is an Error.
    const thrown = error instanceof ConnectError ? error.cause : error;
    if (typeof thrown === "string") {
      const problem = `this transport cannot carry Ingest (${thrown})`;
      throw new TypeError(`${problem}: use AppendEvents, or a transport over HTTP/2`);
    }
    throw error;
  }
}

async function* messages(
  batches: AsyncIterable<readonly RequestFrame[]>,
): AsyncGenerator<IngestRequest> {
  for await (const frames of batches) {
    for (const frame of frames) {
      yield frame.t === "message" ? frame.message : messageOf(frame.append);
    }
  }
}

function messageOf(append: EncodedAppend): IngestRequest {
  const { runId, firstRunSeq, events, handledSignalSeq } = append;
  const value = {
    runId,
    firstRunSeq: BigInt(firstRunSeq),
    events: events.map((event) => fromBinary(EventSchema, event)),
    handledSignalSeq: BigInt(handledSignalSeq),
  };
  return create(IngestRequestSchema, { frame: { case: "append", value } });
}
