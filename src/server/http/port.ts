/**
 * One port for HTTP/2 and HTTP/1.1. In plaintext the connection's first bytes tell them
 * apart; over TLS ALPN does, and the first bytes where the client does not use it.
 *
 * HTTP/2 sessions are looked after here, because nobody else does: dead ones
 * are found by pings and destroyed, and all are closed on the way out.
 *
 * Invariant: whatever a listener of the port throws ends the connection or the
 * stream that it was called for, and nothing else.
 */
import { once } from "node:events";
import * as http from "node:http";
import * as http2 from "node:http2";
import * as https from "node:https";
import type * as net from "node:net";
import type { SecureContextOptions, TLSSocket } from "node:tls";
import { maxStreamsPerConnection, pingIntervalMs, pingTimeoutMs } from "../../limits.ts";
import { startTimer } from "../../timers.ts";
import type { ConnectionSlots } from "./connection-slots.ts";
import { type ProtocolServers, serveByFirstBytes } from "./first-bytes.ts";
import { peerAt, setPeer } from "./peer.ts";
import { certificateProblem, type PortTls, securedBy, tlsOptions } from "./port-tls.ts";
import { type Call, setTurnBudget, turnBudgetOf } from "./turn-budget.ts";

/** A request of either protocol. */
export type PortRequest = http.IncomingMessage | http2.Http2ServerRequest;

/** The response of either protocol: the part of writeHead and end that both share. */
export type PortResponse = (http.ServerResponse | http2.Http2ServerResponse) & {
  writeHead(status: number, headers: Record<string, string>): unknown;
  end(text: string): unknown;
};

/** Answers a request. */
export type RequestHandler = (request: PortRequest, response: PortResponse) => void;

/** Takes an HTTP/2 request as the stream that it is, unless it returns false. */
export type StreamHandler = (
  stream: http2.ServerHttp2Stream,
  headers: http2.IncomingHttpHeaders,
) => boolean;

/** A port that listens. */
export interface Port {
  readonly host: string;
  readonly port: number;
  /** Uses other certificates from the next connection on. Only for a port with TLS. */
  setTls(context: SecureContextOptions): void;
  /** Takes no more connections, and no more requests on those there are. */
  stopAccepting(): void;
  /** Resolves when all connections are closed. */
  closed(): Promise<void>;
  /** Cuts all connections. */
  destroy(): void;
}

const KiB = 1024;
const MiB = 1024 * KiB;

/** The default 64 KiB window caps a stream at a window per round trip. */
const streamWindowBytes = 4 * MiB;
const sessionWindowBytes = 16 * MiB;
/** Megabytes; the default 10 refuses streams while subscribers are slow. */
const maxSessionMemoryMB = 512;
/** A client that cancels thousands of subscriptions at once is no attacker. */
const streamResetBurst = 10_000;
const streamResetRate = 1_000;

/** The answer to a connection beyond the limit. */
const tooManyConnections =
  "HTTP/1.1 503 Service Unavailable\r\nConnection: close\r\nRetry-After: 1\r\n\r\ntoo many connections\n";

/** How to listen. */
export interface PortOptions {
  readonly host: string;
  /** 0 takes a free one. */
  readonly port: number;
  readonly handler: RequestHandler;
  /** Asked before the handler. */
  readonly streamHandler: StreamHandler;
  /** Called with each HTTP/2 session; what it returns is called when the session has closed. */
  readonly onSession: (session: http2.ServerHttp2Session) => () => void;
  /** Called with what a listener threw, which is a fault of the server, and with errors of the port itself. */
  readonly onFault: (error: unknown) => void;
  /** Without it the port speaks plaintext. */
  readonly tls?: PortTls | undefined;
  /** Milliseconds for the handshake of TLS, and again for the first bytes behind it. */
  readonly firstBytesTimeoutMs: number;
  /** Connections that may be open at once, at other ports too. */
  readonly slots: ConnectionSlots;
  /** Called for each connection beyond them, which is refused. */
  readonly onRefused: () => void;
}

/**
 * Listens on a port.
 *
 * @throws the system's error, EADDRINUSE for one
 */
