/**
 * Three nodes on one PostgreSQL: `runlog serve` as deploy/ runs it, with TLS and an access file,
 * drained by SIGTERM and started again.
 */
import { type ChildProcess, spawn } from "node:child_process";
import { once } from "node:events";
import { join } from "node:path";
import { createInterface } from "node:readline";
import { freePort, PostgresServer } from "../dev/postgres-server.ts";
import type { Secrets } from "../test/support/secrets.ts";
import { end } from "./programs.ts";

const main = join(import.meta.dirname, "../src/cli/main.ts");

/** A node that keeps its port. */
class Node {
  readonly port: number;
  readonly #args: readonly string[];
  readonly #env: NodeJS.ProcessEnv;
  #child: ChildProcess | undefined;

  constructor(port: number, journal: string, { secrets, flags = [] }: ClusterOptions) {
    this.port = port;
    this.#args = [main, "serve", "--listen", `127.0.0.1:${port}`, ...flags];
    const { cert, key } = secrets.pair("node");
    this.#env = {
      ...process.env,
      RUNLOG_JOURNAL: journal,
      RUNLOG_ACCESS: secrets.path("node/access.json"),
      RUNLOG_TLS_CERT: cert,
      RUNLOG_TLS_KEY: key,
    };
  }

  /** Starts it; resolves once it serves. */
  async start(): Promise<void> {
    const child = spawn(process.execPath, this.#args, {
      env: this.#env,
      stdio: ["ignore", "pipe", "inherit"],
    });
    this.#child = child;
    await once(createInterface({ input: child.stdout }), "line");
  }

  /** Drains it; resolves once its process has ended. */
  async drain(): Promise<void> {
    if (this.#child !== undefined) await end(this.#child);
  }
}

/** How to start the nodes. */
export interface ClusterOptions {
  readonly secrets: Secrets;
  /** More flags of `runlog serve`. Default: none. */
  readonly flags?: readonly string[];
}

/** The nodes and their database. */
export interface Cluster {
  readonly nodes: readonly Node[];
  readonly ports: readonly number[];
  stop(): Promise<void>;
}

/** Starts them. */
export async function startCluster(options: ClusterOptions): Promise<Cluster> {
  const postgres = await PostgresServer.start({ settings: { fsync: "off" } });
  const journal = await postgres.createDatabase("mesh");
  const ports = [await freePort(), await freePort(), await freePort()];
  const nodes = ports.map((port) => new Node(port, journal, options));
  const stop = async () => {
    await Promise.all(nodes.map((node) => node.drain()));
    await postgres.remove();
  };
  try {
    await Promise.all(nodes.map((node) => node.start()));
  } catch (error) {
    await stop();
    throw error;
  }
  return { nodes, ports, stop };
}
