/** What the demo runs on: one server with an embedded journal, or three on one PostgreSQL. */
import { join } from "node:path";
import { PostgresServer } from "../dev/postgres-server.ts";
import type { Screen } from "./screen.ts";
import { ServerProcess } from "./server-process.ts";

/** Servers, and what breaks in the middle of the demo. */
export interface Setting {
  /** Starts everything; the URL, or URLs, of the servers. */
  start(signal: AbortSignal): Promise<string>;
  /** Breaks what is to be broken. */
  breakDown(): Promise<void>;
  /** Starts again what does not come back by itself. */
  repair(signal: AbortSignal): Promise<void>;
  /** Ends everything. */
  end(): Promise<void>;
}

/** One server on an embedded journal in a directory. */
export function embeddedSetting(screen: Screen, directory: string): Setting {
  const server = new ServerProcess(`sqlite:${join(directory, "runlog.db")}`);
  return {
    async start(signal) {
      const url = await server.start(signal);
      screen.act(`runlog serve: ${url}, journal in ${directory}`);
      return url;
    },
    async breakDown() {
      await server.kill();
      screen.act("kill -9 of the server; the workers go on and keep what is not acknowledged");
    },
    async repair(signal) {
      await server.start(signal);
      screen.act("the server is started again, on the same journal");
    },
    end: () => server.kill(),
  };
}

const nodeCount = 3;

/** Three servers on one PostgreSQL. */
export function clusterSetting(screen: Screen): Setting {
  let database: PostgresServer | undefined;
  let nodes: readonly ServerProcess[] = [];
  return {
    async start(signal) {
      screen.act("starting a PostgreSQL and three servers");
      const postgres = await PostgresServer.start();
      database = postgres;
      screen.act(`PostgreSQL: 127.0.0.1:${postgres.port}`);
      const journal = await postgres.createDatabase("runlog");
      nodes = Array.from({ length: nodeCount }, () => new ServerProcess(journal));
      const urls = await Promise.all(nodes.map((node) => node.start(signal)));
      screen.act(`runlog serve, ${nodeCount} times: ${urls.join(", ")}`);
      return urls.join(",");
    },
    async breakDown() {
      await nodes[0]?.kill();
      screen.act("kill -9 of the first node; who was there moves to another");
      await database?.kill();
      screen.act("kill -9 of PostgreSQL; the nodes wait, and nothing is acknowledged");
    },
    async repair() {
      await database?.start();
      screen.act("PostgreSQL is started again; the first node stays away");
    },
    async end() {
      for (const node of nodes) await node.kill();
      await database?.remove();
    },
  };
}