export async function listen(options: PortOptions): Promise<Port> {
  const { host, port, tls, slots, onFault } = options;
  const handler: RequestHandler = (request, response) => {
    // `close` follows, and ends both.
    request.on("error", ignore);
    response.on("error", ignore);
    caught(
      () => options.handler(request, response),
      (error) => {
        onFault(error);
        answerFault(response);
      },
    );
  };
  const onRequest = (request: http.IncomingMessage, response: http.ServerResponse) => {
    const serve = () => handler(request, response);
    inTurn(request, { serve, isGone: () => response.destroyed });
  };
  const http1Server =
    tls === undefined
      ? http.createServer({ noDelay: true }, onRequest)
      : https.createServer(tlsOptions(tls, options.firstBytesTimeoutMs), onRequest);
  // A subscription's request is short, its response is not; slow requests are cut by Node's default.
  http1Server.keepAliveTimeout = 65_000;
  const http2Server = http2.createServer(
    {
      settings: {
        initialWindowSize: streamWindowBytes,
        maxConcurrentStreams: maxStreamsPerConnection,
      },
      maxSessionMemory: maxSessionMemoryMB,
      streamResetBurst,
      streamResetRate,
    },
    handler,
  );
  // What Node makes of a stream for the handler takes 2.4 KiB for as long as that is open.
  const [makeRequest, ...others] = http2Server.listeners("stream");
  if (makeRequest === undefined || others.length > 0) {
    throw new Error(`Node ${process.version} makes requests of HTTP/2 streams in another way`);
  }
  http2Server.removeAllListeners("stream");
  http2Server.on("stream", (stream, headers, ...more: unknown[]) => {
    const serve = () =>
      caught(
        () => {
          if (options.streamHandler(stream, headers)) return;
          makeRequest.call(http2Server, stream, headers, ...more);
        },
        (error) => {
          onFault(error);
          stream.on("error", ignore).close(http2.constants.NGHTTP2_INTERNAL_ERROR);
        },
      );
    inTurn(stream, { serve, isGone: () => stream.destroyed });
  });
  const sessions = new Set<http2.ServerHttp2Session>();
  const addSession = (session: http2.ServerHttp2Session) => {
    session.setLocalWindowSize(sessionWindowBytes);
    sessions.add(session);
    const stopPinging = keepAlive(session);
    session.once("close", () => {
      stopPinging();
      sessions.delete(session);
    });
    const onClosed = options.onSession(session);
    session.once("close", () => caught(onClosed, onFault));
  };
  /** The connection that HTTP/2 makes a session of at the moment. */
  let starting: net.Socket | undefined;
  http2Server.on("session", (session) => {
    caught(
      () => {
        if (starting !== undefined) {
          setTurnBudget(starting, session);
          setPeer(session, peerAt(starting));
        }
        addSession(session);
      },
      (error) => {
        onFault(error);
        // Node gives it the connection's first bytes in the next tick, whatever it is by then.
        setImmediate(() => session.destroy());
      },
    );
  });
  const sockets = new Set<net.Socket>();
  const serversOf = (socket: net.Socket): ProtocolServers => {
    const begin = (serve: () => void) => () =>
      caught(serve, (error) => {
        onFault(error);
        socket.destroy();
      });
    return {
      http1: begin(() => {
        setTurnBudget(socket);
        serveHttp1.call(http1Server, socket);
      }),
      http2: begin(() => {
        starting = socket;
        http2Server.emit("connection", socket);
      }),
    };
  };
  // The HTTP/1.1 server owns the port, and so looks after its own idle and
  // slow connections; only who gets a new connection is decided here.
  const isReady = tls === undefined ? "connection" : "secureConnection";
  const serveHttp1 = http1Server.listeners(isReady)[0] as (socket: net.Socket) => void;
  const shakeHands = http1Server.listeners("connection")[0] as (socket: net.Socket) => void;
  http1Server.removeAllListeners(isReady).removeAllListeners("connection");
  const onPlain = (socket: net.Socket) => {
    setPeer(socket, { address: socket.remoteAddress ?? "", certificate: undefined });
    serveByFirstBytes(socket, serversOf(socket), options.firstBytesTimeoutMs);
  };
  const onSecure = (socket: TLSSocket) => {
    const certificate = socket.getPeerX509Certificate();
    if (certificate !== undefined && !socket.authorized) {
      tls?.onRefused(
        `its certificate is refused: ${certificateProblem(socket)}`,
        socket.remoteAddress,
      );
      socket.destroy();
      return;
    }
    setPeer(socket, { address: socket.remoteAddress ?? "", certificate });
    const serve = serversOf(socket);
    if (socket.alpnProtocol === "h2") serve.http2();
    else if (socket.alpnProtocol === "http/1.1") serve.http1();
    else
      serveByFirstBytes(
        socket,
        { ...serve, http2: () => serveUnannounced(socket, serve) },
        options.firstBytesTimeoutMs,
      );
  };
  http1Server.on("connection", (socket: net.Socket) => {
    if (!slots.take()) {
      options.onRefused();
      socket.on("error", ignore);
      // Whatever its protocol: a client of HTTP/2 shows it as what it did not expect. In
      // plaintext no client of TLS would.
      if (tls === undefined) socket.end(tooManyConnections, () => socket.destroy());
      else socket.destroy();
      return;
    }
    sockets.add(socket);
    socket.once("close", () => {
      sockets.delete(socket);
      slots.free();
    });
    if (tls === undefined) onPlain(socket);
    else shakeHands.call(http1Server, socket);
  });
  if (tls !== undefined) {
    http1Server.on("secureConnection", onSecure);
    http1Server.removeAllListeners("tlsClientError");
    http1Server.on("tlsClientError", (error: NodeJS.ErrnoException, socket: TLSSocket) => {
      tls.onRefused(error.code ?? error.message, socket.remoteAddress);
      socket.destroy();
    });
  }
  http1Server.listen(port, host);
  await once(http1Server, "listening");
  // A connection that cannot be accepted, for want of memory or of descriptors.
  http1Server.on("error", onFault);
  const address = http1Server.address() as net.AddressInfo;
  const closed = new Promise<void>((resolve) => http1Server.once("close", resolve));
  return {
    host: address.family === "IPv6" ? `[${address.address}]` : address.address,
    port: address.port,
    setTls(context) {
      if (!(http1Server instanceof https.Server)) throw new Error("the port speaks plaintext");
      http1Server.setSecureContext(securedBy(context, tls?.asksClients === true));
    },
    stopAccepting() {
      http1Server.close();
      // Streams that are open go on; new ones are refused with GOAWAY.
      for (const session of sessions) session.close();
    },
    closed: () => closed,
    destroy() {
      for (const session of sessions) session.destroy();
      for (const socket of sockets) socket.destroy();
    },
  };
}

