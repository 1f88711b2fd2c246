/**
 * Ingest over gRPC with many frames to a write: a write for each is most of what
 * a small Append costs a client.
 */
import { requestHeader } from "@connectrpc/connect/protocol-grpc";
import { type IngestResponse, IngestService } from "../../../gen/runlog/v1/ingest_pb.js";
import { decodeIngestResponse } from "../../wire/ack.ts";
import { appendMessage } from "../../wire/append.ts";
import { envelopTogether } from "../../wire/envelope.ts";
import type { IngestMethod, RequestFrame } from "../ingest-transport.ts";
import { decodeBy, type GrpcCall } from "./grpc-call.ts";

/** Ingest by such calls. */
export function fastIngest(call: GrpcCall): IngestMethod {
  return async function* ingest(
    requests,
    signal,
    given,
  ): AsyncGenerator<readonly IngestResponse[]> {
    const header = requestHeader(true, undefined, given);
    const body = encoded(requests);
    const { messages } = await call(IngestService.method.ingest, { header, body, signal });
    for await (const some of messages) {
      yield some.map((message) => decodeBy(decodeIngestResponse, message));
    }
  };
}

async function* encoded(
  batches: AsyncIterable<readonly RequestFrame[]>,
): AsyncGenerator<Uint8Array> {
  for await (const frames of batches) {
    yield envelopTogether(
      frames.map((frame) => (frame.t === "append" ? appendMessage(frame.append) : frame.encoded)),
    );
  }
}
