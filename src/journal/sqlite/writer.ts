/**
 * The one connection that writes to a SQLite journal, in a thread of its own:
 * while a commit waits for the disk, or a checkpoint copies pages, calls go on.
 *
 * Statements that answer nothing are sent together with the next one that does,
 * or with the commit, so that a transaction costs few messages.
 */
import { once } from "node:events";
import { Worker } from "node:worker_threads";
import { SqliteError } from "better-sqlite3";
import {
  type CompiledQuery,
  type DatabaseConnection,
  type Dialect,
  type Driver,
  type QueryResult,
  SqliteAdapter,
  SqliteIntrospector,
  SqliteQueryCompiler,
} from "kysely";
import { isBulk } from "../bulk.ts";
import { returnsNoRows } from "../returns-no-rows.ts";
import { GuardError } from "./guard.ts";
import { type Answer, beginText, commitText, pack, type Statement, type Work } from "./messages.ts";
import type { SqliteOptions } from "./options.ts";

/** The name of the thread's file where types are stripped, and where they were. */
const workerFile = import.meta.url.endsWith(".ts") ? "./worker.ts" : "./worker.js";

/** Bytes of a buffer that is kept for later: as much as a commit has at most. */
const maxSpareBytes = 32 * 1024 * 1024;
/** Buffers that are kept: two commits are in flight. */
const maxSpares = 2;

type Settle = PromiseWithResolvers<unknown>;

/** The thread. */
export class SqliteWriter {
  readonly #worker: Worker;
  /** The callers that wait for an answer; answers come in order. */
  readonly #waiting: Settle[] = [];
  /**
   * Buffers for values that are free: memory that has been used already costs no page faults,
   * and no collection of garbage.
   */
  readonly #spares: ArrayBuffer[] = [];
  #ended: Error | undefined;
  #isStopping = false;
  readonly #died = Promise.withResolvers<Error>();

