import { once } from "node:events";
import { createServer, connect as dial, type Server, type Socket } from "node:net";

/** What becomes of what commits. */
export type Cut = "before" | "after" | undefined;
/** How a commit is asked for: by COMMIT, or by a statement that is a transaction of its own. */
export type Way = "commit" | "append";

/** A simple query "commit", as it goes over the wire: Q, length, text, 0. */
const commitMessage = Buffer.from([0x51, 0, 0, 0, 11, ...Buffer.from("commit"), 0]);
/** Parse (P, length, name, 0, text, 0) of a statement that is a commit, and Bind (B, length, 0, name, 0) of any. */
const parsed = /P[\s\S]{4}(runlog_[0-9a-f]+)\0with ns as/g;
const bound = /B[\s\S]{4}\0(runlog_[0-9a-f]+)\0/g;

/**
 * A way to PostgreSQL that breaks where it hurts: at what commits, before the
 * server has it, or after it has it and before its answer is back.
 */
export class CuttingProxy {
  readonly port: number;
  readonly #server: Server;
  readonly #sockets = new Set<Socket>();
  /** Commits that were cut. */
  readonly cuts: Record<Way, number> = { commit: 0, append: 0 };

  private constructor(server: Server, port: number) {
    this.#server = server;
    this.port = port;
  }

  /** Stands in front of a port; `decide` is asked at each commit. */
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
    const appends = new Set<string>();
    client.on("data", (chunk: Buffer) => {
      const way = wayOf(chunk, appends);
      const cut = way && decide();
      if (way !== undefined && cut !== undefined) this.cuts[way]++;
      if (cut === "before") {
        end();
        return;
      }
      upstream.write(chunk);
      isCut ||= cut === "after";
    });
    upstream.on("data", (chunk: Buffer) => {
      // Its answer has come, so it is committed; the client never sees it.
      if (isCut) end();
      else client.write(chunk);
    });
  }
}

/** Whether something in a chunk commits; `appends` are the statements of the connection that do. */
function wayOf(chunk: Buffer, appends: Set<string>): Way | undefined {
  if (chunk.includes(commitMessage)) return "commit";
  const text = chunk.toString("latin1");
  for (const [, name] of text.matchAll(parsed)) appends.add(name!);
  for (const [, name] of text.matchAll(bound)) if (appends.has(name!)) return "append";
  return undefined;
}
