/**
 * Connections that are given up where nobody speaks on them.
 *
 * Invariant: within the bound a server has been heard, or its connection is destroyed:
 * one that takes connections and says nothing ends as one that refuses them. HTTP/2's
 * first frame is the server's SETTINGS, which it sends without being asked.
 */
import { connect as connectTcp, isIP, type Socket } from "node:net";
import { connect as connectTls } from "node:tls";
import { Code, ConnectError } from "@connectrpc/connect";
import { startTimer } from "../../timers.ts";

/** Opens the connections of a node, one after the other. */
export class Sockets {
  readonly #url: URL;
  readonly #timeoutMs: number;
  #latest: Socket | undefined;

  /** @param timeoutMs from the first packet to the server's first byte */
  constructor(url: URL, timeoutMs: number) {
    this.#url = url;
    this.#timeoutMs = timeoutMs;
  }

  /** Whether anything came on the latest connection: otherwise no call can have reached the server. */
  get isConnected(): boolean {
    return (this.#latest?.bytesRead ?? 0) > 0;
  }

  /** Starts to connect. */
  open(): Socket {
    const socket = openSocket(this.#url);
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

function openSocket(url: URL): Socket {
  const isTls = url.protocol === "https:";
  const host = url.hostname.replace(/^\[|\]$/g, "");
  const port = url.port === "" ? (isTls ? 443 : 80) : Number(url.port);
  if (!isTls) return connectTcp({ host, port });
  // As node:http2 does it; an address is no server name.
  const servername = isIP(host) === 0 ? host : "";
  return connectTls({ host, port, servername, ALPNProtocols: ["h2"] });
}
