/** Connections to PostgreSQL, and statements that are prepared once on each. */
import type { CompiledQuery, QueryResult } from "kysely";
import pg from "pg";
import { isUnpreparable } from "./postgres-errors.ts";
import type { PostgresHosts } from "./postgres-hosts.ts";

/** Milliseconds that a host may take to accept a connection before another one is tried. */
const connectTimeoutMs = 5_000;
/** Milliseconds before a silent connection is asked whether it is still there. */
const keepAliveDelayMs = 10_000;
/** Texts of statements that are prepared; the hot paths use about a hundred and twenty. */
const maxPreparedStatements = 256;

/** Seqs, counts and sums stay below 2^53, so they are numbers and not text. */
const types: pg.CustomTypesConfig = {
  getTypeParser: (id, format) =>
    id === pg.types.builtins.INT8 || id === pg.types.builtins.NUMERIC
      ? Number
      : pg.types.getTypeParser(id, format as never),
};

/** What connections are opened with. */
export interface PostgresPoolOptions {
  readonly hosts: PostgresHosts;
  /** At most. */
  readonly connections: number;
  /** Milliseconds that a statement may take before its connection is given up. */
  readonly queryTimeoutMs: number;
}

/**
 * A pool of connections to the host that takes writes. Whoever finds that a
 * host cannot be reached, or is a standby, sends the next connection to another.
 */
export class PostgresPool {
  readonly #pool: pg.Pool;
  readonly #Client: typeof pg.Client;
  readonly #statements = new Map<string, string>();
  /** Whether whatever is in front of the server keeps statements prepared. */
  #prepares = true;

  constructor({ hosts, connections, queryTimeoutMs }: PostgresPoolOptions) {
    this.#Client = clientOf(hosts, queryTimeoutMs);
    this.#pool = new pg.Pool({
      max: connections,
      Client: this.#Client,
      // The pool waits for what it returns, whatever the types say.
      onConnect:
        hosts.count > 1 ? (refuseStandby as (client: pg.ClientBase) => unknown) : undefined,
    });
    // A connection that breaks while nobody uses it is replaced.
    this.#pool.on("error", () => undefined);
  }

  /** Whether somebody waits for a connection. */
  get isAwaited(): boolean {
    return this.#pool.waitingCount > 0;
  }

  /** Takes a connection out of the pool; it goes back with `release`. */
  connect(): Promise<pg.PoolClient> {
    return this.#pool.connect();
  }

  /** A connection of its own, which is not open yet. */
  newClient(): pg.Client {
    return new this.#Client();
  }

  /** Runs a statement on a connection. */
  async query<R>(
    client: pg.ClientBase,
    { sql: text, parameters }: CompiledQuery,
  ): Promise<QueryResult<R>> {
    const name = this.#nameOf(text);
    try {
      const result = await client.query<R & pg.QueryResultRow>({
        text,
        values: parameters as unknown[],
        ...(name === undefined ? {} : { name }),
      });
      return { rows: result.rows, numAffectedRows: BigInt(result.rowCount ?? 0) };
    } catch (error) {
      if (name !== undefined && isUnpreparable(error)) this.#prepares = false;
      throw error;
    }
  }

  /** Runs a statement on whichever connection is free; one on which it fails is not used again. */
  async run<R>(query: CompiledQuery): Promise<QueryResult<R>> {
    const client = await this.connect();
    try {
      const result = await this.query<R>(client, query);
      client.release();
      return result;
    } catch (error) {
      client.release(true);
      throw error;
    }
  }

  /** Closes all connections once they are back. */
  async close(): Promise<void> {
    if (!this.#pool.ending) await this.#pool.end();
  }

  #nameOf(text: string): string | undefined {
    if (!this.#prepares) return undefined;
    let name = this.#statements.get(text);
    if (name === undefined && this.#statements.size < maxPreparedStatements) {
      name = `runlog_${this.#statements.size}`;
      this.#statements.set(text, name);
    }
    return name;
  }
}

type OnConnected = (error: Error) => void;

/** A kind of client that connects to whichever host is tried when it is made. */
function clientOf(hosts: PostgresHosts, queryTimeoutMs: number): typeof pg.Client {
  return class extends pg.Client {
    readonly #target: pg.ClientConfig;

    constructor() {
      const target = hosts.current;
      super({
        ...target,
        application_name: "runlog",
        types,
        // Statements that do not need each other's answers go out together.
        pipeline: true,
        keepAlive: true,
        keepAliveInitialDelayMillis: keepAliveDelayMs,
        connectionTimeoutMillis: connectTimeoutMs,
        query_timeout: queryTimeoutMs,
      } as pg.ClientConfig);
      this.#target = target;
      this.on("error", () => {
        hosts.rotate(target);
      });
    }

    override connect(): Promise<pg.Client>;
    override connect(callback: OnConnected): void;
    override connect(callback?: OnConnected): Promise<pg.Client> | undefined {
      if (callback === undefined) return super.connect();
      super.connect((error: Error) => {
        // null where there is none, whatever the types say.
        if ((error as Error | null) !== null) hosts.rotate(this.#target);
        callback(error);
      });
      return undefined;
    }
  };
}

/** With several hosts, those that follow the primary are left alone. */
async function refuseStandby(client: pg.ClientBase): Promise<void> {
  const { rows } = await client.query<{ standby: boolean }>(
    "select pg_is_in_recovery() as standby",
  );
  if (rows[0]?.standby !== true) return;
  client.emit("error", new Error("the host is a standby"));
  throw new Error("the host is a standby");
}
