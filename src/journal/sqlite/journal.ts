/**
 * The embedded journal on SQLite: what differs from other databases.
 *
 * What is written goes through a thread of its own (sqlite/writer.ts), so that
 * calls go on while it waits for the disk; this thread reads.
 */
import { randomUUID } from "node:crypto";
import Database, { SqliteError } from "better-sqlite3";
import { Kysely, type SqliteDatabase, SqliteDialect } from "kysely";
import { JournalOpenError, RefusedError, unstorable } from "../../refusal.ts";
import { openFormat } from "../formats.ts";
import { History } from "../history.ts";
import type { Append, Journal } from "../journal.ts";
import { JournalHealth } from "../journal-health.ts";
import { migrate, refuseForeign } from "../migrations.ts";
import type { Db, Schema } from "../schema.ts";
import { appendStatements } from "./append.ts";
import { applicationId, connect, preparedBy } from "./connection.ts";
import { isForeignChange, isLocked, problemOf, refusalOf } from "./errors.ts";
import { filesOf } from "./guard.ts";
import { lockDatabase, realPathOf } from "./lock.ts";
import type { SqliteOptions } from "./options.ts";
import { lazyReader } from "./reader.ts";
import { watchSqlite } from "./watch.ts";
import { SqliteWriter, writerDialect } from "./writer.ts";

/** See Journal. */
const minPipelinedOps = 64;
/** Tries of one transaction that found the database locked, or changed. */
const maxTries = 3;

type PreparedStatement = ReturnType<SqliteDatabase["prepare"]>;
/**
 * Opens the journal in a file, creates it where it is missing, and migrates it.
 * One process at a time: the tail of one would not see what another appends.
 *
 * @throws JournalOpenError with one line that says what to do
 */
export async function openSqliteJournal(options: SqliteOptions): Promise<Journal> {
  const { lockTimeoutMs, databaseWaitMs } = options;
  let path = options.path;
  const opened = new AsyncDisposableStack();
  try {
    path = realPathOf(path);
    opened.defer(await lockDatabase(path));
    await inspect(path);
    const thread = await SqliteWriter.start({ path, lockTimeoutMs, databaseWaitMs });
    opened.defer(() => thread.stop());
    const writer = new Kysely<Schema>({ dialect: writerDialect(thread) });
    await migrate(writer as unknown as Kysely<never>, { bytes: "blob", key: "integer" });
    const owner = randomUUID();
    const { id, format } = await writer.transaction().execute(async (tx) => ({
      id: await own(tx, owner),
      format: await openFormat(tx, options.holdFormat ?? false),
    }));
    const connection = connect(path, lockTimeoutMs);
    opened.defer(() => {
      connection.close();
    });
    await thread.guard(owner);
    const health = new JournalHealth();
    const listeners: (() => void)[] = [];
    const onForeignWrite = () => {
      for (const listener of listeners) listener();
    };
    opened.defer(watchSqlite({ path, thread, health, databaseWaitMs, onForeignWrite }));
    const onError = (error: unknown) => told(health, path, error);
    const files = filesOf(path);
    const reader = lazyReader({ path, lockTimeoutMs, databaseWaitMs, files }, onError);
    opened.defer(() => reader.stop());
    return {
      id,
      format,
      health,
      db: new Kysely<Schema>({ dialect: dialect(connection, onError) }),
      scans: new Kysely<Schema>({ dialect: writerDialect(reader) }),
      history: new History(),
      onForeignWrite: (listener) => void listeners.push(listener),
      write: (work) => write(writer, work, { path, health, onForeignWrite }),
      minPipelinedOps,
      append: (what) => append(writer, thread, what, { path, health, onForeignWrite }),
      // Kysely hands out the writer's connection to one at a time.
      reclaimSpace: () => writer.connection().execute(() => thread.reclaimSpace()),
      close: () => opened.disposeAsync(),
    };
  } catch (error) {
    await opened.disposeAsync();
    throw toOpenError(path, error);
  }
}

/** Looks at a database without changing it, and refuses one that is not ours to change. */
async function inspect(path: string): Promise<void> {
  // Not read-only: such a connection leaves the log behind that it had to create.
  const connection = new Database(path);
  try {
    const id = connection.pragma("application_id", { simple: true });
    if (id !== 0 && id !== applicationId) {
      throw new JournalOpenError(`${path} is another program's database: name another file`);
    }
    await refuseForeign(path, new Kysely<never>({ dialect: dialect(connection) }));
  } finally {
    connection.close();
  }
}

