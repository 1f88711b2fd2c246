import { type Stats, statSync } from "node:fs";
import type Database from "better-sqlite3";

/** Bytes of the log's header, and of a frame's. */
const walHeaderBytes = 32;
const walFrameBytes = 24;

/** What was found. */
export type Finding =
  /** Another process has opened the database since. */
  | "stranger"
  /** Something was written by another connection, perhaps a tool's. */
  | "changed"
  /** Another file is where the database was. */
  | "replaced"
  /** There is no file where the database was. */
  | "deleted"
  /** There is no log where it was. */
  | "log_missing"
  /** The log, or its index, is not the one that is open. */
  | "log_lost"
  /** The log is shorter than the bytes written to it. */
  | "log_cut";

/** Thrown by what looks. */
export class GuardError extends Error {
  readonly finding: Finding;

  constructor(finding: Finding) {
    super(finding);
    this.name = "GuardError";
    this.finding = finding;
  }
}

type Identity = Pick<Stats, "dev" | "ino">;

/** Which files the database is in. */
export interface DatabaseFiles {
  readonly file: Identity;
  readonly log: Identity;
}

/** The files of a database that is open. */
export function filesOf(path: string): DatabaseFiles {
  const identity = (name: string): Identity => {
    const { dev, ino } = statSync(name);
    return { dev, ino };
  };
  return { file: identity(path), log: identity(`${path}-wal`) };
}

/**
 * Makes sure that a database is in these files. Who connects to it otherwise
 * creates others in their place.
 *
 * @throws GuardError deleted, replaced, log_missing, log_lost
 */
export function refuseOtherFiles(path: string, { file, log }: DatabaseFiles): void {
  const found = statSync(path, { throwIfNoEntry: false });
  if (found === undefined) throw new GuardError("deleted");
  if (!isSame(found, file)) throw new GuardError("replaced");
  const foundLog = statSync(`${path}-wal`, { throwIfNoEntry: false });
  if (foundLog === undefined) throw new GuardError("log_missing");
  if (!isSame(foundLog, log)) throw new GuardError("log_lost");
}

/**
 * What the thread that writes looks at, so that nothing is acknowledged which
 * goes where nobody will find it: whether the database and its log are still the
 * files that it has open, and whether somebody else writes to them.
 *
 * Files are looked at by `stat` alone: opening and closing one drops SQLite's
 * locks (https://sqlite.org/howtocorrupt.html, 2.2).
 */
export class SqliteGuard {
  readonly #path: string;
  readonly #owner: string;
  readonly #connection: Database.Database;
  readonly #version: Database.Statement;
  readonly #readOwner: Database.Statement;
  readonly #files: DatabaseFiles;
  readonly #index: Identity;
  readonly #pageBytes: number;
  #seenVersion: number;

  /**
   * @param connection the one that writes; it has written already
   * @param owner what this process has written as its owner
   */
  constructor(path: string, connection: Database.Database, owner: string) {
    this.#path = path;
    this.#owner = owner;
    this.#connection = connection;
    this.#version = connection.prepare("PRAGMA data_version").pluck();
    this.#readOwner = connection.prepare("SELECT owner FROM journal").pluck();
    this.#files = filesOf(path);
    this.#index = statSync(`${path}-shm`);
    this.#pageBytes = Number(connection.pragma("page_size", { simple: true }));
    this.#seenVersion = this.#version.get() as number;
    this.#refuseStranger();
  }

  /**
   * Called inside a transaction, once it has the lock.
   *
   * @throws GuardError stranger; changed, once for each change
   */
  afterBegin(): void {
    const version = this.#version.get() as number;
    if (version === this.#seenVersion) return;
    this.#refuseStranger();
    this.#seenVersion = version;
    throw new GuardError("changed");
  }

  /**
   * Called after a commit, before it is acknowledged.
   *
   * @throws GuardError replaced, deleted, log_missing, log_lost
   */
  afterCommit(): void {
    refuseOtherFiles(this.#path, this.#files);
  }

  /**
   * Called now and then, whether anybody writes or not.
   *
   * @throws GuardError for whatever there is but a change
   */
  look(): void {
    this.afterCommit();
    const index = statSync(`${this.#path}-shm`, { throwIfNoEntry: false });
    if (!isSame(index, this.#index)) throw new GuardError("log_lost");
    if ((this.#version.get() as number) !== this.#seenVersion) this.#refuseStranger();
    if (!this.#connection.inTransaction) this.#measureLog();
  }

  #measureLog(): void {
    // Only counts the frames (https://sqlite.org/pragma.html#pragma_wal_checkpoint).
    const [counted] = this.#connection.pragma("wal_checkpoint(NOOP)") as [{ log: number }];
    const frames = Math.max(0, counted.log);
    const bytes = frames === 0 ? 0 : walHeaderBytes + frames * (walFrameBytes + this.#pageBytes);
    if (statSync(`${this.#path}-wal`).size < bytes) throw new GuardError("log_cut");
  }

  #refuseStranger(): void {
    if (this.#readOwner.get() !== this.#owner) throw new GuardError("stranger");
  }
}

function isSame(found: Identity | undefined, known: Identity): found is Stats {
  return found?.dev === known.dev && found.ino === known.ino;
}
