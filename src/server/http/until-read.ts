/** Waiting for a client that does not read, at the cost of memory that others may need. */
import type { ServerResponse } from "node:http";
import { constants, type ServerHttp2Stream } from "node:http2";
import type { MemoryShare } from "../../memory-budget.ts";

/**
 * Waits until the client has read the response so far, or has disconnected. Where others need the
 * memory, one that has not read for long is cut: its trailers would wait behind what it
 * does not read.
 *
 * @param stream of which `write` has said that it takes no more for now
 */
export async function untilRead(
  stream: ServerHttp2Stream | ServerResponse,
  frames: MemoryShare,
): Promise<void> {
  const hold = frames.hold(() => {
    if ("rstCode" in stream) stream.close(constants.NGHTTP2_ENHANCE_YOUR_CALM);
    else stream.destroy();
  });
  hold.set(stream.writableLength);
  try {
    await drained(stream);
  } finally {
    hold.release();
  }
}

function drained(stream: ServerHttp2Stream | ServerResponse): Promise<void> {
  return new Promise((resolve) => {
    const done = () => {
      stream.off("drain", done);
      stream.off("close", done);
      resolve();
    };
    stream.on("drain", done);
    stream.on("close", done);
  });
}
