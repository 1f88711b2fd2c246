/**
 * Answers the hot streams where they come as plain gRPC: uncompressed, in
 * Protobuf's binary encoding, over HTTP/2. They are read and written a batch at
 * a time, as bytes. Connect's own handler, which answers everything else, has
 * several promises and copies for each message.
 */
import type { DescMethodStreaming } from "@bufbuild/protobuf";
import { Code, ConnectError, createHandlerContext, type HandlerContext } from "@connectrpc/connect";
import type { UniversalServerRequest, UniversalServerResponse } from "@connectrpc/connect/protocol";
import { parseTimeout, setTrailerStatus } from "@connectrpc/connect/protocol-grpc";

/** A streaming method as bytes. */
export interface GrpcStream {
  readonly method: DescMethodStreaming;
  /**
   * @param requests messages, all that have arrived at once
   * @returns messages in their envelopes, as many at once as there are
   * @throws ConnectError
   */
  readonly serve: (
    requests: AsyncIterable<readonly Uint8Array[]>,
    call: HandlerContext,
  ) => AsyncIterable<Uint8Array>;
}

const contentTypes = /^application\/grpc(\+proto)?$/;

/** Whether a request is as the head of this file says. */
export function isPlainGrpc(
  headers: Readonly<Record<string, string | string[] | undefined>>,
): boolean {
  const { "content-type": type, "grpc-encoding": encoding } = headers;
  return (
    typeof type === "string" &&
    contentTypes.test(type) &&
    (encoding === undefined || encoding === "identity")
  );
}

/** Answers a request. Never rejects: what goes wrong is told in the trailers. */
export function answerGrpc(
  { method, serve }: GrpcStream,
  request: UniversalServerRequest,
  requests: AsyncIterable<readonly Uint8Array[]>,
): UniversalServerResponse {
  const timeout = parseTimeout(request.header.get("grpc-timeout"), Number.POSITIVE_INFINITY);
  const call = createHandlerContext({
    service: method.parent,
    method,
    protocolName: "grpc",
    requestMethod: request.method,
    url: request.url,
    requestSignal: request.signal,
    requestHeader: request.header,
    responseHeader: { "content-type": request.header.get("content-type")! },
    responseTrailer: { "grpc-status": "0" },
    ...(timeout.timeoutMs !== undefined && { timeoutMs: timeout.timeoutMs }),
    ...(request.contextValues && { contextValues: request.contextValues }),
  });
  return {
    status: 200,
    header: call.responseHeader,
    trailer: call.responseTrailer,
    body: body(),
  };

  async function* body(): AsyncGenerator<Uint8Array> {
    try {
      if (timeout.error !== undefined) throw timeout.error;
      yield* serve(requests, call);
      call.abort();
    } catch (error) {
      call.abort(error);
      setTrailerStatus(call.responseTrailer, ConnectError.from(error, Code.Internal));
    } finally {
      // The client has gone where neither was reached.
      call.abort();
    }
  }
}
