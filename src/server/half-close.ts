/**
 * Ends requests whose answer is over before they are: with RST_STREAM and
 * NO_ERROR behind the answer (RFC 9113, section 8.1), as gRPC servers do. Their
 * clients would otherwise send on what nobody reads.
 */
import { constants, type ServerHttp2Stream } from "node:http2";

/** Ends the request once the answer's trailers have left. Call it before the answer is ended. */
export function endRequestAfter(stream: ServerHttp2Stream): void {
  // Node sends trailers in the next turn after it has asked for them, and says that the stream
  // has finished before; to close it there would drop them.
  stream.once("wantTrailers", () => setImmediate(endRequest, stream));
}

/** Ends the request of an answer that has left, unless it has ended by itself. */
export function endRequest(stream: ServerHttp2Stream): void {
  if (stream.destroyed || stream.readableEnded) return;
  stream.close(constants.NGHTTP2_NO_ERROR);
}
