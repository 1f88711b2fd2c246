/**
 * Writes what Connect's handlers answer. connect-node has this too, but it waits for ever
 * where a client goes away that has not read what it was sent, and with it whatever the
 * answer holds.
 */
import type { ServerResponse } from "node:http";
import type { ServerHttp2Stream } from "node:http2";
import type { UniversalServerResponse } from "@connectrpc/connect/protocol";
import type { MemoryShare } from "../../memory-budget.ts";
import { endRequest } from "./half-close.ts";
import type { PortResponse } from "./port.ts";
import { untilRead } from "./until-read.ts";

/**
 * Writes an answer as fast as its client reads; resolves when all of it is
 * written, or the client has disconnected.
 *
 * @param frames the memory share for bytes that the client has not read
 * @throws what the answer's body throws
 */
export async function writeResponse(
  { status, header, body, trailer }: UniversalServerResponse,
  response: PortResponse,
  frames: MemoryShare,
): Promise<void> {
  const stream = "stream" in response ? (response.stream as ServerHttp2Stream) : response;
  // `close` follows, and aborts the call.
  stream.on("error", ignore);
  const pieces = body?.[Symbol.asyncIterator]();
  // The headers are the handler's to set until it has made the first piece.
  const writeHead = () => {
    if (!response.headersSent) response.writeHead(status, toNodeHeaders(header));
  };
  try {
    for (;;) {
      const piece = await pieces?.next();
      if (stream.destroyed) return;
      writeHead();
      if (piece === undefined || piece.done === true) break;
      if (!(response as ServerResponse).write(piece.value)) await untilRead(stream, frames);
    }
    if (trailer !== undefined) response.addTrailers(toNodeHeaders(trailer));
    if ("rstCode" in stream) endRequest(stream);
    response.end();
  } finally {
    pieces?.return?.().catch(ignore);
  }
}

function toNodeHeaders(headers: Headers | undefined): Record<string, string> {
  return Object.fromEntries(headers ?? []);
}

function ignore(): void {}
