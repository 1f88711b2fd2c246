/** A name that leads to one server first, and later to another, as its owner can let DNS do. */
import { once } from "node:events";
import * as net from "node:net";

/** Where a name leads to; browsers keep nothing of where it did before. */
export class Name {
  readonly #server: net.Server;
  readonly #sockets = new Set<net.Socket>();
  #port: number;

  private constructor(port: number) {
    this.#port = port;
    this.#server = net.createServer((socket) => {
      const onward = net.connect(this.#port, "127.0.0.1");
      for (const [from, to] of [
        [socket, onward],
        [onward, socket],
      ] as const) {
        this.#sockets.add(from);
        from.on("error", () => to.destroy());
        from.on("close", () => this.#sockets.delete(from));
        from.pipe(to);
      }
    });
  }

  /** Makes one that leads to a port of this machine. */
  static async make(port: number): Promise<Name> {
    const name = new Name(port);
    name.#server.listen(0, "127.0.0.1");
    await once(name.#server, "listening");
    return name;
  }

  /** The port under which it is reached. */
  get port(): number {
    return (this.#server.address() as net.AddressInfo).port;
  }

  /** Leads to another port from now on. */
  leadTo(port: number): void {
    this.#port = port;
    for (const socket of this.#sockets) socket.destroy();
  }

  async remove(): Promise<void> {
    const closed = once(this.#server, "close");
    this.#server.close();
    for (const socket of this.#sockets) socket.destroy();
    await closed;
  }
}
