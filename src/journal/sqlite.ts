/**
 * The embedded journal on SQLite: what differs from other databases.
 *
 * What is written goes through a thread of its own (sqlite-writer.ts), so that
 * calls go on while it waits for the disk; what is read is read here.
 */
import { randomUUID } from "node:crypto";
import { existsSync } from "node:fs";
import { dirname, resolve } from "node:path";
import Database, { SqliteError } from "better-sqlite3";
import { Kysely, type SqliteDatabase, SqliteDialect } from "kysely";
import pRetry from "p-retry";
import { History } from "./history.ts";
import type { Journal } from "./journal.ts";
import { migrate, refuseForeign } from "./migrations.ts";
import { JournalOpenError, RefusedError, unstorable } from "./refusal.ts";
import type { Db, Schema } from "./schema.ts";
import { applicationId, connect, preparedBy } from "./sqlite-connection.ts";
import type { SqliteOptions } from "./sqlite-options.ts";
import { SqliteWriter, writerDialect } from "./sqlite-writer.ts";

/** Tries of one transaction that found the database locked. */
const maxTries = 3;
/** Tries to get the lock that keeps other processes out, after the first one. */
const lockRetries = 2;
/** Milliseconds before the first of them; before the second it is twice as long. */
const lockRetryMs = 50;

/**
 * Opens the journal in a file, creates it where it is missing, and migrates it.
 * One process at a time: the tail of one would not see what another appends.
 *
 * @throws JournalOpenError with one line that says what to do
 */
export async function openSqliteJournal(options: SqliteOptions): Promise<Journal> {
  const path = resolve(options.path);
  if (!existsSync(dirname(path))) {
    throw new JournalOpenError(
      `cannot open ${path}: the directory does not exist, create it first`,
    );
  }
  const lock = await lockFile(path);
  const opened = new AsyncDisposableStack();
  opened.defer(() => {
    lock.close();
  });
  try {
    if (existsSync(path)) await inspect(path);
    const thread = await SqliteWriter.start({ path, lockTimeoutMs: options.lockTimeoutMs });
    opened.defer(() => thread.stop());
    const writer = new Kysely<Schema>({ dialect: writerDialect(thread) });
    await migrate(writer as unknown as Kysely<never>, { bytes: "blob", key: "integer" });
    const id = await identity(writer);
    const connection = connect(path, options.lockTimeoutMs);
    opened.defer(() => {
      connection.close();
    });
    const reader = lazyReader({ path, lockTimeoutMs: options.lockTimeoutMs });
    opened.defer(() => reader.stop());
    return {
      id,
      db: new Kysely<Schema>({ dialect: dialect(connection) }),
      scans: new Kysely<Schema>({ dialect: writerDialect(reader) }),
      history: new History(),
      write: (work) => write(writer, work),
      // Kysely hands out the writer's connection to one at a time.
      reclaimSpace: () => writer.connection().execute(() => thread.reclaimSpace()),
      close: () => opened.disposeAsync(),
    };
  } catch (error) {
    await opened.disposeAsync();
    throw toOpenError(path, error);
  }
}

/** A thread that reads, started when it is first asked something. */
function lazyReader(options: SqliteOptions): Pick<SqliteWriter, "run" | "stop"> {
  let starting: Promise<SqliteWriter> | undefined;
  let isStopped = false;
  return {
    async run(statements) {
      if (isStopped) throw new SqliteError("the journal was closed", "SQLITE_MISUSE");
      starting ??= SqliteWriter.start({ ...options, isReader: true });
      return (await starting).run(statements);
    },
    async stop() {
      isStopped = true;
      await (await starting?.catch(() => undefined))?.stop();
    },
  };
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
 * Holds an exclusive lock beside the database for as long as the process
 * lives. The operating system releases it, whatever ends the process.
 */
async function lockFile(path: string): Promise<Database.Database> {
  try {
    // Of two that start at once each may meet the other on its way to the lock.
    return await pRetry(() => tryLock(path), {
      retries: lockRetries,
      minTimeout: lockRetryMs,
      randomize: true,
      shouldRetry: ({ error }) => isBusy(error),
    });
  } catch (error) {
    if (isBusy(error)) {
      throw new JournalOpenError(
        `${path} is in use by another runlog process: stop that one first`,
        {
          cause: error,
        },
      );
    }
    throw toOpenError(path, error);
  }
}

function tryLock(path: string): Database.Database {
  const lock = new Database(`${path}.lock`, { timeout: 0 });
  try {
    lock.pragma("journal_mode = MEMORY");
    lock.exec("BEGIN EXCLUSIVE");
    return lock;
  } catch (error) {
    lock.close();
    throw error;
  }
}

function isBusy(error: unknown): boolean {
  return error instanceof SqliteError && error.code.startsWith("SQLITE_BUSY");
}

/** Kysely's dialect on a connection of this thread. */
function dialect(connection: Database.Database): SqliteDialect {
  const prepare = preparedBy(connection);
  const database: SqliteDatabase = {
    close: () => connection.close(),
    prepare: (text) => prepare(text) as unknown as ReturnType<SqliteDatabase["prepare"]>,
  };
  return new SqliteDialect({ database });
}

async function identity(db: Db): Promise<string> {
  const row = await db.selectFrom("journal").select("journal_id").executeTakeFirst();
  if (row !== undefined) return row.journal_id;
  const journalId = randomUUID();
  await db.insertInto("journal").values({ only_row: 1, journal_id: journalId }).execute();
  return journalId;
}

/** What SQLite says of values that it will never store. */
const unstorableCodes = new Set(["SQLITE_CONSTRAINT_CHECK", "SQLITE_MISMATCH", "SQLITE_TOOBIG"]);

async function write<T>(db: Kysely<Schema>, work: (tx: Db) => Promise<T>): Promise<T> {
  for (let tries = 1; ; tries++) {
    try {
      return await db.transaction().execute(work);
    } catch (error) {
      if (!(error instanceof SqliteError)) throw error;
      if (unstorableCodes.has(error.code)) throw unstorable(error);
      if (!error.code.startsWith("SQLITE_BUSY") || tries === maxTries) {
        throw new RefusedError({ reason: "journal_unavailable" }, { cause: error });
      }
    }
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
