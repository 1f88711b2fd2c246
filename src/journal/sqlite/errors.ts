/**
 * What an error of SQLite means to those who write and read
 * (https://sqlite.org/rescode.html). What may pass is tried again; a damaged
 * database is not, whoever asks.
 */
import { SqliteError } from "better-sqlite3";
import { RefusedError } from "../../refusal.ts";
import type { JournalProblem } from "../journal-health.ts";
import { GuardError } from "./guard.ts";

/** Somebody else holds a lock; over in a moment, or he is no friend. */
export function isLocked(error: unknown): boolean {
  return codeOf(error).startsWith("SQLITE_BUSY") || codeOf(error).startsWith("SQLITE_LOCKED");
}

/** Whether another connection has written, so that the known state has to be read again. */
export function isForeignChange(error: unknown): boolean {
  return error instanceof GuardError && error.finding === "changed";
}

/** What is wrong with the journal at `path`; undefined where the error says nothing of it. */
export function problemOf(error: unknown, path: string): JournalProblem | undefined {
  if (error instanceof GuardError) return found(error, path);
  const code = codeOf(error);
  const passing = (message: string) => ({ kind: "passing", message, cause: error }) as const;
  // Bytes that were written are not there any more.
  if (/^SQLITE_(CORRUPT|NOTADB|IOERR_SHORT_READ)/.test(code)) {
    const message = `${path} is damaged (${code}): restore it from a backup`;
    return { kind: "damaged", message, cause: error };
  }
  if (code.startsWith("SQLITE_FULL")) return passing(`the disk of ${path} is full: make room`);
  if (code.startsWith("SQLITE_READONLY"))
    return passing(`${path} cannot be written: it is read-only`);
  if (code.startsWith("SQLITE_CANTOPEN")) {
    return passing(`a file of ${path} cannot be opened (${code})`);
  }
  if (code.startsWith("SQLITE_IOERR")) return passing(`the disk of ${path} fails (${code})`);
  return undefined;
}

function found(cause: GuardError, path: string): JournalProblem | undefined {
  const { finding } = cause;
  switch (finding) {
    case "changed":
      return undefined;
    case "stranger":
      return {
        kind: "fatal",
        message: `another runlog process has opened ${path}: this one ends, because both would assign the same seqs`,
        cause,
      };
    case "replaced":
      return {
        kind: "fatal",
        message: `another file has replaced ${path}: this process ends, restart it to serve that file`,
        cause,
      };
    case "deleted":
      return {
        kind: "passing",
        message: `${path} was deleted or moved: put it back; until then the server acknowledges nothing`,
        cause,
      };
    case "log_missing":
    case "log_lost":
      return {
        kind: "passing",
        message: `the write-ahead log of ${path} was deleted or replaced: the server acknowledges nothing, restart it`,
        cause,
      };
    case "log_cut":
      return {
        kind: "damaged",
        message: `the write-ahead log of ${path} was cut: restore the journal from a backup`,
        cause,
      };
  }
}

/** What callers are answered; other errors than SQLite's pass. */
export function refusalOf(error: unknown, path: string): unknown {
  const problem = problemOf(error, path);
  if (problem?.kind === "damaged") {
    return new RefusedError({ reason: "data_loss" }, { cause: error });
  }
  const isPassing = problem !== undefined || isLocked(error) || isOver(error);
  return isPassing ? new RefusedError({ reason: "journal_unavailable" }, { cause: error }) : error;
}

/** Whether SQLite had no memory, or the journal is closed. */
function isOver(error: unknown): boolean {
  return codeOf(error) === "SQLITE_NOMEM" || codeOf(error) === "SQLITE_MISUSE";
}

function codeOf(error: unknown): string {
  return error instanceof SqliteError ? error.code : "";
}
