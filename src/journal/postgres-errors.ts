/** What an error of PostgreSQL, or of the way to it, means for whoever asked. */
import pg from "pg";

/**
 * SQLSTATEs of a transaction that may be run again at once, since it was rolled
 * back: serialization failure, deadlock, lock not available
 * (https://www.postgresql.org/docs/current/errcodes-appendix.html).
 */
const rolledBack = new Set(["40001", "40P01", "55P03"]);

/**
 * SQLSTATEs, and classes of them, that say nothing of the statement: the server
 * is starting, stopping, full, read-only, or ended the statement or the session.
 */
const passingClasses = new Set(["08", "53", "57", "58"]);
const readOnly = "25006";

/**
 * SQLSTATEs of a prepared statement that a pooler in front of the server does
 * not carry from one connection to the next: not there, or there already.
 */
const unpreparable = new Set(["26000", "42P05"]);

/** SQLSTATE of a statement that the server does not have. */
const unsupported = "0A000";

/** The SQLSTATE, where the server answered. */
export function sqlStateOf(error: unknown): string | undefined {
  return error instanceof pg.DatabaseError ? error.code : undefined;
}

/** Whether the transaction was rolled back for a reason that is over. */
export function isRolledBack(error: unknown): boolean {
  return rolledBack.has(sqlStateOf(error) ?? "");
}

/** Whether a pooler in front of the server cannot keep statements prepared. */
export function isUnpreparable(error: unknown): boolean {
  return unpreparable.has(sqlStateOf(error) ?? "");
}

/** Whether the server will never take such a statement. */
export function isUnsupported(error: unknown): boolean {
  return sqlStateOf(error) === unsupported;
}

/** Whether the same may succeed later. What the way to the server throws, may. */
export function isPassing(error: unknown): boolean {
  if (!(error instanceof Error)) return false;
  const state = sqlStateOf(error);
  if (state === undefined) return isOfConnection(error);
  return rolledBack.has(state) || state === readOnly || passingClasses.has(state.slice(0, 2));
}

/** What sockets, and pg about its connection, throw. */
function isOfConnection(error: Error): boolean {
  // As ECONNREFUSED; what Node says of a certificate or an argument is there to stay.
  if ("code" in error && /^E[A-Z]+$/.test(String(error.code))) return true;
  return /connection|timeout|not queryable|standby/i.test(error.message);
}
