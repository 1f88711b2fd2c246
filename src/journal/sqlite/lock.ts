/**
 * One process at a time on a database file, by whatever path it is named: the
 * tail of one would not see what another appends.
 *
 * Three things keep others out. The lock of a file beside the database, which
 * every system has; on Linux a name in the kernel that is made of the file's
 * device and number, which nobody can remove and which holds whatever the file
 * is called; and, where neither does, the owner that sqlite/guard.ts looks for
 * at each commit. The kernel releases all of them, whatever ends the process.
 *
 * The database itself is neither opened nor closed here once SQLite has it: that
 * would drop SQLite's locks (https://sqlite.org/howtocorrupt.html, 2.2).
 */
import { once } from "node:events";
import { closeSync, existsSync, lstatSync, openSync, realpathSync, statSync } from "node:fs";
import { createServer, type Server } from "node:net";
import { basename, dirname, join, resolve } from "node:path";
import Database from "better-sqlite3";
import pRetry from "p-retry";
import { JournalOpenError } from "../../refusal.ts";
import { isLocked } from "./errors.ts";

/** Tries to get a lock that keeps other processes out, after the first one. */
const lockRetries = 2;
/** Milliseconds before the first of them; before the second it is twice as long. */
const lockRetryMs = 50;

/**
 * The file's own path, whatever links lead to it.
 *
 * @throws JournalOpenError where there is no directory for it, or no file behind a link
 */
export function realPathOf(given: string): string {
  const path = resolve(given);
  if (existsSync(path)) return realpathSync(path);
  if (lstatSync(path, { throwIfNoEntry: false })?.isSymbolicLink()) {
    throw new JournalOpenError(
      `cannot open ${path}: it is a link to a file that does not exist; name the file itself`,
    );
  }
  if (!existsSync(dirname(path))) {
    throw new JournalOpenError(
      `cannot open ${path}: the directory does not exist, create it first`,
    );
  }
  return join(realpathSync(dirname(path)), basename(path));
}

/**
 * Keeps other processes out until the result is called. Creates the file where it
 * is missing.
 *
 * @param path the file's own
 * @throws JournalOpenError where another process has it, or it has several names;
 *   the system's or SQLite's error where the file cannot be created
 */
export async function lockDatabase(path: string): Promise<() => void> {
  const inUse = (cause: unknown) =>
    new JournalOpenError(`${path} is in use by another runlog process: stop that process first`, {
      cause,
    });
  // Of two that start at once each may meet the other on its way to the lock.
  const retried = <T>(attempt: () => Promise<T> | T, isHeld: (error: unknown) => boolean) =>
    pRetry(attempt, {
      retries: lockRetries,
      minTimeout: lockRetryMs,
      randomize: true,
      shouldRetry: ({ error }) => isHeld(error),
    }).catch((error: unknown) => {
      throw isHeld(error) ? inUse(error) : error;
    });
  const beside = await retried(() => lockBeside(path), isLocked);
  try {
    createIfMissing(path);
    const file = statSync(path, { bigint: true });
    const { dev, ino, nlink } = file;
    // SQLite names the log by the path: each name would have a log of its own.
    if (file.isFile() && nlink > 1n) {
      throw new JournalOpenError(
        `${path} has ${nlink} names (hard links): remove the others, or copy the file`,
      );
    }
    const name = `runlog-${dev}-${ino}`;
    const held = process.platform === "linux" ? await retried(() => hold(name), isHeld) : undefined;
    return () => {
      held?.close();
      beside.close();
    };
  } catch (error) {
    beside.close();
    throw error;
  }
}

function lockBeside(path: string): Database.Database {
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

function createIfMissing(path: string): void {
  try {
    // Fails where it is there, and then has not opened it.
    closeSync(openSync(path, "wx", 0o644));
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code !== "EEXIST") throw error;
  }
}

/** Takes a socket's name that is in no file system (unix(7), abstract). */
async function hold(name: string): Promise<Server> {
  const server = createServer((connection) => connection.destroy());
  server.unref();
  server.listen(`\0${name}`);
  await once(server, "listening");
  return server;
}

function isHeld(error: unknown): boolean {
  return error instanceof Error && "code" in error && error.code === "EADDRINUSE";
}
