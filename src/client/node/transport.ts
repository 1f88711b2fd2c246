/**
 * gRPC over HTTP/2 for Node, set up for streams that stay open for days.
 *
 * Invariant: a peer that is silent from the start is noticed within the connect
 * timeout, one that dies later within ping interval + ping timeout, even where no
 * packet says so; nothing keeps the process alive once `close` ran.
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
import type { TokenProvider } from "../tokens.ts";
import { withToken } from "../with-token.ts";
import { withBounds } from "./bounds.ts";
import { fastIngest } from "./fast-ingest.ts";
import { withFastSubscribe } from "./fast-subscribe.ts";
import { grpcCallTo } from "./grpc-call.ts";
import { type Node, overNodes } from "./nodes.ts";
import { type ClientTls, Sockets } from "./sockets.ts";

/** Milliseconds to a connection on which the server has been heard: a few lost packets at most. */
const defaultConnectTimeoutMs = 5_000;
/** Milliseconds to the headers of a stream's answer, which leave at once. */
const answerTimeoutMs = 10_000;
/** Milliseconds between PINGs while nothing arrives. gRPC servers take 10 s and more. */
const defaultPingIntervalMs = 20_000;
/** Milliseconds for a PING's answer. */
const defaultPingTimeoutMs = 10_000;
/** Bytes a server may send on one stream ahead of reading; Node's default of 64 KiB halves the rate. */
const streamWindowBytes = 4 * 1024 * 1024;
/** The same for all streams of the connection. */
const connectionWindowBytes = 16 * 1024 * 1024;
/** Bytes of one message: as much as a server can be configured to take, it can send back. */
const readMaxBytes = limitSpecs.maxEventBytes.range.max + responseRoomBytes;

/** Megabytes; with Node's default of 10 a session closes the stream that sends a larger message. */
const maxSessionMemoryMB = 512;

type Headers = Readonly<Record<string, string>>;

/** How to connect. */
export interface ConnectOptions {
  /**
   * The bearer token of every call, or who gives it: see withToken. `headers` with an
   * `authorization` of their own override it. Default: none.
   */
  readonly token?: string | TokenProvider;
  /**
   * Sent with every call, under lower-case names: `{ authorization: "Bearer …" }`. A function
   * is asked for each call, so that it can give the newest token; it must not throw. Default: none.
   */
  readonly headers?: Headers | (() => Headers);
  /**
   * For `https://`: authorities of servers, and the client's own certificate. A function is
   * asked for each connection, so that it can give the newest certificate; it must not throw.
   */
  readonly tls?: ClientTls | (() => ClientTls);
  /** Milliseconds until a new connection is given up on which the server was not heard. Default 5,000. */
  readonly connectTimeoutMs?: number;
  /** Milliseconds without anything from the server before it gets a PING, while calls run. Default 20,000. */
  readonly pingIntervalMs?: number;
  /** Milliseconds until a connection is given up whose PING has no answer. Default 10,000. */
  readonly pingTimeoutMs?: number;
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
 * reached, does not answer in time, or says that it cannot work now (DRAINING,
 * OVERLOADED, JOURNAL_UNAVAILABLE). A unary call without `timeoutMs` has 60 s; 0 is no
 * deadline. Throws TypeError for an invalid URL, for one with a user or a password, which
 * ends up in logs, and for a text that can be no token.
 */
export function connectTo(urls: string, options: ConnectOptions = {}): NodeConnection {
  const nodes = urls.split(",").map((url) => connectToNode(url.trim(), options));
  const [only] = nodes;
  const bare = only !== undefined && nodes.length === 1 ? only.transport : overNodes(nodes);
  return {
    // Without a token too: headers and certificates are asked for anew when they have expired.
    transport: withToken(bare, options.token),
    close() {
      for (const node of nodes) node.close();
    },
  };
}

function connectToNode(url: string, options: ConnectOptions): Node & NodeConnection {
  const { origin, username, password } = new URL(url);
  if (username !== "" || password !== "") {
    throw new TypeError("remove user and password from the URL: use `token` or `headers`");
  }
  const {
    headers = {},
    tls = {},
    connectTimeoutMs = defaultConnectTimeoutMs,
    pingIntervalMs = defaultPingIntervalMs,
    pingTimeoutMs = defaultPingTimeoutMs,
  } = options;
  const headersNow = typeof headers === "function" ? headers : () => headers;
  const tlsNow = typeof tls === "function" ? tls : () => tls;
  const sockets = new Sockets(new URL(origin), connectTimeoutMs, tlsNow);
  const sessions = new Http2SessionManager(
    origin,
    { pingIntervalMs, pingTimeoutMs },
    {
      settings: { initialWindowSize: streamWindowBytes },
      maxSessionMemory: maxSessionMemoryMB,
      createConnection: () => sockets.open(),
    },
  );
  const widened = new WeakSet<ClientHttp2Session>();
  const sessionManager = {
    authority: sessions.authority,
    async request(
      method: string,
      path: string,
      callHeaders: OutgoingHttpHeaders,
      requestOptions: Omit<ClientSessionRequestOptions, "signal">,
    ): Promise<ClientHttp2Stream> {
      const stream = await sessions.request(
        method,
        path,
        { ...callHeaders, ...headersNow() },
        requestOptions,
      );
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
    transport: {
      ...withBounds(withFastSubscribe(transport, call), answerTimeoutMs),
      ingest: fastIngest(call),
    },
    canConnect: async () => (await sessions.connect()) !== "error",
    get isConnected() {
      return sockets.isConnected;
    },
    close: () => sessions.abort(),
  };
}
