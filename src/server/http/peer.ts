/** The other end of a connection, as the connection itself shows it. */
import type { X509Certificate } from "node:crypto";
import type { IncomingMessage } from "node:http";
import type { Http2Session, ServerHttp2Stream } from "node:http2";
import type { Socket } from "node:net";

/** Who is at the other end. */
export interface Peer {
  /** Its IP address; empty where it disconnected before anybody asked. */
  readonly address: string;
  /** The certificate that it presented, which the server has verified. */
  readonly certificate: X509Certificate | undefined;
}

const peers = new WeakMap<Socket | Http2Session, Peer>();
const nobody: Peer = { address: "", certificate: undefined };

/** Notes who is at the other end; `session` is what HTTP/2 made of the connection. */
export function setPeer(connection: Socket | Http2Session, peer: Peer): void {
  peers.set(connection, peer);
}

/** Who is at the other end of a connection. */
export function peerAt(connection: Socket | Http2Session): Peer {
  return peers.get(connection) ?? nobody;
}

/** Who makes a call. */
export function peerOf(source: ServerHttp2Stream | IncomingMessage): Peer {
  const connection = "session" in source ? source.session : source.socket;
  return connection === undefined ? nobody : peerAt(connection);
}
