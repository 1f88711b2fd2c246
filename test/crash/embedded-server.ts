/** `runlog serve` on a SQLite file, as it is run, and a client that watches its health. */
import { type Client, createClient } from "@connectrpc/connect";
import {
  Health,
  HealthCheckResponse_ServingStatus as Status,
} from "../../gen/grpc/health/v1/health_pb.js";
import { type Ended, main, RunningCommand } from "../cli/commands.ts";
import { type Connection, connect } from "./history.ts";

/** How to run it. */
export interface EmbeddedOptions {
  /** A program and its arguments that run it. */
  readonly under?: readonly string[];
  readonly env?: Readonly<Record<string, string>>;
  /** As for --limit. */
  readonly limits?: readonly string[];
}

/** A server that listens. */
export interface EmbeddedServer extends Connection {
  readonly url: string;
  readonly process: RunningCommand;
  readonly health: Client<typeof Health>;
  /** Appends one event to the run `r`; resolves with its seq once it is acknowledged. */
  append(runSeq: number, data?: string | Buffer): Promise<number>;
  /** The payloads of the run `r`. */
  payloads(): Promise<string[]>;
  /** Resolves once health says so. */
  untilReady(isReady: boolean): Promise<void>;
}

/** Starts servers, and ends those that are left. */
export class EmbeddedServers {
  readonly #started = new Set<RunningCommand>();
  readonly #connections = new Set<Connection>();

  /** Starts a server and resolves once it listens, or has ended without. */
  async start(
    path: string,
    { under = [], env = {}, limits = [] }: EmbeddedOptions = {},
  ): Promise<EmbeddedServer | Ended> {
    const flags = limits.flatMap((limit) => ["--limit", limit]);
    const serve = ["serve", "--listen", "127.0.0.1:0", "--journal", `sqlite:${path}`, ...flags];
    const [program = process.execPath, ...args] = [...under, process.execPath, main, ...serve];
    const command = new RunningCommand(args, { ...process.env, ...env }, program);
    this.#started.add(command);
    void command.ended.then(() => this.#started.delete(command));
    const url = await Promise.race([
      command.until("stdout", /^listening on (\S+)\n/).then((match) => match[1]!),
      command.ended.then(() => undefined),
    ]);
    if (url === undefined) return command.ended;
    const connection = connect(url);
    this.#connections.add(connection);
    return serverOn(url, command, connection);
  }

  /** As `start`, of a server that listens. */
  async listening(path: string, options?: EmbeddedOptions): Promise<EmbeddedServer> {
    const server = await this.start(path, options);
    if ("status" in server) throw new Error(`it ended: ${server.stderr}`);
    return server;
  }

  /** What those that run have logged: shown where a test fails. */
  get logs(): string {
    return [...this.#started].map(({ stderr }) => stderr).join("\n");
  }

  /** Kills what is left. */
  async endAll(): Promise<void> {
    for (const connection of this.#connections) connection.close();
    this.#connections.clear();
    await Promise.all([...this.#started].map((command) => command.kill("SIGKILL")));
  }
}

function serverOn(url: string, process: RunningCommand, connection: Connection): EmbeddedServer {
  const health = createClient(Health, connection.transport);
  const filter = { scope: { case: "runIds" as const, value: { runIds: ["r"] } } };
  return {
    ...connection,
    url,
    process,
    health,
    async append(runSeq, data = `${runSeq}`) {
      const events = [{ type: "t", data: Buffer.from(data) }];
      const { seq } = await connection.ingest.appendEvents({
        runId: "r",
        create: {},
        firstRunSeq: BigInt(runSeq),
        events,
      });
      return Number(seq);
    },
    async payloads() {
      const texts: string[] = [];
      for (let seq = 0n, end = false; !end; ) {
        const page = await connection.subscribe.readEvents({ filter, seq });
        for (const { record } of page.events) {
          if (record.case === "event") texts.push(Buffer.from(record.value.data).toString());
        }
        seq = page.nextSeq;
        end = page.end;
      }
      return texts;
    },
    async untilReady(isReady) {
      const wanted = isReady ? Status.SERVING : Status.NOT_SERVING;
      // Connect's streams are not ended by who stops reading them.
      const leaving = new AbortController();
      try {
        const { signal } = leaving;
        for await (const { status } of health.watch({}, { signal })) if (status === wanted) return;
      } finally {
        leaving.abort();
      }
    },
  };
}
