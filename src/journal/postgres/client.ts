import pg from "pg";
import { Deadline } from "../deadline.ts";
import type { ReadBarrier } from "./barrier.ts";
import {
  codeOf,
  isOfSystem,
  isReadOnly,
  sqlStateOf,
  UncertainCommitError,
  UnreachableError,
} from "./errors.ts";
import type { PostgresHost, PostgresHosts } from "./hosts.ts";

/** Milliseconds that a host may take to accept a connection before another one is tried. */
const connectTimeoutMs = 5_000;
/** Milliseconds before a silent connection is asked whether it is still there. */
const keepAliveDelayMs = 10_000;

/** Seqs, counts and sums stay below 2^53, so they are numbers and not text. */
const types: pg.CustomTypesConfig = {
  getTypeParser: (id, format) =>
    id === pg.types.builtins.INT8 || id === pg.types.builtins.NUMERIC
      ? Number
      : pg.types.getTypeParser(id, format as never),
};

/** Settings of the server, by their names; see postgres/settings.ts. */
export type ServerSettings = Readonly<Record<string, number | string>>;

/** What is known of the other end. */
interface Peer {
  /** Whether a pooler hands out the server's connections by the transaction: a session keeps nothing. */
  readonly isPooled: boolean;
  /** As 170004. */
  readonly version: number;
}

/** What connections are opened with. */
export interface PostgresClientOptions {
  readonly hosts: PostgresHosts;
  readonly barrier: ReadBarrier;
  /** What a session is set to, where it is ours alone. */
  readonly session: ServerSettings;
}

type OnConnected = (error: Error) => void;

/**
 * One connection to PostgreSQL: which host it leads to, what the server or a
 * pooler at its other end can do, and what became of it.
 *
 * Invariant: where it breaks, whatever waits for it fails with UnreachableError or
 * an error that has a SQLSTATE, and readers wait (postgres/barrier.ts).
 */
export class PostgresClient extends pg.Client {
  readonly #options: PostgresClientOptions;
  readonly #host: PostgresHost;
  readonly #warned = new WeakSet();
  #isLost = false;
  #peer: Peer = { isPooled: true, version: 0 };

  constructor(options: PostgresClientOptions) {
    const host = options.hosts.current;
    super({
      ...host.config,
      application_name: "runlog",
      types,
      // Statements that do not need each other's answers go out together.
      pipeline: true,
      keepAlive: true,
      keepAliveInitialDelayMillis: keepAliveDelayMs,
      connectionTimeoutMillis: connectTimeoutMs,
    } as pg.ClientConfig);
    this.#options = options;
    this.#host = host;
    this.on("error", () => {
      this.#lose();
    });
    this.on("notice", () => {
      const active = this.#activeQuery;
      if (active !== undefined) this.#warned.add(active);
    });
  }

  /** What is at the other end, once `greet` has asked. */
  get peer(): Peer {
    return this.#peer;
  }

  /** Whether the next query may use it. */
  get isUsable(): boolean {
    return !this.#isLost && this.#options.hosts.current === this.#host;
  }

  override connect(): Promise<pg.Client>;
  override connect(callback: OnConnected): void;
  override connect(callback?: OnConnected): Promise<pg.Client> | undefined {
    if (callback === undefined) return super.connect();
    super.connect((error: Error) => {
      // null where there is none, whatever the types say.
      const problem = error as Error | null;
      if (problem !== null) this.#options.hosts.rotate(this.#host);
      callback(problem === null ? error : this.#reasonOf(problem));
    });
    return undefined;
  }

  /**
   * Asks what is at the other end, and sets the session where it is ours alone.
   *
   * @throws UnreachableError where it is a standby, and there are other hosts
   */
  async greet(): Promise<void> {
    const { hosts, session } = this.#options;
    // A pooler has numbers of its own for its clients' connections.
    const isOurs = `pg_backend_pid() = ${(this as unknown as { processID: number }).processID}`;
    const set = Object.entries(session).map(
      ([name, value]) => `set_config('${name}', '${value}', false)`,
    );
    const text = `select pg_is_in_recovery() as standby, ${isOurs} as ours,
      current_setting('server_version_num')::int as version,
      case when ${isOurs} then array[${set.join(", ")}] end as settings`;
    const { rows } = await this.run<{ standby: boolean; ours: boolean; version: number }>(
      { text },
      new Deadline(connectTimeoutMs),
    );
    const { standby, ours, version } = rows[0]!;
    this.#peer = { isPooled: !ours, version };
    if (standby && hosts.count > 1) {
      this.#lose();
      throw new UnreachableError("the host is a standby");
    }
  }

  /**
   * Runs a statement.
   *
   * @throws UnreachableError where the connection breaks, or the time is over;
   *   the connection is broken then
   */
  async run<R extends pg.QueryResultRow>(
    config: pg.QueryConfig,
    deadline: Deadline,
  ): Promise<pg.QueryResult<R>> {
    try {
      return await this.query<R>({ ...config, query_timeout: deadline.leftMs } as pg.QueryConfig);
    } catch (error) {
      throw this.#failed(error);
    }
  }

  /**
   * Runs a statement that commits.
   *
   * @throws UncertainCommitError where the server warns; and as `run` does
   */
  async commit<R extends pg.QueryResultRow>(
    config: pg.QueryConfig,
    deadline: Deadline,
  ): Promise<pg.QueryResult<R>> {
    const query = Object.assign(new pg.Query<R>(config), { query_timeout: deadline.leftMs });
    try {
      const result = await new Promise<pg.QueryResult<R>>((resolve, reject) => {
        void this.query(query as never, (error: Error | null, answer: pg.QueryResult<R>) => {
          if (error === null) resolve(answer);
          else reject(error);
        });
      });
      if (!this.#warned.has(query)) return result;
    } catch (error) {
      throw this.#failed(error);
    }
    this.#options.barrier.raise();
    throw new UncertainCommitError();
  }

  /** What a statement failed with, as whoever asked is to see it. */
  #failed(error: unknown): unknown {
    if (isReadOnly(error)) {
      this.#options.hosts.leave(this.#host);
      this.#options.barrier.raise();
    }
    return this.#reasonOf(error);
  }

  /** An error with a SQLSTATE or a system's code is its own reason; another one is that of the connection, if that is gone. */
  #reasonOf<E>(error: E): E | UnreachableError {
    if (sqlStateOf(error) !== undefined || isOfSystem(error)) return error;
    // Before it is established it may fail for a reason that stays, as a certificate.
    const isGone = this.#isLost || (this.#isClosed && codeOf(error) === undefined);
    return isGone
      ? new UnreachableError("the connection to the database broke", { cause: error })
      : error;
  }

  #lose(): void {
    if (this.#isLost) return;
    this.#isLost = true;
    this.#options.barrier.raise();
    this.#options.hosts.rotate(this.#host);
  }

  // pg has no other way to these.
  get #isClosed(): boolean {
    const { connection } = this as unknown as { connection: { stream: { destroyed: boolean } } };
    return connection.stream.destroyed;
  }

  get #activeQuery(): object | undefined {
    const { _activeQuery } = this as unknown as { _activeQuery: object | null };
    return _activeQuery ?? undefined;
  }
}
