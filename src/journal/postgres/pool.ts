/** Connections to PostgreSQL, and statements that are prepared once on each. */
import { createHash } from "node:crypto";
import type { CompiledQuery, QueryResult } from "kysely";
import pg from "pg";
import { startTimer } from "../../timers.ts";
import type { Deadline } from "../deadline.ts";
import { PostgresClient, type PostgresClientOptions } from "./client.ts";
import { isUnpreparable, UnreachableError } from "./errors.ts";
import { beginReadText, beginText, type PostgresTimeouts } from "./settings.ts";

/** Texts of statements that are prepared; the hot paths use about a hundred and twenty. */
const maxPreparedStatements = 256;

/** What connections are opened with. */
export interface PostgresPoolOptions extends PostgresClientOptions {
  /** At most. */
  readonly connections: number;
  readonly statements: PreparedStatements;
}

/** A connection that was taken out of a pool. */
export type PooledClient = PostgresClient & Pick<pg.PoolClient, "release">;

/**
 * Names of statements that are prepared. A name stands for one text, whichever
 * process gives it: behind a pooler that hands out connections by the transaction,
 * nodes find the statements of others under their names.
 */
export class PreparedStatements {
  readonly #names = new Map<string, string>();
  /** Whether whatever is in front of the server keeps statements prepared. */
  #areKept = true;

  /** The name of a text; undefined where it is not to be prepared. */
  nameOf(text: string): string | undefined {
    if (!this.#areKept) return undefined;
    let name = this.#names.get(text);
    if (name === undefined && this.#names.size < maxPreparedStatements) {
      name = `runlog_${createHash("sha256").update(text).digest("hex").slice(0, 32)}`;
      this.#names.set(text, name);
    }
    return name;
  }

  /** A prepared statement was not there, or another one's was. */
  giveUp(): void {
    this.#areKept = false;
  }
}

/**
 * A pool of connections to the host that takes writes. A host that
 * cannot be reached, or is a standby, makes the next connection go to another.
 */
export class PostgresPool {
  readonly #pool: pg.Pool;
  readonly #options: PostgresPoolOptions;

  constructor(options: PostgresPoolOptions) {
    this.#options = options;
    this.#pool = new pg.Pool({
      max: options.connections,
      Client: class extends PostgresClient {
        constructor() {
          super(options);
        }
      },
      // The pool waits for what it returns, whatever the types say.
      onConnect: ((client: PostgresClient) => client.greet()) as (client: pg.ClientBase) => unknown,
    } as pg.PoolConfig);
    // A connection that breaks while nobody uses it is replaced.
    this.#pool.on("error", () => undefined);
  }

  /** Whether somebody waits for a connection. */
  get isAwaited(): boolean {
    return this.#pool.waitingCount > 0;
  }

  /**
   * Takes a connection out of the pool; it goes back with `release`.
   *
   * @throws UnreachableError where none is free by then
   */
  async connect(deadline: Deadline): Promise<PooledClient> {
    for (;;) {
      const client = await this.#take(deadline);
      if (client.isUsable) return client;
      client.release(true);
    }
  }

  #take(deadline: Deadline): Promise<PooledClient> {
    if (this.#pool.ending) return Promise.reject(new UnreachableError("the journal is closed"));
    return new Promise((resolve, reject) => {
      let isOver = false;
      const timer = startTimer(() => {
        isOver = true;
        reject(new UnreachableError("no connection to the database was free in time"));
      }, deadline.leftMs);
      this.#pool.connect().then(
        (client) => {
          clearTimeout(timer);
          if (isOver) client.release();
          else resolve(client as unknown as PooledClient);
        },
        (error: unknown) => {
          clearTimeout(timer);
          reject(error as Error);
        },
      );
    });
  }

  /** A connection of its own, which is not open yet. */
  newClient(): pg.Client {
    return new PostgresClient(this.#options);
  }

  /** Runs a statement on a connection. */
  query<R>(client: PostgresClient, query: CompiledQuery, by: Deadline): Promise<QueryResult<R>> {
    return this.#execute(query, (config) => client.run<R & pg.QueryResultRow>(config, by));
  }

  /**
   * Runs a statement that is a transaction of its own, and commits.
   *
   * @throws UncertainCommitError where the server warns
   */
  commit<R>(client: PostgresClient, query: CompiledQuery, by: Deadline): Promise<QueryResult<R>> {
    return this.#execute(query, (config) => client.commit<R & pg.QueryResultRow>(config, by));
  }

  async #execute<R>(
    { sql: text, parameters }: CompiledQuery,
    run: (config: pg.QueryConfig) => Promise<pg.QueryResult<R & pg.QueryResultRow>>,
  ): Promise<QueryResult<R>> {
    const { statements } = this.#options;
    const name = statements.nameOf(text);
    const values = parameters as unknown[];
    try {
      const result = await run({ text, values, ...(name === undefined ? {} : { name }) });
      return { rows: result.rows, numAffectedRows: BigInt(result.rowCount ?? 0) };
    } catch (error) {
      if (name !== undefined && isUnpreparable(error)) statements.giveUp();
      throw error;
    }
  }

  /** Reads on whichever connection is free; one on which it fails is not used again. */
  async read<R>(
    query: CompiledQuery,
    timeouts: PostgresTimeouts,
    deadline: Deadline,
  ): Promise<QueryResult<R>> {
    const { barrier } = this.#options;
    if (barrier.isRaised) await barrier.passed(() => this.#confirm(timeouts, deadline));
    const client = await this.connect(deadline);
    try {
      const result = client.peer.isPooled
        ? await this.#readInTransaction<R>(client, query, timeouts, deadline)
        : await this.query<R>(client, query, deadline);
      client.release();
      return result;
    } catch (error) {
      client.release(true);
      throw error;
    }
  }

  /** With its own time-out, where the session cannot have it; sent in one go. */
  async #readInTransaction<R>(
    client: PostgresClient,
    query: CompiledQuery,
    timeouts: PostgresTimeouts,
    deadline: Deadline,
  ): Promise<QueryResult<R>> {
    const [, result] = await Promise.all([
      client.run({ text: beginReadText(timeouts, deadline) }, deadline),
      this.query<R>(client, query, deadline),
      client.run({ text: "commit" }, deadline),
    ]);
    return result;
  }

  /** A commit that changes nothing, and that the server has to confirm as any other. */
  async #confirm(timeouts: PostgresTimeouts, deadline: Deadline): Promise<void> {
    const client = await this.connect(deadline);
    try {
      const emit = "pg_logical_emit_message(true, 'runlog', '')";
      const text = `${beginText(client, timeouts, deadline)}, pg_is_in_recovery() as standby,
        case when not pg_is_in_recovery() then ${emit} end`;
      const results = (await client.run({ text }, deadline)) as unknown as pg.QueryResult[];
      if (results.at(-1)?.rows[0]?.standby !== false) {
        throw new UnreachableError("the host is a standby");
      }
      await client.commit({ text: "commit" }, deadline);
      client.release();
    } catch (error) {
      client.release(true);
      throw error;
    }
  }

  /** Closes all connections once they are back. */
  async close(): Promise<void> {
    if (!this.#pool.ending) await this.#pool.end();
  }
}
