import { once } from "node:events";
import * as net from "node:net";

/** What becomes of a chunk: it goes on, it is lost with its connection, or it is lost. */
export type Fate = "forward" | "cut" | "swallow";

/** Decides over the chunks of one connection, in both directions. */
export type Fault = (from: "client" | "server", chunk: Buffer) => Fate;

/** Starts the life of a connection. */
export type NewFault = () => Fault;

/** Breaks nothing. */
export const noFault: NewFault = () => () => "forward";

/** Bytes of HTTP/2's connection preface, and of a frame's header. */
const prefaceBytes = 24;
const frameHeaderBytes = 9;
const headersFrame = 1;

/** Counts the frames that begin a call. */
class CallCounter {
  #pending = Buffer.alloc(0);
  #skip = prefaceBytes;

  count(chunk: Buffer): number {
    this.#pending = Buffer.concat([this.#pending, chunk]);
    let calls = 0;
    for (;;) {
      const skipped = Math.min(this.#skip, this.#pending.length);
      this.#pending = this.#pending.subarray(skipped);
      this.#skip -= skipped;
      if (this.#skip > 0 || this.#pending.length < frameHeaderBytes) return calls;
      if (this.#pending[3] === headersFrame) calls++;
      this.#skip = frameHeaderBytes + this.#pending.readUIntBE(0, 3);
    }
  }
}

/**
 * A TCP proxy that a test tells, chunk by chunk, what to break. It counts the
 * calls that it forwards: HEADERS frames of HTTP/2 with prior knowledge.
 */
export class BreakingProxy {
  /** For connections from now on. */
  newFault: NewFault = noFault;
  /** Connections that a fault has cut. */
  cuts = 0;
  /** Calls that reached the server. */
  calls = 0;
  readonly #server: net.Server;
  readonly #target: URL;
  readonly #sockets = new Set<net.Socket>();

  private constructor(target: string) {
    this.#target = new URL(target);
    this.#server = net.createServer((client) => this.#connect(client));
  }

  /** Starts one in front of `target`, which may be away for a while. */
  static async start(target: string, newFault: NewFault = noFault): Promise<BreakingProxy> {
    const proxy = new BreakingProxy(target);
    proxy.newFault = newFault;
    proxy.#server.listen(0, "127.0.0.1");
    await once(proxy.#server, "listening");
    return proxy;
  }

  get url(): string {
    return `http://127.0.0.1:${(this.#server.address() as net.AddressInfo).port}`;
  }

  /** Cuts every connection. */
  cutAll(): void {
    for (const socket of this.#sockets) socket.destroy();
  }

  async close(): Promise<void> {
    this.#server.close();
    this.cutAll();
    await once(this.#server, "close");
  }

  #connect(client: net.Socket): void {
    const { hostname: host, port } = this.#target;
    const upstream = net.connect({ host, port: Number(port) });
    const fault = this.newFault();
    const calls = new CallCounter();
    const end = () => {
      client.destroy();
      upstream.destroy();
    };
    const pass = (from: "client" | "server", source: net.Socket, sink: net.Socket) => {
      this.#sockets.add(source);
      source.on("error", end).on("close", () => {
        this.#sockets.delete(source);
        end();
      });
      source.on("data", (chunk: Buffer) => {
        if (source.destroyed || sink.destroyed) return;
        const fate = fault(from, chunk);
        if (fate === "cut") {
          this.cuts++;
          end();
        } else if (fate === "forward") {
          if (from === "client") this.calls += calls.count(chunk);
          if (!sink.write(chunk)) {
            source.pause();
            sink.once("drain", () => source.resume());
          }
        }
      });
    };
    pass("client", client, upstream);
    pass("server", upstream, client);
  }
}

/**
 * Cuts each connection after some answers of the server (the last one is
 * lost) or some bytes of the client, whichever comes first.
 */
export function randomCuts(
  between: (min: number, max: number) => number,
  maxAnswers = 60,
): NewFault {
  return () => {
    let answers = between(2, maxAnswers);
    let bytes = between(2_000, 150_000);
    return (from, chunk) => {
      if (from === "server") answers--;
      else bytes -= chunk.length;
      return answers <= 0 || bytes <= 0 ? "cut" : "forward";
    };
  };
}

/**
 * Cuts the first connection on which the server answers with `marker`, before
 * the answer is forwarded: the server has done it, the client does not know.
 */
export function loseAnswerOnce(marker: string): NewFault {
  let isLost = false;
  return () => {
    let seen = "";
    return (from, chunk) => {
      if (from === "client" || isLost) return "forward";
      // The marker may come in two chunks.
      seen = seen.slice(-marker.length) + chunk.toString("latin1");
      if (!seen.includes(marker)) return "forward";
      isLost = true;
      return "cut";
    };
  };
}
