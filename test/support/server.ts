/** A real server in this process, on a free port and a database of its own. */
import { mkdtemp, rm } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { pino } from "pino";
import { type RunningServer, type ServerOptions, startServer } from "../../src/server/server.ts";

/** A test's server. */
export interface TestServer {
  readonly url: string;
  /** What the server logged as an error. */
  readonly errors: readonly string[];
  drain(): Promise<void>;
  /** Drains it and starts another one on the same database; `changes` where that differs. */
  restart(changes?: Partial<ServerOptions>): Promise<TestServer>;
  /** Drains it and removes the database. */
  remove(): Promise<void>;
}

/** Starts a server; `options` where they differ from the usual. */
export async function startTestServer(options: Partial<ServerOptions> = {}): Promise<TestServer> {
  return startIn(await mkdtemp(join(tmpdir(), "runlog-wire-")), options);
}

async function startIn(directory: string, options: Partial<ServerOptions>): Promise<TestServer> {
  const errors: string[] = [];
  const logger = pino({ level: "error" }, { write: (line: string) => errors.push(line) });
  const server: RunningServer = await startServer({
    host: "127.0.0.1",
    port: 0,
    journal: `sqlite:${join(directory, "journal.db")}`,
    logger,
    drainTimeoutMs: 500,
    ...options,
  });
  return {
    url: server.url,
    errors,
    drain: () => server.drain(),
    async restart(changes = {}) {
      await server.drain();
      return startIn(directory, { ...options, ...changes });
    },
    async remove() {
      await server.drain();
      await rm(directory, { recursive: true });
    },
  };
}
