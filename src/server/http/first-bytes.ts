/**
 * Tells HTTP/2 with prior knowledge from HTTP/1.1 by a connection's first bytes
 * (RFC 9113, section 3.4: the client's preface), however few arrive at a time.
 *
 * Invariant: bytes are put back once, when the protocol is known. Node announces
 * bytes that are put back like new ones, so a reader that puts them back to wait
 * for more would never stop.
 */
import type { Socket } from "node:net";
import { startTimer } from "../../timers.ts";

/** First bytes of HTTP/2's preface that no HTTP/1.1 method begins with. */
const prefaceStart = Buffer.from("PRI ");
/** What Node's HTTP/1.1 server answers to a request that ends too early. */
const badRequest = "HTTP/1.1 400 Bad Request\r\nConnection: close\r\n\r\n";

/** Takes a connection; its first bytes have been put back. */
export interface ProtocolServers {
  readonly http1: () => void;
  readonly http2: () => void;
}

/**
 * Hands a connection to the server for its protocol.
 *
 * @param timeoutMs milliseconds after which one that has not said it is closed
 */
export function serveByFirstBytes(socket: Socket, serve: ProtocolServers, timeoutMs: number): void {
  let head: Buffer | undefined;
  const drop = () => socket.destroy();
  const timer = startTimer(drop, timeoutMs);
  const onEnd = () => {
    if (head === undefined) drop();
    // What began like the preface is no request either.
    else socket.end(badRequest, drop);
  };
  const onReadable = () => {
    const chunk: Buffer | null = socket.read();
    if (chunk === null) return;
    head = head === undefined ? chunk : Buffer.concat([head, chunk]);
    const isHttp2 = beginsPreface(head);
    if (isHttp2 === undefined) return;
    leave();
    socket.unshift(head);
    if (isHttp2) {
      // An HTTP/1.1 client may half-close; an HTTP/2 client that does has left.
      socket.allowHalfOpen = false;
      // Node's session reads the bytes put back in the next tick: the socket must not flow before.
      serve.http2();
      return;
    }
    serve.http1();
    // Being read by hand has paused it.
    socket.resume();
  };
  const leave = () => {
    clearTimeout(timer);
    socket.off("readable", onReadable).off("end", onEnd).off("error", drop).off("close", leave);
  };
  socket.on("readable", onReadable).on("end", onEnd).on("error", drop).on("close", leave);
}

/** Whether bytes begin HTTP/2's preface; undefined where they are too few to tell. */
function beginsPreface(bytes: Buffer): boolean | undefined {
  const compared = Math.min(bytes.length, prefaceStart.length);
  if (!bytes.subarray(0, compared).equals(prefaceStart.subarray(0, compared))) return false;
  return compared === prefaceStart.length ? true : undefined;
}
