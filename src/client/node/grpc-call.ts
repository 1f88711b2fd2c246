/**
 * Streaming calls over gRPC as bytes, as many messages at a time as have
 * arrived: Connect's own streams make several promises and copies for each.
 */
import { type ClientHttp2Stream, constants } from "node:http2";
import type { DescMethodStreaming } from "@bufbuild/protobuf";
import { Code, ConnectError } from "@connectrpc/connect";
import { createMethodUrl } from "@connectrpc/connect/protocol";
import { validateResponse, validateTrailer } from "@connectrpc/connect/protocol-grpc";
import { createNodeHttpClient, type NodeHttpClientOptions } from "@connectrpc/connect-node";
import { EnvelopeError, EnvelopeReader } from "../../wire/envelope.ts";
import { ReceiveLimitError } from "../errors.ts";
import { orAbort } from "../or-abort.ts";

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

/** Bytes of messages that nobody has taken before the server is made to wait. */
const maxWaitingBytes = 1024 * 1024;

/**
 * @param baseUrl the server's
 * @param readMaxBytes of one message
 */
export function grpcCallTo(baseUrl: string, sessions: Sessions, readMaxBytes: number): GrpcCall {
  return async (method, request) => {
    let stream: ClientHttp2Stream | undefined;
    const { authority } = sessions;
    const notifyResponseByteRead = (read: ClientHttp2Stream) =>
      sessions.notifyResponseByteRead(read);
    const sessionProvider = () => ({
      authority,
      notifyResponseByteRead,
      async request(...asked: Parameters<typeof sessions.request>) {
        const asking = sessions.request(...asked);
        try {
          stream = await orAbort(asking, request.signal);
        } catch (error) {
          // It may still come, and nobody would read it.
          asking.then((late) => late.close(constants.NGHTTP2_CANCEL)).catch(() => undefined);
          throw error;
        }
        return stream;
      },
    });
    const send = createNodeHttpClient({ httpVersion: "2", sessionProvider });
    const url = createMethodUrl(baseUrl, method);
    const { status, header, trailer, body } = await send({ url, method: "POST", ...request });
    const { foundStatus, headerError } = validateResponse(status, header);
    if (headerError !== undefined) throw headerError;
    const reader = new EnvelopeReader(readMaxBytes);
    const arriving = messagesOf(stream!, reader, request.signal, notifyResponseByteRead);
    async function* messages() {
      yield* arriving;
      // Nothing is left of it but how it ended.
      for await (const chunk of body) throw new Error(`${chunk.length} bytes behind the end`);
      if (reader.isInside) {
        throw new ConnectError("protocol error: incomplete envelope", Code.InvalidArgument);
      }
      if (!foundStatus) validateTrailer(trailer, header);
    }
    return { header, trailer, messages: messages() };
  };
}

/**
 * Takes messages out of a stream as they arrive, from now on, until it has
 * ended, however that is, or the signal aborts.
 */
function messagesOf(
  stream: ClientHttp2Stream,
  reader: EnvelopeReader,
  signal: AbortSignal,
  onRead: (stream: ClientHttp2Stream) => void,
): AsyncGenerator<readonly Uint8Array[]> {
  let waiting: Uint8Array[] = [];
  let waitingBytes = 0;
  let isOver = stream.destroyed || signal.aborted;
  let failure: ConnectError | undefined;
  let wake: () => void = () => undefined;
  const onData = (chunk: Uint8Array) => {
    try {
      reader.take(chunk, waiting);
    } catch (error) {
      // Those before it come first.
      failure = toConnectError(error);
      stream.off("data", onData);
    }
    waitingBytes += chunk.length;
    if (waitingBytes > maxWaitingBytes && waiting.length > 0) stream.pause();
    if (waiting.length > 0 || failure !== undefined) wake();
  };
  const onOver = () => {
    isOver = true;
    wake();
  };
  const leave = () => {
    stream.off("data", onData).off("end", onOver).off("close", onOver);
    signal.removeEventListener("abort", onAbort);
    // A stream that is not read to its end is never given up by its connection.
    stream.resume();
  };
  // Not once it is closed: closing waits for writes under way.
  const onAbort = () => {
    waiting = [];
    leave();
    onOver();
  };
  stream.on("data", onData).on("end", onOver).on("close", onOver);
  signal.addEventListener("abort", onAbort);
  return (async function* () {
    try {
      for (;;) {
        if (waiting.length === 0) {
          if (failure !== undefined) throw failure;
          if (isOver) return;
          await new Promise<void>((resolve) => {
            wake = resolve;
          });
          continue;
        }
        const taken = waiting;
        waiting = [];
        waitingBytes = 0;
        if (stream.isPaused()) stream.resume();
        onRead(stream);
        yield taken;
      }
    } finally {
      leave();
      if (!isOver) stream.close(constants.NGHTTP2_CANCEL);
    }
  })();
}

function toConnectError(error: unknown): ConnectError {
  if (!(error instanceof EnvelopeError)) return ConnectError.from(error);
  if (error.problem === "compressed") return new ConnectError(error.message, Code.Internal);
  const cause = new ReceiveLimitError(error.message);
  return new ConnectError(error.message, Code.ResourceExhausted, undefined, undefined, cause);
}

/** Decodes a message; says of one that is none what Connect does: perhaps a proxy's doing, so not the end. */
export function decodeBy<T>(decode: (message: Uint8Array) => T, message: Uint8Array): T {
  try {
    return decode(message);
  } catch (error) {
    throw ConnectError.from(error, Code.Internal);
  }
}
