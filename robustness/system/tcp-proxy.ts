import { once } from "node:events";
import { connect, createServer, type Server, type Socket } from "node:net";

/** How the network is. */
export type Weather =
  | { readonly t: "fine" }
  /** Connections break, and new ones are refused. */
  | { readonly t: "cut" }
  /** Nothing arrives any more, and nobody notices. */
  | { readonly t: "hole" }
  /** Each piece takes so many milliseconds longer, in either direction. */
  | { readonly t: "slow"; readonly delayMs: number };

interface Pair {
  readonly client: Socket;
  readonly upstream: Socket;
  /** Set once a hole swallowed a part: what comes later cannot follow it. */
  isTorn: boolean;
}

/** A network between a node and its database that can be cut, swallow everything, or be slow. */
export class TcpProxy {
  readonly port: number;
  readonly #server: Server;
  readonly #pairs = new Set<Pair>();
  #weather: Weather = { t: "fine" };
  /** The port that new connections go to; another server may take the place of the first. */
  target: number;

  private constructor(server: Server, port: number, target: number) {
    this.#server = server;
    this.port = port;
    this.target = target;
  }

  /** Stands in front of a port of this machine. */
  static async start(target: number): Promise<TcpProxy> {
    const server = createServer((client) => proxy.#open(client));
    server.listen(0, "127.0.0.1");
    await once(server, "listening");
    const { port } = server.address() as { port: number };
    const proxy = new TcpProxy(server, port, target);
    return proxy;
  }

  /** Changes the network; connections from which a part is missing break when it is fine again. */
  set(weather: Weather): void {
    this.#weather = weather;
    for (const pair of this.#pairs) {
      if (weather.t === "cut" || (pair.isTorn && weather.t !== "hole")) end(pair);
    }
  }

  async close(): Promise<void> {
    for (const pair of this.#pairs) end(pair);
    this.#server.close();
    await once(this.#server, "close");
  }

  #open(client: Socket): void {
    if (this.#weather.t === "cut") {
      client.resetAndDestroy();
      return;
    }
    const upstream = connect(this.target, "127.0.0.1");
    const pair: Pair = { client, upstream, isTorn: this.#weather.t === "hole" };
    this.#pairs.add(pair);
    for (const [from, to] of [
      [client, upstream],
      [upstream, client],
    ] as const) {
      from.setNoDelay(true);
      from.on("error", () => end(pair));
      from.on("close", () => {
        this.#pairs.delete(pair);
        end(pair);
      });
      from.on("data", (chunk: Buffer) => this.#pass(pair, from, to, chunk));
    }
  }

  #pass(pair: Pair, from: Socket, to: Socket, chunk: Buffer): void {
    const weather = this.#weather;
    if (weather.t === "hole" || pair.isTorn) {
      pair.isTorn = true;
      return;
    }
    if (weather.t === "slow") {
      from.pause();
      setTimeout(() => {
        to.write(chunk);
        from.resume();
      }, weather.delayMs);
      return;
    }
    if (!to.write(chunk)) {
      from.pause();
      to.once("drain", () => from.resume());
    }
  }
}

function end({ client, upstream }: Pair): void {
  client.destroy();
  upstream.destroy();
}
