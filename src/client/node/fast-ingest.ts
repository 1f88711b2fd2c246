/**
 * Ingest over gRPC with many frames to a write: Connect's own streams make
 * promises and a write for each message, which is most of what a small Append
 * costs a client.
 */
import { Code, ConnectError } from "@connectrpc/connect";
import {
  requestHeader,
  validateResponse,
  validateTrailer,
} from "@connectrpc/connect/protocol-grpc";
import { createNodeHttpClient, type NodeHttpClientOptions } from "@connectrpc/connect-node";
import { type IngestResponse, IngestService } from "../../../gen/runlog/v1/ingest_pb.js";
import { EnvelopeReader, envelopTogether } from "../../envelopes.ts";
import { decodeIngestResponse } from "../decode.ts";
import { appendMessage } from "../encode.ts";
import type { IngestMethod, RequestFrame } from "../ingest-transport.ts";

/** How a server is reached: HTTP/2 on connections that others use too. */
type Sessions = ReturnType<
  NonNullable<Extract<NodeHttpClientOptions, { httpVersion: "2" }>["sessionProvider"]>
>;

const path = `/${IngestService.typeName}/${IngestService.method.ingest.name}`;

/**
 * @param baseUrl the server's
 * @param readMaxBytes of one message
 */
export function fastIngest(
  baseUrl: string,
  sessions: Sessions,
  readMaxBytes: number,
): IngestMethod {
  const request = createNodeHttpClient({ httpVersion: "2", sessionProvider: () => sessions });
  const url = `${baseUrl.replace(/\/+$/, "")}${path}`;
  return async function* ingest(requests, signal): AsyncGenerator<readonly IngestResponse[]> {
    const header = requestHeader(true, undefined, undefined);
    const body = encoded(requests);
    const response = await request({ url, method: "POST", header, body, signal });
    const { foundStatus, headerError } = validateResponse(response.status, response.header);
    if (headerError !== undefined) throw headerError;
    const reader = new EnvelopeReader(readMaxBytes);
    for await (const chunk of response.body) {
      const messages: Uint8Array[] = [];
      reader.take(chunk, messages);
      if (messages.length > 0) yield messages.map(decode);
    }
    if (!foundStatus) validateTrailer(response.trailer, response.header);
  };
}

function decode(message: Uint8Array): IngestResponse {
  try {
    return decodeIngestResponse(message);
  } catch (error) {
    // As Connect says it: perhaps a proxy's doing, so not the end.
    throw ConnectError.from(error, Code.Internal);
  }
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
