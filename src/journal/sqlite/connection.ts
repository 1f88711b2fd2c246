/**
 * A connection to a SQLite journal, with its statements prepared.
 *
 * Durability: WAL with synchronous=FULL, so that a commit returns after the
 * fsync of its WAL frames (https://sqlite.org/pragma.html#pragma_synchronous).
 * better-sqlite3 is compiled for NORMAL in WAL mode, so it is set on each
 * connection and read back.
 */
import Database from "better-sqlite3";
import { JournalOpenError } from "../../refusal.ts";

/** Statements kept prepared per connection; the hot paths use about twenty. */
const maxPreparedStatements = 256;
/** Bytes of the write-ahead log that are kept for being used again. */
const maxIdleWalBytes = 64 * 1024 * 1024;
/** "rnlg", so that `file` and a later version recognise the database. */
export const applicationId = 0x726e6c67;
/** What SQLite calls auto_vacuum = INCREMENTAL. */
export const incrementalVacuum = 2;

/** KiB of pages that are kept by a connection that looks through much once, and by others. */
const readerCacheKiB = 16 * 1024;
const cacheKiB = 64 * 1024;

/**
 * Connects to a database file, which is created where it is missing.
 *
 * @param lockTimeoutMs milliseconds to wait for another connection's lock
 * @param isReader whether it refuses to write
 * @throws JournalOpenError where the file system cannot make it durable
 */
export function connect(path: string, lockTimeoutMs: number, isReader = false): Database.Database {
  const connection = new Database(path, { timeout: lockTimeoutMs, fileMustExist: isReader });
  try {
    // What is set already is not set again: SQLite would write it, and wait for the lock;
    // other connections would find a change. First of all auto_vacuum: it takes effect
    // only in a database without tables.
    if (connection.pragma("auto_vacuum", { simple: true }) !== incrementalVacuum) {
      connection.pragma("auto_vacuum = INCREMENTAL");
    }
    if (connection.pragma("application_id", { simple: true }) !== applicationId) {
      connection.pragma(`application_id = ${applicationId}`);
    }
    const mode = connection.pragma("journal_mode = WAL", { simple: true });
    connection.pragma("synchronous = FULL");
    // 16 MiB of WAL between checkpoints: fewer of them than by default, and none holds commits up for long.
    connection.pragma("wal_autocheckpoint = 4096");
    // What a long reader made it grow beyond that is given back once the log begins anew.
    connection.pragma(`journal_size_limit = ${maxIdleWalBytes}`);
    connection.pragma(`cache_size = -${isReader ? readerCacheKiB : cacheKiB}`);
    if (isReader) connection.pragma("query_only = ON");
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

/** Prepares statements once for each text: preparing one costs more than running it. */
export function preparedBy(connection: Database.Database): (text: string) => Database.Statement {
  const prepared = new Map<string, Database.Statement>();
  return (text) => {
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
    return statement;
  };
}
