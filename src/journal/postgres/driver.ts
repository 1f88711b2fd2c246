/**
 * How Kysely runs statements on PostgreSQL: transactions on a connection of
 * their own, with the time that they may take, and reads that are tried again while
 * the server is away.
 */
import type { Writable } from "node:stream";
import {
  AbortedTransactionError,
  type CompiledQuery,
  type DatabaseConnection,
  type Dialect,
  type Driver,
  PostgresAdapter,
  PostgresIntrospector,
  PostgresQueryCompiler,
  type QueryResult,
} from "kysely";
import { isBulk } from "../bulk.ts";
import type { Deadline } from "../deadline.ts";
import { returnsNoRows } from "../returns-no-rows.ts";
import { isReadOnly, sqlStateOf } from "./errors.ts";
import type { PooledClient, PostgresPool } from "./pool.ts";
import { beginText, type PostgresTimeouts } from "./settings.ts";

/** Runs a statement that changes nothing, again where it fails for a passing reason. */
export type Retrying = <T>(read: (deadline: Deadline) => Promise<T>) => Promise<T>;

/** Kysely's dialect for one transaction, which is over by the deadline. */
export function transactionDialect(
  pool: PostgresPool,
  timeouts: PostgresTimeouts,
  deadline: Deadline,
): Dialect {
  return dialectWith(() => new TransactionDriver(pool, timeouts, deadline));
}

/** Kysely's dialect for reads outside of transactions. */
export function readDialect(
  pool: PostgresPool,
  timeouts: PostgresTimeouts,
  retrying: Retrying,
): Dialect {
  return dialectWith(() => new ReadDriver(pool, timeouts, retrying));
}

function dialectWith(createDriver: () => Driver): Dialect {
  return {
    createDriver,
    createAdapter: () => new Adapter(),
    createIntrospector: (db) => new PostgresIntrospector(db),
    createQueryCompiler: () => new PostgresQueryCompiler(),
  };
}

/** Migrations run in one transaction, which has the lock already. */
class Adapter extends PostgresAdapter {
  override acquireMigrationLock(): Promise<void> {
    return Promise.resolve();
  }

  override releaseMigrationLock(): Promise<void> {
    return Promise.resolve();
  }
}

const noStreams = "results are read in pages, not streamed";

/** Each read takes whichever connection is free, so one that breaks costs nothing. */
class ReadDriver implements Driver {
  readonly #pool: PostgresPool;
  readonly #connection: DatabaseConnection;

  constructor(pool: PostgresPool, timeouts: PostgresTimeouts, retrying: Retrying) {
    this.#pool = pool;
    this.#connection = {
      executeQuery: <R>(query: CompiledQuery) =>
        retrying((deadline) => pool.read<R>(query, timeouts, deadline)),
      streamQuery: () => {
        throw new Error(noStreams);
      },
    };
  }

  init(): Promise<void> {
    return Promise.resolve();
  }

  acquireConnection(): Promise<DatabaseConnection> {
    return Promise.resolve(this.#connection);
  }

  releaseConnection(): Promise<void> {
    return Promise.resolve();
  }

  beginTransaction(): Promise<void> {
    return Promise.reject(new Error("transactions go through Journal.write"));
  }

  commitTransaction(): Promise<void> {
    return this.beginTransaction();
  }

  rollbackTransaction(): Promise<void> {
    return this.beginTransaction();
  }

  destroy(): Promise<void> {
    return this.#pool.close();
  }
}

/**
 * A connection in a transaction. Statements that answer nothing go out together
 * with the next one that does, or with the commit, and that tells what became of
 * them: one round trip and one packet for all of them.
 */
class TransactionConnection implements DatabaseConnection {
  readonly #pool: PostgresPool;
  readonly #client: PooledClient;
  readonly #deadline: Deadline;
  /** BEGIN, until it is known to have succeeded. */
  #beginning: Promise<unknown> | undefined;
  /** Why the transaction cannot go on; what it is asked after that fails because of it. */
  #failure: Error | undefined;
  /** Resolves once the last statement that was not waited for has been answered, and those before it. */
  #last: Promise<void> = Promise.resolve();
  #isBroken = false;
  readonly #stream: Writable;
  #isHeld = false;

  constructor(pool: PostgresPool, client: PooledClient, deadline: Deadline) {
    this.#pool = pool;
    this.#client = client;
    this.#deadline = deadline;
    // pg has no other way to its socket.
    this.#stream = (client as unknown as { connection: { stream: Writable } }).connection.stream;
  }

