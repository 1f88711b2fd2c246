/**
 * gRPC over HTTP/2 for Node, set up for streams that stay open for days.
 *
 * Invariant: a dead peer is noticed within ping interval + ping timeout, even
 * where no packet says so; nothing keeps the process alive once `close` ran.
 */
import type {
  ClientHttp2Session,
  ClientHttp2Stream,
  ClientSessionRequestOptions,
  OutgoingHttpHeaders,
} from "node:http2";
import { createGrpcTransport, Http2SessionManager } from "@connectrpc/connect-node";
import { limitSpecs, responseRoomBytes } from "../../limits.ts";
import type { IngestTransport } from "../ingest-transport.ts";
import { fastIngest } from "./fast-ingest.ts";
import { withFastSubscribe } from "./fast-subscribe.ts";
import { grpcCallTo } from "./grpc-call.ts";

/** Milliseconds between PINGs while nothing arrives. gRPC servers take 10 s and more. */
const pingIntervalMs = 20_000;
/** Milliseconds for a PING's answer. */
const pingTimeoutMs = 10_000;
/** Bytes a server may send on one stream ahead of reading; Node's default of 64 KiB halves the rate. */
const streamWindowBytes = 4 * 1024 * 1024;
/** The same for all streams of the connection. */
const connectionWindowBytes = 16 * 1024 * 1024;
/** Bytes of one message: whatever a server may be told to take, it can give back. */
const readMaxBytes = limitSpecs.maxEventBytes.range.max + responseRoomBytes;

/** Megabytes; with Node's default of 10 a session closes the stream that sends a larger message. */
const maxSessionMemoryMB = 512;

/** How to connect. */
export interface ConnectOptions {
  /** Sent with every call, under lower-case names: `{ authorization: "Bearer …" }`. Default: none. */
  readonly headers?: Readonly<Record<string, string>>;
}

/** A transport with the connection that it owns. */
export interface NodeConnection {
  /** For openRun, follow, and any Connect client. */
  readonly transport: IngestTransport;
  /** Ends the connection and all its calls at once. */
  close(): void;
}

/**
 * Connects to a server by URL, `http://` (HTTP/2 with prior knowledge) or
 * `https://`; the connection is opened by the first call and again whenever a
 * call finds it gone. Several nodes of one journal are given as a list with
 * commas: calls go to one of them, and to the next one when it cannot be
 * reached. Throws TypeError for an invalid URL.
 */
export function connectTo(urls: string, options: ConnectOptions = {}): NodeConnection {
  const { headers = {} } = options;
  const nodes = urls.split(",").map((url) => connectToNode(url.trim(), headers));
  const [only] = nodes;
  if (only !== undefined && nodes.length === 1) return only;
  let current = 0;
  const reachable = async (): Promise<IngestTransport> => {
    for (let tries = 1; tries < nodes.length; tries++) {
      if (await nodes[current]!.canConnect()) break;
      current = (current + 1) % nodes.length;
    }
    return nodes[current]!.transport;
  };
  return {
    transport: {
      unary: async (...call) => (await reachable()).unary(...call),
      stream: async (...call) => (await reachable()).stream(...call),
      async *ingest(requests, signal) {
        const transport = await Promise.race([reachable(), abortOf(signal)]);
        yield* transport.ingest(requests, signal);
      },
    },
    close() {
      for (const node of nodes) node.close();
    },
  };
}

/** Rejects with the signal's reason. */
function abortOf(signal: AbortSignal): Promise<never> {
  return new Promise((_, reject) => {
    if (signal.aborted) reject(signal.reason);
    signal.addEventListener("abort", () => reject(signal.reason), { once: true });
  });
}

interface Node extends NodeConnection {
  /** Opens the connection where it is not open; whether it is now. */
  canConnect(): Promise<boolean>;
}

function connectToNode(url: string, ownHeaders: Readonly<Record<string, string>>): Node {
  const { origin } = new URL(url);
  const sessions = new Http2SessionManager(
    origin,
    { pingIntervalMs, pingTimeoutMs },
    { settings: { initialWindowSize: streamWindowBytes }, maxSessionMemory: maxSessionMemoryMB },
  );
  const widened = new WeakSet<ClientHttp2Session>();
  const sessionManager = {
    authority: sessions.authority,
    async request(
      method: string,
      path: string,
      headers: OutgoingHttpHeaders,
      options: Omit<ClientSessionRequestOptions, "signal">,
    ): Promise<ClientHttp2Stream> {
      const stream = await sessions.request(method, path, { ...headers, ...ownHeaders }, options);
      const session = stream.session;
      // The connection's own window has no setting; it is widened once per session.
      if (session !== undefined && !widened.has(session as ClientHttp2Session)) {
        widened.add(session as ClientHttp2Session);
        session.setLocalWindowSize(connectionWindowBytes);
      }
      return stream;
    },
    notifyResponseByteRead: (stream: ClientHttp2Stream) => sessions.notifyResponseByteRead(stream),
  };
  const transport = createGrpcTransport({
    baseUrl: url,
    readMaxBytes,
    // Compression of responses costs far more than a local network does.
    acceptCompression: [],
    sessionManager,
  });
  const call = grpcCallTo(url, sessionManager, readMaxBytes);
  return {
    transport: { ...withFastSubscribe(transport, call), ingest: fastIngest(call) },
    canConnect: async () => (await sessions.connect()) !== "error",
    close: () => sessions.abort(),
  };
}
