import type { DatabaseFiles } from "./guard.ts";

/** How to open a SQLite journal. */
export interface SqliteOptions {
  /** Path of the database file; it is created where it does not exist. */
  readonly path: string;
  /** Milliseconds to wait for another process's lock before a write is tried again. */
  readonly lockTimeoutMs: number;
  /** Milliseconds without an answer of the disk after which the journal is not ready. */
  readonly databaseWaitMs: number;
  /** Leaves the journal's format as it is. Default false. */
  readonly holdFormat?: boolean;
  /** Whether the connection is for reading only. Default false. */
  readonly isReader?: boolean;
  /** Where it has to be in these files. */
  readonly files?: DatabaseFiles;
}
