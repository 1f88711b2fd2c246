/**
 * The embedded journal on SQLite: what differs from other databases.
 *
 * Durability: WAL with synchronous=FULL, so that a commit returns after the
 * fsync of its WAL frames (https://sqlite.org/pragma.html#pragma_synchronous).
 * better-sqlite3 is compiled for NORMAL in WAL mode, so it is set on each
 * connection and read back.
 */
import { randomUUID } from "node:crypto";
import { existsSync } from "node:fs";
import { dirname, resolve } from "node:path";
import Database, { SqliteError } from "better-sqlite3";
import { Kysely, type SqliteDatabase, SqliteDialect } from "kysely";
import pRetry from "p-retry";
import type { Journal } from "./journal.ts";
import { migrate, refuseForeign } from "./migrations.ts";
import { JournalOpenError, RefusedError } from "./refusal.ts";
import type { Db, Schema } from "./schema.ts";

/** How to open a SQLite journal. */
export interface SqliteOptions {
  /** Path of the database file; it is created where it does not exist. */
  readonly path: string;
  /** Milliseconds to wait for another process's lock before a write is tried again. */
  readonly lockTimeoutMs: number;
}

/** Statements kept prepared per connection; the hot paths use about twenty. */
const maxPreparedStatements = 256;
/** Tries of one transaction that found the database locked. */
const maxTries = 3;
/** Tries to get the lock that keeps other processes out, after the first one. */
const lockRetries = 2;
/** Milliseconds before the first of them; before the second it is twice as long. */
const lockRetryMs = 50;
/** Pages that one step gives back: 2 MiB. */
const reclaimedPages = 512;
/** What SQLite calls auto_vacuum = INCREMENTAL. */
const incrementalVacuum = 2;
/** "rnlg", so that `file` and a later version recognise the database. */
const applicationId = 0x726e6c67;

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
  const connections: Database.Database[] = [];
  const closeAll = async (dbs: readonly Kysely<Schema>[]) => {
    for (const db of dbs) await db.destroy();
    // Kysely closes only connections that it has used.
    for (const connection of connections) connection.close();
    lock.close();
  };
  const open = () => {
    const connection = connect(path, options.lockTimeoutMs);
    connections.push(connection);
    return { connection, db: new Kysely<Schema>({ dialect: dialect(connection) }) };
  };
  try {
    if (existsSync(path)) await inspect(path);
    const { db: writer, connection: writerConnection } = open();
    await migrate(writer as unknown as Kysely<never>, { bytes: "blob", key: "integer" });
    const id = await identity(writer);
    const { db: reader } = open();
    return {
      id,
      db: reader,
      write: (work) => write(writer, work),
      reclaimSpace: () => reclaimSpace(writer, writerConnection),
      close: () => closeAll([reader, writer]),
    };
  } catch (error) {
    await closeAll([]);
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

function connect(path: string, lockTimeoutMs: number): Database.Database {
  const connection = new Database(path, { timeout: lockTimeoutMs });
  try {
    // First of all: it takes effect only in a database without tables.
    connection.pragma("auto_vacuum = INCREMENTAL");
    connection.pragma(`application_id = ${applicationId}`);
    const mode = connection.pragma("journal_mode = WAL", { simple: true });
    connection.pragma("synchronous = FULL");
    // 64 MiB of WAL between checkpoints instead of 4: fewer fsyncs of the main file.
    connection.pragma("wal_autocheckpoint = 16384");
    connection.pragma("cache_size = -65536");
    const synchronous = connection.pragma("synchronous", { simple: true });
    if (mode !== "wal" || synchronous !== 2) {
      throw new JournalOpenError(
        `${path} cannot be made durable (journal_mode=${String(mode)}, synchronous=${String(synchronous)}): put it on a local file system`,
      );
    }
    return connection;
  } catch (error) {
    connection.close();
    throw error;
  }
}

/** Keeps statements prepared by their text: preparing one costs more than running it. */
function dialect(connection: Database.Database): SqliteDialect {
  const prepared = new Map<string, Database.Statement>();
  const database: SqliteDatabase = {
    close: () => connection.close(),
    prepare(text) {
      let statement = prepared.get(text);
      if (statement === undefined) {
        statement = connection.prepare(text);
        if (prepared.size >= maxPreparedStatements) {
          const [oldest] = prepared.keys();
          if (oldest !== undefined) prepared.delete(oldest);
        }
      } else {
        prepared.delete(text);
      }
      // Last in the map: most recently used.
      prepared.set(text, statement);
      return statement as unknown as ReturnType<SqliteDatabase["prepare"]>;
    },
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

async function write<T>(db: Kysely<Schema>, work: (tx: Db) => Promise<T>): Promise<T> {
  for (let tries = 1; ; tries++) {
    try {
      return await db.transaction().execute(work);
    } catch (error) {
      if (!(error instanceof SqliteError)) throw error;
      if (!error.code.startsWith("SQLITE_BUSY") || tries === maxTries) {
        throw new RefusedError({ reason: "journal_unavailable" }, { cause: error });
      }
    }
  }
}

/** Gives free pages back, one part at a time so that commits go on in between. */
function reclaimSpace(db: Kysely<Schema>, connection: Database.Database): Promise<boolean> {
  // Kysely hands out the writer's connection to one at a time; run() would
  // stop this pragma after its first page, exec() goes on to its end.
  return db.connection().execute(() => {
    connection.exec(`PRAGMA incremental_vacuum(${reclaimedPages})`);
    const free = connection.pragma("freelist_count", { simple: true });
    const mode = connection.pragma("auto_vacuum", { simple: true });
    return Promise.resolve(mode === incrementalVacuum && Number(free) > 0);
  });
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
