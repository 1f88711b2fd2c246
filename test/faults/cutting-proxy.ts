/**
 * A way to PostgreSQL that breaks where it hurts: at a COMMIT, before the server
 * has it, or after it has it and before its answer is back.
 */

import { once } from "node:events";
import { createServer, connect as dial, type Server, type Socket } from "node:net";

/** What becomes of a COMMIT. */
export type Cut = "before" | "after" | undefined;

/** A simple query "commit", as it goes over the wire: Q, length, text, 0. */
const commitMessage = Buffer.from([0x51, 0, 0, 0, 11, ...Buffer.from("commit"), 0]);

/** See the head of this file. */
export class CuttingProxy {
  readonly port: number;
  readonly #server: Server;
  readonly #sockets = new Set<Socket>();
  /** COMMITs that were cut. */
  cuts = 0;

  private constructor(server: Server, port: number) {
    this.#server = server;
    this.port = port;
  }

  /** Stands in front of a port; `decide` is asked at each COMMIT. */
  static async start(target: number, decide: () => Cut): Promise<CuttingProxy> {
    const server = createServer((client) => {
      const upstream = dial(target, "127.0.0.1");
      proxy.#pair(client, upstream, decide);
    });
    server.listen(0, "127.0.0.1");
    await once(server, "listening");
    const { port } = server.address() as { port: number };
    const proxy = new CuttingProxy(server, port);
    return proxy;
  }

  async close(): Promise<void> {
    for (const socket of this.#sockets) socket.destroy();
    this.#server.close();
    await once(this.#server, "close");
  }

  #pair(client: Socket, upstream: Socket, decide: () => Cut): void {
    const both = [client, upstream];
    const end = () => {
      for (const socket of both) socket.destroy();
    };
    for (const socket of both) {
      this.#sockets.add(socket);
      socket.on("error", end);
      socket.on("close", () => {
        this.#sockets.delete(socket);
        end();
      });
    }
    let isCut = false;
    client.on("data", (chunk: Buffer) => {
      const cut = chunk.includes(commitMessage) ? decide() : undefined;
      if (cut === "before") {
        this.cuts++;
        end();
        return;
      }
      upstream.write(chunk);
      if (cut === "after") {
        this.cuts++;
        isCut = true;
      }
    });
    upstream.on("data", (chunk: Buffer) => {
      // Its answer has come, so it is committed; nobody is told.
      if (isCut) end();
      else client.write(chunk);
    });
  }
}
