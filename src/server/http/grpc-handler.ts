/**
 * Answers the hot streams where they come as plain gRPC: uncompressed, in
 * Protobuf's binary encoding, over HTTP/2. They are read and written a batch at
 * a time, as bytes. Connect's own handler, which answers everything else, has
 * several promises and copies for each message, and takes more memory for each
 * stream.
 */
import type { IncomingHttpHeaders, ServerHttp2Stream } from "node:http2";
import type { DescMethodStreaming } from "@bufbuild/protobuf";
import { Code, ConnectError, type HandlerContext } from "@connectrpc/connect";
import { parseTimeout, setTrailerStatus } from "@connectrpc/connect/protocol-grpc";
import type { MemoryShare } from "../../memory-budget.ts";
import { longestTimerMs, startTimer } from "../../timers.ts";
import type { Admission, Handling } from "../service-context.ts";
import { percentEncode } from "./grpc-message.ts";
import { messageBatches, type RequestBounds } from "./grpc-requests.ts";
import { endRequest } from "./half-close.ts";
import { peerOf } from "./peer.ts";
import type { StreamHandler } from "./port.ts";
import { untilRead } from "./until-read.ts";

/** What a stream knows of its call. */
export type StreamCall = Pick<HandlerContext, "signal" | "values">;

/** A streaming method as bytes. */
export interface GrpcStream {
  readonly method: DescMethodStreaming;
  /**
   * @param requests messages, all that have arrived at once
   * @returns messages in their envelopes, as many at once as there are, in pieces
   * @throws ConnectError
   */
  readonly serve: (
    requests: AsyncIterable<readonly Uint8Array[]>,
    call: StreamCall,
  ) => AsyncIterable<readonly Uint8Array[]>;
}

const contentTypes = /^application\/grpc(\+proto)?$/;

/** What is kept of a request's headers while its stream is open. */
interface PlainGrpc {
  readonly contentType: string;
  readonly timeout: string | undefined;
}

/** What is answered, and how. */
export interface GrpcHandlerOptions extends Handling {
  readonly streams: readonly GrpcStream[];
  readonly bounds: RequestBounds;
  /** For answers that are not read. */
  readonly frames: MemoryShare;
}

/** Makes the handler. It answers the hot streams that come as plain gRPC, and leaves the rest to Connect. */
export function grpcHandler(options: GrpcHandlerOptions): StreamHandler {
  const { contextValues, admit, onFailure } = options;
  const streams = new Map(
    options.streams.map((one) => [`/${one.method.parent.typeName}/${one.method.name}`, one]),
  );
  return (stream, headers) => {
    const path = headers[":path"]?.split("?", 1)[0] ?? "";
    const method = streams.get(path);
    if (method === undefined) return false;
    const asked = plainGrpcOf(headers);
    if (asked === undefined) return false;
    const values = contextValues(stream.session);
    const admission = admit(method.method, headers, values, peerOf(stream));
    answer(method, stream, { ...asked, admission }, values, options).catch((error: unknown) => {
      onFailure(path, error);
    });
    return true;
  };
}

/** Reads a request's headers; undefined where it is not plain gRPC. */
function plainGrpcOf(headers: IncomingHttpHeaders): PlainGrpc | undefined {
  const { ":method": method, "content-type": contentType, "grpc-encoding": encoding } = headers;
  const isPlain =
    method === "POST" &&
    contentType !== undefined &&
    contentTypes.test(contentType) &&
    (encoding === undefined || encoding === "identity") &&
    // Node answers that where it makes a request of the stream.
    headers.expect === undefined &&
    // A page needs more headers: `cors.ts`.
    headers.origin === undefined;
  if (!isPlain) return undefined;
  const { "grpc-timeout": timeout } = headers;
  return { contentType, timeout: typeof timeout === "string" ? timeout : undefined };
}

/** Answers a request. The trailers carry errors; rejects where they cannot be sent. */
async function answer(
  { serve }: GrpcStream,
  stream: ServerHttp2Stream,
  { contentType, timeout, admission }: PlainGrpc & { readonly admission: Admission },
  values: HandlerContext["values"],
  { bounds, frames }: Pick<GrpcHandlerOptions, "bounds" | "frames">,
): Promise<void> {
  const abort = new AbortController();
  const onClose = () => abort.abort(new ConnectError("the client ended the call", Code.Canceled));
  stream.once("close", onClose);
  // `close` follows, and aborts the call.
  stream.on("error", () => undefined);
  const deadline = startDeadline(timeout, abort);
  let failure: ConnectError | undefined;
  try {
    // At once: a client may wait for them before it sends anything.
    stream.respond({ ":status": 200, "content-type": contentType }, { waitForTrailers: true });
    const refusal = admission === undefined ? undefined : await admission;
    if (refusal !== undefined) throw refusal;
    if (deadline.error !== undefined) throw deadline.error;
    const call: StreamCall = { signal: abort.signal, values };
    for await (const pieces of serve(messageBatches(stream, bounds), call)) {
      if (stream.destroyed) return;
      if (!writeAll(stream, pieces)) await untilRead(stream, frames);
    }
  } catch (error) {
    failure = ConnectError.from(error, Code.Internal);
  } finally {
    clearTimeout(deadline.timer);
    stream.off("close", onClose);
  }
  if (stream.destroyed) return;
  const trailers = trailersOf(failure);
  stream.once("wantTrailers", () => {
    // In time for the client's leaving, and for nothing else.
    if (!stream.destroyed) stream.sendTrailers(trailers);
  });
  endRequest(stream);
  stream.end();
}

function startDeadline(
  asked: string | undefined,
  abort: AbortController,
): { readonly error?: ConnectError; readonly timer?: NodeJS.Timeout } {
  if (asked === undefined) return {};
  const { timeoutMs, error } = parseTimeout(asked, Number.POSITIVE_INFINITY);
  if (error !== undefined) return { error };
  if (timeoutMs === undefined || timeoutMs > longestTimerMs) return {};
  const problem = new ConnectError("the operation timed out", Code.DeadlineExceeded);
  return { timer: startTimer(() => abort.abort(problem), timeoutMs) };
}

/** Writes pieces in one go; whether more can be written now. */
function writeAll(stream: ServerHttp2Stream, pieces: readonly Uint8Array[]): boolean {
  const [only] = pieces;
  if (only !== undefined && pieces.length === 1) return stream.write(only);
  stream.cork();
  let takesMore = true;
  for (const piece of pieces) takesMore = stream.write(piece);
  stream.uncork();
  return takesMore;
}

function trailersOf(failure: ConnectError | undefined): Record<string, string> {
  if (failure === undefined) return { "grpc-status": "0" };
  const headers = new Headers();
  setTrailerStatus(headers, failure);
  const trailers = Object.fromEntries(headers);
  return { ...trailers, "grpc-message": percentEncode(failure.rawMessage) };
}