/** HTTP/2 without ALPN, which Node's server takes only for what the client announced. */
function serveUnannounced(socket: TLSSocket, { http2: serve }: ProtocolServers): void {
  socket.alpnProtocol = "h2";
  serve();
}

/** Serves a call once it is its connection's turn, unless its client has given it up by then. */
function inTurn(source: http2.ServerHttp2Stream | http.IncomingMessage, call: Call): void {
  // Node announces a stream behind what came with it, and be it its reset.
  if (!call.isGone()) {
    const budget = turnBudgetOf(source);
    if (budget === undefined) {
      call.serve();
      return;
    }
    if (budget.begin(call)) return;
  }
  // Nobody else listens to a call that waits, or is never served.
  source.on("error", ignore);
}

/** What has no other owner: a listener's exception would end the process. */
function caught(run: () => void, onThrown: (error: unknown) => void): void {
  try {
    run();
  } catch (error) {
    onThrown(error);
  }
}

const ignore = () => undefined;

/** Says that the server failed, where nothing was said yet; ends the response. */
function answerFault(response: PortResponse): void {
  if (response.headersSent) {
    response.destroy();
    return;
  }
  response.writeHead(500, { "content-type": "text/plain" });
  response.end("internal error: retry later; the server's log has the cause\n");
}

/** Pings a session and destroys it when an answer is overdue; `close()` would wait for its streams. */
function keepAlive(session: http2.ServerHttp2Session): () => void {
  let overdue: NodeJS.Timeout | undefined;
  const pinging = setInterval(() => {
    if (overdue !== undefined || session.destroyed) return;
    overdue = startTimer(() => session.destroy(), pingTimeoutMs);
    const answered = () => {
      clearTimeout(overdue);
      overdue = undefined;
    };
    caught(
      () => {
        if (!session.ping(answered)) answered();
      },
      () => session.destroy(),
    );
  }, pingIntervalMs);
  return () => {
    clearInterval(pinging);
    clearTimeout(overdue);
  };
}
