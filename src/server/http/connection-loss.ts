/**
 * Tells a client that went away from a fault of the server: the first is no
 * error to anybody here. connect-node throws Node's error into the handler
 * where a response cannot be written.
 */

const codes: ReadonlySet<unknown> = new Set([
  "ECANCELED",
  "ECONNABORTED",
  "ECONNRESET",
  "EPIPE",
  "ERR_HTTP2_INVALID_STREAM",
  "ERR_HTTP2_SESSION_ERROR",
  "ERR_HTTP2_STREAM_CANCEL",
  "ERR_HTTP2_STREAM_ERROR",
  "ERR_STREAM_DESTROYED",
  "ERR_STREAM_PREMATURE_CLOSE",
  "ERR_STREAM_WRITE_AFTER_END",
]);

/** Whether a code of Node's or the system's says that a peer is lost. */
export function isLossCode(code: unknown): boolean {
  return codes.has(code);
}

/** Whether an error, or what caused it, is the loss of a connection. */
export function isConnectionLoss(error: unknown): boolean {
  for (let at = error; at instanceof Error; at = at.cause) {
    if (at.name === "AbortError" || ("code" in at && codes.has(at.code))) return true;
  }
  return false;
}
