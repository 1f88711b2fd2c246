/**
 * Ends requests whose answer is over before they are: with RST_STREAM and
 * NO_ERROR behind the answer (RFC 9113, section 8.1), as gRPC servers do.
 *
 * Not at once: what a client has sent meanwhile would come for a stream that is
 * closed, and nghttp2 ends the whole connection for a thousand such frames. Most
 * clients stop by themselves when they have the trailers.
 */
import { constants, type ServerHttp2Stream } from "node:http2";
import { startTimer } from "../../timers.ts";

/** Milliseconds for a client to stop by itself; what it sends meanwhile is read and thrown away. */
const graceMs = 500;

/** Ends the request of an answer that is ended, unless it ends by itself. */
export function endRequest(stream: ServerHttp2Stream): void {
  if (stream.destroyed || stream.readableEnded) return;
  const timer = startTimer(() => {
    if (!stream.destroyed && !stream.readableEnded) stream.close(constants.NGHTTP2_NO_ERROR);
  }, graceMs);
  stream.once("close", () => clearTimeout(timer));
}
