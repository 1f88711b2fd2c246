/**
 * What an error of PostgreSQL, or of the way to it, means for whoever asked.
 * Errors are known by their SQLSTATE, their system code or their class: texts
 * are translated, and change.
 */
import pg from "pg";

/**
 * The connection broke, did not come about, or was too slow; or the server
 * cannot be used now. What was asked may have happened, and may succeed later.
 */
export class UnreachableError extends Error {
  constructor(message: string, options?: ErrorOptions) {
    super(message, options);
    this.name = "UnreachableError";
  }
}

/**
 * The server answered a commit with a warning: it was cancelled while it waited
 * for a synchronous standby. It is visible, and a promotion may take it back
 * (https://www.postgresql.org/docs/current/warm-standby.html#SYNCHRONOUS-REPLICATION).
 */
export class UncertainCommitError extends Error {
  constructor() {
    super("the server committed with a warning: a standby may not have it");
    this.name = "UncertainCommitError";
  }
}

/**
 * SQLSTATEs of a transaction that may be run again at once, since it was rolled
 * back: serialization failure, deadlock, lock not available
 * (https://www.postgresql.org/docs/current/errcodes-appendix.html).
 */
const rolledBack = new Set(["40001", "40P01", "55P03"]);

/**
 * SQLSTATEs of a prepared statement that a pooler in front of the server does
 * not carry from one connection to the next: not there, or there already.
 */
const unpreparable = new Set(["26000", "42P05"]);

/** SQLSTATE of a server that takes no writes: a standby, or one set to read-only. */
const readOnly = "25006";

/**
 * SQLSTATEs, and classes of them, that say nothing of the statement: the server
 * is starting, stopping, full or read-only, or ended the statement, the
 * transaction (idle_in_transaction_session_timeout, transaction_timeout) or the session.
 */
const passing = new Set([...rolledBack, ...unpreparable, readOnly, "25P03", "25P04"]);
const passingClasses = new Set(["08", "53", "57", "58"]);

/**
 * SQLSTATEs, and classes of them, of values that the server will never store: no text
 * of its encoding, out of range, against a CHECK, over a limit of its own.
 */
const unstorable = new Set(["23514"]);
const unstorableClasses = new Set(["22", "54"]);

/** SQLSTATE of a statement that the server does not have. */
const unsupported = "0A000";

/** Codes of system calls, as ECONNREFUSED; what Node says of a certificate or an argument has others. */
const systemCode = /^E[A-Z0-9]+$/;

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

/** Whether the server takes no writes. */
export function isReadOnly(error: unknown): boolean {
  return sqlStateOf(error) === readOnly;
}

/** Whether the server will never store a value that it was given. */
export function isUnstorable(error: unknown): boolean {
  const state = sqlStateOf(error) ?? "";
  return unstorable.has(state) || unstorableClasses.has(state.slice(0, 2));
}

/** Whether the server will never take such a statement. */
export function isUnsupported(error: unknown): boolean {
  return sqlStateOf(error) === unsupported;
}

/** Whether the same may succeed later. What the way to the server throws, may. */
export function isPassing(error: unknown): boolean {
  if (error instanceof UnreachableError || error instanceof UncertainCommitError) return true;
  const state = sqlStateOf(error);
  if (state === undefined) return isOfSystem(error);
  return passing.has(state) || passingClasses.has(state.slice(0, 2));
}

/** Whether a system call failed on the way to the server. */
export function isOfSystem(error: unknown): boolean {
  return codeOf(error) !== undefined && systemCode.test(codeOf(error)!);
}

/** The code that Node gives an error of a system call, a certificate or an argument. */
export function codeOf(error: unknown): string | undefined {
  return error instanceof Error && "code" in error && typeof error.code === "string"
    ? error.code
    : undefined;
}
