/**
 * A TCP proxy that cuts each connection after some bytes, in the middle of
 * whatever they were. What the server had sent by then and the client had not
 * got is lost, acknowledgements for one.
 */
import { once } from "node:events";
import * as net from "node:net";

/** A proxy in front of a server. */
export interface CuttingProxy {
  readonly url: string;
  /** Connections that were cut. */
  readonly cuts: number;
  close(): Promise<void>;
}

/**
 * Starts a proxy.
 *
 * @param bytesUntilCut how many bytes the next connection carries, both ways together; Infinity for all
 */
export async function startCuttingProxy(
  target: string,
  bytesUntilCut: () => number,
): Promise<CuttingProxy> {
  const { hostname, port } = new URL(target);
  const sockets = new Set<net.Socket>();
  let cuts = 0;
  const server = net.createServer((client) => {
    const upstream = net.connect({ host: hostname, port: Number(port) });
    let left = bytesUntilCut();
    const destroy = () => {
      for (const socket of [client, upstream]) {
        socket.destroy();
        sockets.delete(socket);
      }
    };
    const forward = (from: net.Socket, to: net.Socket) => {
      sockets.add(from);
      from.on("data", (chunk: Buffer) => {
        if (chunk.length >= left) {
          if (left !== Number.NEGATIVE_INFINITY) cuts++;
          left = Number.NEGATIVE_INFINITY;
          destroy();
          return;
        }
        left -= chunk.length;
        if (!to.write(chunk)) {
          from.pause();
          to.once("drain", () => from.resume());
        }
      });
      from.on("close", destroy).on("error", destroy);
    };
    forward(client, upstream);
    forward(upstream, client);
  });
  server.listen(0, "127.0.0.1");
  await once(server, "listening");
  const address = server.address() as net.AddressInfo;
  return {
    url: `http://127.0.0.1:${address.port}`,
    get cuts() {
      return cuts;
    },
    async close() {
      server.close();
      for (const socket of sockets) socket.destroy();
      await once(server, "close");
    },
  };
}