  /** Begins; the answer is looked at with that to the first statement. */
  begin(timeouts: PostgresTimeouts): void {
    this.#hold();
    const text = beginText(this.#client, timeouts, this.#deadline);
    this.#beginning = this.#client.run({ text }, this.#deadline);
    this.#beginning.catch(() => undefined);
  }

  async executeQuery<R>(query: CompiledQuery): Promise<QueryResult<R>> {
    if (isBulk(query)) {
      for (const one of query.together()) await this.#execute<R>(one, true);
      return { rows: [] };
    }
    return this.#execute(query, returnsNoRows(query));
  }

  async #execute<R>(query: CompiledQuery, isDeferred: boolean): Promise<QueryResult<R>> {
    this.#hold();
    const answer = this.#pool.query<R>(this.#client, query, this.#deadline);
    if (this.#beginning === undefined && isDeferred) {
      // Not waited for: where it fails, the server refuses whatever follows it.
      this.#last = answer.then(
        () => undefined,
        (error: unknown) => {
          this.#fail(error);
        },
      );
      return { rows: [] };
    }
    this.#send();
    try {
      answer.catch(() => undefined);
      await this.#begun();
      return await answer;
    } catch (error) {
      throw this.#fail(error);
    }
  }

  async commit(): Promise<void> {
    await this.#begun();
    this.#hold();
    const committed = this.#client.commit({ text: "commit" }, this.#deadline);
    this.#send();
    const { command } = await committed.catch((error: unknown) => {
      throw this.#fail(error);
    });
    if (command !== "ROLLBACK") return;
    // PostgreSQL answers so where a statement before it failed.
    await this.#last;
    throw this.#failure ?? new AbortedTransactionError();
  }

  async rollback(): Promise<void> {
    this.#send();
    // The server rolls back what its client leaves behind.
    if (this.#isBroken) return;
    try {
      await this.#client.run({ text: "rollback" }, this.#deadline);
    } catch {
      this.#isBroken = true;
    }
  }

  /** The first reason is the one that counts: the server refuses whatever follows it. */
  #fail(error: unknown): Error {
    this.#failure ??= error as Error;
    // Without an answer it is not known in which state the connection is.
    if (sqlStateOf(error) === undefined || isReadOnly(error)) this.#isBroken = true;
    return this.#failure;
  }

  release(): void {
    this.#client.release(this.#isBroken);
  }

  /** Waits for the answer to BEGIN; a statement that ran without it would be a transaction of its own. */
  async #begun(): Promise<void> {
    if (this.#beginning === undefined) return;
    this.#send();
    await this.#beginning;
    this.#beginning = undefined;
  }

  #hold(): void {
    if (this.#isHeld) return;
    this.#stream.cork();
    this.#isHeld = true;
  }

  #send(): void {
    if (!this.#isHeld) return;
    this.#stream.uncork();
    this.#isHeld = false;
  }

  streamQuery(): AsyncIterableIterator<QueryResult<never>> {
    throw new Error(noStreams);
  }
}

class TransactionDriver implements Driver {
  readonly #pool: PostgresPool;
  readonly #timeouts: PostgresTimeouts;
  readonly #deadline: Deadline;

  constructor(pool: PostgresPool, timeouts: PostgresTimeouts, deadline: Deadline) {
    this.#pool = pool;
    this.#timeouts = timeouts;
    this.#deadline = deadline;
  }

  init(): Promise<void> {
    return Promise.resolve();
  }

  async acquireConnection(): Promise<DatabaseConnection> {
    const client = await this.#pool.connect(this.#deadline);
    return new TransactionConnection(this.#pool, client, this.#deadline);
  }

  beginTransaction(connection: DatabaseConnection): Promise<void> {
    (connection as TransactionConnection).begin(this.#timeouts);
    return Promise.resolve();
  }

  commitTransaction(connection: DatabaseConnection): Promise<void> {
    return (connection as TransactionConnection).commit();
  }

  rollbackTransaction(connection: DatabaseConnection): Promise<void> {
    return (connection as TransactionConnection).rollback();
  }

  releaseConnection(connection: DatabaseConnection): Promise<void> {
    (connection as TransactionConnection).release();
    return Promise.resolve();
  }

  destroy(): Promise<void> {
    return Promise.resolve();
  }
}