  private constructor(options: SqliteOptions) {
    this.#worker = new Worker(new URL(workerFile, import.meta.url), { workerData: options });
    this.#worker.on("message", (answer: Answer) => {
      const waiting = this.#waiting.shift();
      if (answer.t !== "done") {
        waiting?.reject(toError(answer));
        return;
      }
      const { value, values } = answer;
      if (values !== undefined) this.#keep(values);
      waiting?.resolve(value);
    });
    this.#worker.on("error", (error) => {
      this.#end(error as Error);
    });
    this.#worker.on("exit", () => {
      this.#end(
        this.#isStopping
          ? new SqliteError("the journal was closed", "SQLITE_MISUSE")
          : new Error("it ended by itself"),
      );
    });
  }

  /** Resolves with the reason once the thread has ended without having been stopped. */
  get died(): Promise<Error> {
    return this.#died.promise;
  }

  /**
   * Starts the thread, which connects to the database.
   *
   * @throws SqliteError, or Error where SQLite did not refuse it
   */
  static async start(options: SqliteOptions): Promise<SqliteWriter> {
    const writer = new SqliteWriter(options);
    try {
      await writer.#answer();
      return writer;
    } catch (error) {
      await writer.stop();
      throw error;
    }
  }

  /**
   * Runs statements one behind the other until one fails.
   *
   * @returns the rows of the last one
   */
  run(statements: readonly Statement[]): Promise<unknown[]> {
    const packed = pack(statements, this.#spares.pop());
    return this.#send({ t: "run", ...packed }, [packed.values]) as Promise<unknown[]>;
  }

  /**
   * Runs a transaction, whose beginning and commit are among the statements.
   *
   * @returns whether it was committed; otherwise it was rolled back
   * @throws GuardError; SqliteError where the commit failed
   */
  transact(statements: readonly Statement[]): Promise<boolean> {
    const packed = pack(statements, this.#spares.pop());
    return this.#send({ t: "transaction", ...packed }, [packed.values]) as Promise<boolean>;
  }

  /** Gives free pages back, one part at a time; whether there are more. */
  reclaimSpace(): Promise<boolean> {
    return this.#send({ t: "reclaim" }) as Promise<boolean>;
  }

  /**
   * Guards commits from now on against files that were replaced or removed.
   *
   * @param owner what this process has written as its own
   */
  async guard(owner: string): Promise<void> {
    await this.#send({ t: "guard", owner });
  }

  /**
   * Checks that a write would reach the files that others open.
   *
   * @param tries whether to write something, to see whether that works again
   * @throws GuardError, SqliteError
   */
  async look(tries: boolean): Promise<void> {
    await this.#send({ t: "look", tries });
  }

  /** Ends the thread once it has done what it was sent. */
  async stop(): Promise<void> {
    this.#isStopping = true;
    if (this.#ended !== undefined) return;
    const exited = once(this.#worker, "exit");
    this.#worker.postMessage({ t: "close" } satisfies Work);
    await exited;
  }

  #keep(values: ArrayBuffer): void {
    const isSmall = values.byteLength <= maxSpareBytes;
    if (isSmall && this.#spares.length < maxSpares) this.#spares.push(values);
  }

  #send(work: Work, transfer: ArrayBuffer[] = []): Promise<unknown> {
    if (this.#ended !== undefined) return Promise.reject(this.#ended);
    this.#worker.postMessage(work, transfer);
    return this.#answer();
  }

  #answer(): Promise<unknown> {
    const settle = Promise.withResolvers<unknown>();
    this.#waiting.push(settle);
    return settle.promise;
  }

  #end(error: Error): void {
    this.#ended ??= error;
    if (!this.#isStopping) this.#died.resolve(this.#ended);
    for (const { reject } of this.#waiting.splice(0)) reject(this.#ended);
  }
}

function toError(answer: Exclude<Answer, { t: "done" }>): Error {
  if (answer.t === "found") return new GuardError(answer.finding);
  const { message, code } = answer;
  return code === undefined ? new Error(message) : new SqliteError(message, code);
}

/** Kysely's dialect for what a thread runs. */
export function writerDialect(writer: Pick<SqliteWriter, "run">): Dialect {
  return {
    createDriver: () => new WriterDriver(writer),
    createAdapter: () => new SqliteAdapter(),
    createIntrospector: (db) => new SqliteIntrospector(db),
    createQueryCompiler: () => new SqliteQueryCompiler(),
  };
}

function bare(text: string): Statement {
  return { text, parameters: [] };
}

/** The thread's connection, for one transaction at a time. */
class WriterConnection implements DatabaseConnection {
  readonly #writer: Pick<SqliteWriter, "run">;
  /** What nobody waits for yet. */
  #unsent: Statement[] = [];

  constructor(writer: Pick<SqliteWriter, "run">) {
    this.#writer = writer;
  }

  async executeQuery<R>(query: CompiledQuery): Promise<QueryResult<R>> {
    const { sql: text, parameters } = query;
    if (isBulk(query)) {
      const { columns, rows } = query;
      this.#unsent.push({ text, columns, rows });
    } else {
      this.#unsent.push({ text, parameters });
    }
    if (isBulk(query) || returnsNoRows(query)) return { rows: [] };
    return { rows: (await this.#flush()) as R[] };
  }

  begin(): void {
    this.#unsent = [bare(beginText)];
  }

  async commit(): Promise<void> {
    this.#unsent.push(bare(commitText));
    await this.#flush();
  }

  async rollback(): Promise<void> {
    const isBegun = this.#unsent[0]?.text !== beginText;
    this.#unsent = [];
    if (!isBegun) return;
    // Where SQLite has rolled back by itself there is nothing to be rolled back.
    await this.#writer.run([bare("rollback")]).catch((error: unknown) => {
      if (!/no transaction is active/.test(String(error))) throw error;
    });
  }

  /** Sends what nobody waited for outside of a transaction. */
  async settle(): Promise<void> {
    if (this.#unsent.length > 0) await this.#flush();
  }

  streamQuery(): AsyncIterableIterator<QueryResult<never>> {
    throw new Error("results are read in pages, not streamed");
  }

  #flush(): Promise<unknown[]> {
    const statements = this.#unsent;
    this.#unsent = [];
    return this.#writer.run(statements);
  }
}

/** Hands the connection to one at a time. */
class WriterDriver implements Driver {
  readonly #connection: WriterConnection;
  #free: Promise<void> = Promise.resolve();
  #release: () => void = () => undefined;

  constructor(writer: Pick<SqliteWriter, "run">) {
    this.#connection = new WriterConnection(writer);
  }

  init(): Promise<void> {
    return Promise.resolve();
  }

  async acquireConnection(): Promise<DatabaseConnection> {
    const before = this.#free;
    const { promise, resolve } = Promise.withResolvers<void>();
    this.#free = promise;
    await before;
    this.#release = resolve;
    return this.#connection;
  }

  beginTransaction(): Promise<void> {
    this.#connection.begin();
    return Promise.resolve();
  }

  commitTransaction(): Promise<void> {
    return this.#connection.commit();
  }

  rollbackTransaction(): Promise<void> {
    return this.#connection.rollback();
  }

  async releaseConnection(): Promise<void> {
    try {
      await this.#connection.settle();
    } finally {
      this.#release();
    }
  }

  destroy(): Promise<void> {
    return Promise.resolve();
  }
}
