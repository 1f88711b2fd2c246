/** A real server in this process, on a free port and a database of its own. */
import { mkdtemp, rm } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { pino } from "pino";
import { type RunningServer, type ServerOptions, startServer } from "../../src/server/server.ts";
import { giveBackDatabase, takeDatabase } from "./postgres.ts";

/** A test's server. */
export interface TestServer {
  readonly url: string;
  /** Its port for plaintext beside TLS. */
  readonly plaintextUrl: string | undefined;
  /** What the server logged as an error. */
  readonly errors: readonly string[];
  drain(): Promise<void>;
  /** Drains it and starts another one on the same database; `changes` where that differs. */
  restart(changes?: Partial<ServerOptions>): Promise<TestServer>;
  /** Drains it and removes the database. */
  remove(): Promise<void>;
}

/** Starts a server; `options` where they differ from the usual. */
export type StartServer = (options?: Partial<ServerOptions>) => Promise<TestServer>;

/** Starts a server on an embedded database. */
export const startTestServer: StartServer = async (options = {}) => {
  const directory = await mkdtemp(join(tmpdir(), "runlog-wire-"));
  const journal = `sqlite:${join(directory, "journal.db")}`;
  return startOn({ journal, ...options }, () => rm(directory, { recursive: true }));
};

/** Starts a server on a database of PostgreSQL. */
const startOnPostgres: StartServer = async (options = {}) => {
  const journal = await takeDatabase();
  return startOn({ journal, ...options }, () => giveBackDatabase(journal));
};

/** How to start a server on each kind of journal. */
export const journalKinds: Readonly<Record<string, StartServer>> = {
  SQLite: startTestServer,
  PostgreSQL: startOnPostgres,
};

async function startOn(
  options: Partial<ServerOptions> & Pick<ServerOptions, "journal">,
  removeJournal: () => Promise<void>,
): Promise<TestServer> {
  const errors: string[] = [];
  const logger = pino({ level: "error" }, { write: (line: string) => errors.push(line) });
  const server: RunningServer = await startServer({
    host: "127.0.0.1",
    port: 0,
    logger,
    drainTimeoutMs: 500,
    ...options,
  });
  return {
    url: server.url,
    plaintextUrl: server.plaintextUrl,
    errors,
    drain: () => server.drain(),
    async restart(changes = {}) {
      await server.drain();
      return startOn({ ...options, ...changes }, removeJournal);
    },
    async remove() {
      await server.drain();
      await removeJournal();
    },
  };
}
