/**
 * Connections that are given up where nobody speaks on them.
 *
 * Invariant: within the bound a server has been heard, or its connection is destroyed:
 * one that takes connections and says nothing ends as one that refuses them. HTTP/2's
 * first frame is the server's SETTINGS, which it sends without being asked.
 */
import { connect as connectTcp, isIP, type Socket } from "node:net";
import { connect as connectTls, type SecureContextOptions } from "node:tls";
import { Code, ConnectError } from "@connectrpc/connect";
import { startTimer } from "../../timers.ts";

/** What TLS needs, in PEM. */
export interface ClientTls {
  /** The authorities of servers. Default: those that Node trusts. */
  readonly ca?: string | undefined;
  /** The client's certificate, with those that lead to its authority. */
  readonly cert?: string | undefined;
  /** The certificate's key. */
  readonly key?: string | undefined;
}

/** Opens the connections of a node, one after the other. */
export class Sockets {
  readonly #url: URL;
  readonly #timeoutMs: number;
  readonly #tls: () => ClientTls;
  #latest: Socket | undefined;

  /**
   * @param timeoutMs from the first packet to the server's first byte
   * @param tls asked for each connection with TLS
   */
  constructor(url: URL, timeoutMs: number, tls: () => ClientTls) {
    this.#url = url;
    this.#timeoutMs = timeoutMs;
    this.#tls = tls;
  }

  /** Whether anything came on the latest connection: otherwise no call can have reached the server. */
  get isConnected(): boolean {
    return (this.#latest?.bytesRead ?? 0) > 0;
  }

  /** Starts to connect. */
  open(): Socket {
    const socket = openSocket(this.#url, this.#tls);
    const { host } = this.#url;
    const timer = startTimer(() => {
      if (socket.bytesRead > 0) return;
      const what = socket.connecting ? "takes no connection" : "takes connections and says nothing";
      const message = `${host} ${what} (waited ${this.#timeoutMs} ms)`;
      socket.destroy(new ConnectError(message, Code.Unavailable));
    }, this.#timeoutMs);
    // An idle connection does not keep the process alive, nor does this.
    timer.unref();
    socket.once("close", () => clearTimeout(timer));
    this.#latest = socket;
    return socket;
  }
}

function openSocket(url: URL, tls: () => ClientTls): Socket {
  const isTls = url.protocol === "https:";
  const host = url.hostname.replace(/^\[|\]$/g, "");
  const port = url.port === "" ? (isTls ? 443 : 80) : Number(url.port);
  if (!isTls) return connectTcp({ host, port });
  // As node:http2 does it; an address is no server name.
  const servername = isIP(host) === 0 ? host : "";
  return connectTls({ ...pemOf(tls()), host, port, servername, ALPNProtocols: ["h2"] });
}

/** What is set; an empty list of authorities would mean those of Node. */
function pemOf({ ca, cert, key }: ClientTls): SecureContextOptions {
  return { ...(ca !== undefined && { ca: [ca] }), ...(cert !== undefined && { cert, key }) };
}
