/**
 * Streaming calls over gRPC as bytes, as many messages at a time as have
 * arrived: Connect's own streams make several promises and copies for each.
 */
import type { DescMethodStreaming } from "@bufbuild/protobuf";
import { Code, ConnectError } from "@connectrpc/connect";
import { createMethodUrl } from "@connectrpc/connect/protocol";
import { validateResponse, validateTrailer } from "@connectrpc/connect/protocol-grpc";
import { createNodeHttpClient, type NodeHttpClientOptions } from "@connectrpc/connect-node";
import { EnvelopeReader } from "../../envelopes.ts";

/** How a server is reached: HTTP/2 on connections that others use too. */
type Sessions = ReturnType<
  NonNullable<Extract<NodeHttpClientOptions, { httpVersion: "2" }>["sessionProvider"]>
>;

/** What is sent. */
export interface GrpcRequest {
  readonly header: Headers;
  /** Messages in their envelopes. */
  readonly body: AsyncIterable<Uint8Array>;
  readonly signal: AbortSignal;
}

/** What comes; the trailer is there once the messages have ended. */
export interface GrpcResponse {
  readonly header: Headers;
  readonly trailer: Headers;
  /** Ends with ConnectError where the call does not end with OK. */
  readonly messages: AsyncIterable<readonly Uint8Array[]>;
}

/** Makes a call; rejects with ConnectError where the answer's headers say that it failed. */
export type GrpcCall = (method: DescMethodStreaming, request: GrpcRequest) => Promise<GrpcResponse>;

/**
 * @param baseUrl the server's
 * @param readMaxBytes of one message
 */
export function grpcCallTo(baseUrl: string, sessions: Sessions, readMaxBytes: number): GrpcCall {
  const send = createNodeHttpClient({ httpVersion: "2", sessionProvider: () => sessions });
  return async (method, request) => {
    const url = createMethodUrl(baseUrl, method);
    const { status, header, trailer, body } = await send({ url, method: "POST", ...request });
    const { foundStatus, headerError } = validateResponse(status, header);
    if (headerError !== undefined) throw headerError;
    async function* messages() {
      const reader = new EnvelopeReader(readMaxBytes);
      for await (const chunk of body) {
        const complete: Uint8Array[] = [];
        reader.take(chunk, complete);
        if (complete.length > 0) yield complete;
      }
      if (!foundStatus) validateTrailer(trailer, header);
    }
    return { header, trailer, messages: messages() };
  };
}

/** Decodes a message; says of one that is none what Connect does: perhaps a proxy's doing, so not the end. */
export function decodeBy<T>(decode: (message: Uint8Array) => T, message: Uint8Array): T {
  try {
    return decode(message);
  } catch (error) {
    throw ConnectError.from(error, Code.Internal);
  }
}