/**
 * Kysely's dialect on a connection of this thread.
 *
 * @param onError maps SQLite's errors to those thrown
 */
function dialect(
  connection: Database.Database,
  onError: (error: unknown) => unknown = (error) => error,
): SqliteDialect {
  const prepare = preparedBy(connection);
  const guarded = new WeakMap<Database.Statement, PreparedStatement>();
  const attempt = <T>(work: () => T): T => {
    try {
      return work();
    } catch (error) {
      throw onError(error);
    }
  };
  const database: SqliteDatabase = {
    close: () => connection.close(),
    prepare(text) {
      const statement = attempt(() => prepare(text));
      let known = guarded.get(statement);
      if (known === undefined) {
        known = {
          reader: statement.reader,
          all: (parameters) => attempt(() => statement.all(parameters)),
          run: (parameters) => attempt(() => statement.run(parameters)),
          iterate: (parameters) => attempt(() => statement.iterate(parameters)),
        };
        guarded.set(statement, known);
      }
      return known;
    },
  };
  return new SqliteDialect({ database });
}

/** Tells the journal's health of an error, and returns what callers are answered. */
function told(health: JournalHealth, path: string, error: unknown): unknown {
  const problem = problemOf(error, path);
  if (problem !== undefined) health.failed(problem);
  if (health.problem?.kind === "fatal") {
    return new RefusedError({ reason: "journal_unavailable" }, { cause: error });
  }
  return refusalOf(error, path);
}

/** Makes this process the database's owner, which others notice; returns the journal's id. */
async function own(tx: Db, owner: string): Promise<string> {
  const row = await tx
    .updateTable("journal")
    .set({ owner })
    .returning("journal_id")
    .executeTakeFirst();
  if (row !== undefined) return row.journal_id;
  const journalId = randomUUID();
  await tx.insertInto("journal").values({ only_row: 1, journal_id: journalId, owner }).execute();
  return journalId;
}

/** What SQLite says of values that it will never store. */
const unstorableCodes = new Set(["SQLITE_CONSTRAINT_CHECK", "SQLITE_MISMATCH", "SQLITE_TOOBIG"]);

/** What a transaction is run with. */
interface Writing {
  readonly path: string;
  readonly health: JournalHealth;
  readonly onForeignWrite: () => void;
}

async function write<T>(
  db: Kysely<Schema>,
  work: (tx: Db) => Promise<T>,
  { path, health, onForeignWrite }: Writing,
): Promise<T> {
  for (let tries = 1; ; tries++) {
    const { problem } = health;
    // What is committed now would be damaged too, or not found.
    if (problem?.kind === "damaged") {
      throw new RefusedError({ reason: "data_loss" }, { cause: problem.cause });
    }
    try {
      const result = await db.transaction().execute(work);
      health.worked();
      return result;
    } catch (error) {
      if (error instanceof SqliteError && unstorableCodes.has(error.code)) throw unstorable(error);
      if (isForeignChange(error)) onForeignWrite();
      if (tries < maxTries && (isForeignChange(error) || isLocked(error))) continue;
      throw told(health, path, error);
    }
  }
}

/** Appends with one message to the thread; whether that is written, and durable. */
async function append(
  writer: Kysely<Schema>,
  thread: SqliteWriter,
  what: Append,
  { path, health, onForeignWrite }: Writing,
): Promise<boolean> {
  if (health.problem !== undefined) return false;
  let written: Promise<boolean> | undefined;
  try {
    // The thread takes transactions in the order in which they come: the next one need
    // not wait for this one's answer.
    await writer.connection().execute(() => {
      written = thread.transact(appendStatements(what));
      // Whether it fails is looked at below.
      written.catch(() => undefined);
      return Promise.resolve();
    });
    const isWritten = await written!;
    if (isWritten) health.worked();
    return isWritten;
  } catch (error) {
    if (isForeignChange(error)) {
      onForeignWrite();
      return false;
    }
    throw told(health, path, error);
  }
}

function toOpenError(path: string, error: unknown): Error {
  if (error instanceof JournalOpenError) return error;
  const reason = error instanceof Error ? error.message : String(error);
  const code = error instanceof SqliteError ? error.code : "";
  if (code === "SQLITE_NOTADB" || code.startsWith("SQLITE_CORRUPT")) {
    return new JournalOpenError(
      `${path} is not a database, or is damaged (${reason}): restore it from a backup, or name another file`,
      { cause: error },
    );
  }
  return new JournalOpenError(`cannot open ${path}: ${reason}`, { cause: error });
}
