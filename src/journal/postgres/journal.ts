/**
 * The journal on PostgreSQL: what differs from other databases.
 *
 * Durability: each transaction sets synchronous_commit itself, and one that the
 * server commits with a warning is of unknown outcome (postgres/client.ts). Seqs are allocated under the namespace's row lock, in READ
 * COMMITTED: a transaction that waited for the lock sees what was committed
 * before it.
 *
 * Nothing here needs a session of its own between transactions, so it works
 * behind a pooler that hands out connections by the transaction.
 */
import { randomUUID } from "node:crypto";
import { Kysely, sql, type TransactionBuilder } from "kysely";
import pRetry from "p-retry";
import type { Logger } from "pino";
import { JournalOpenError, RefusedError, unstorable } from "../../refusal.ts";
import { Deadline } from "../deadline.ts";
import { type JournalFormat, openFormat } from "../formats.ts";
import { History } from "../history.ts";
import type { Journal } from "../journal.ts";
import { migrate, refuseForeign } from "../migrations.ts";
import type { Db, Schema } from "../schema.ts";
import { appendStatement, maxAppendRows } from "./append.ts";
import { ReadBarrier } from "./barrier.ts";
import { readDialect, transactionDialect } from "./driver.ts";
import {
  codeOf,
  isPassing,
  isRolledBack,
  isUnpreparable,
  isUnstorable,
  isUnsupported,
  sqlStateOf,
} from "./errors.ts";
import { PostgresHosts } from "./hosts.ts";
import { PostgresNotifications } from "./notifications.ts";
import { PostgresPipelines } from "./pipeline.ts";
import { PostgresPool, PreparedStatements } from "./pool.ts";
import { type PostgresTimeouts, sessionSettings } from "./settings.ts";

/** How to open a journal on PostgreSQL; lockTimeoutMs is after how long a try for a lock ends. */
export interface PostgresOptions extends PostgresTimeouts {
  /** `postgres://user:password@host:port,host:port/database?options` */
  readonly url: string;
  /** Milliseconds for all tries of a read or a transaction, at least lockTimeoutMs. */
  readonly databaseWaitMs: number;
  /** Connections for transactions, and as many for reads. */
  readonly databaseConnections: number;
  /** Told when wake-ups of other nodes are not heard any more. */
  readonly logger?: Logger;
  /** Leaves the journal's format as it is. Default false. */
  readonly holdFormat?: boolean;
}

/** The oldest version that is still maintained. */
const minServerVersion = 140_000;
/** Tries of one transaction that was rolled back for a passing reason. */
const maxTries = 3;
/** "rnlg": who migrates the database. */
const migrationLock = 0x726e6c67;
/** Milliseconds to migrate the database, waiting for another node that does included. */
const migrateMs = 10 * 60_000;
/** Milliseconds between tries of a read. */
const minRetryMs = 50;
const maxRetryMs = 1_000;

/**
 * Opens the journal in a database and migrates it.
 *
 * @throws JournalOpenError with one line that says what to do
 */
export async function openPostgresJournal(options: PostgresOptions): Promise<Journal> {
  const { lockTimeoutMs, databaseConnections: connections } = options;
  const waitMs = Math.max(options.databaseWaitMs, lockTimeoutMs);
  const statementTimeoutMs = Math.min(options.statementTimeoutMs, waitMs);
  const timeouts = { lockTimeoutMs, statementTimeoutMs };
  const hosts = new PostgresHosts(options.url);
  const pool = {
    hosts,
    connections,
    session: sessionSettings(timeouts),
    barrier: new ReadBarrier(),
    statements: new PreparedStatements(),
  };
  const writes = new PostgresPool(pool);
  const lanes = new PostgresPipelines(writes);
  const reads = new PostgresPool(pool);
  const notifications = new PostgresNotifications(() => writes.newClient(), options.logger);
  const closing = new AbortController();
  const retrying = <T>(read: (deadline: Deadline) => Promise<T>) =>
    readAgain(read, waitMs, closing.signal);
  /** A transaction has its driver to itself, as it has its deadline. */
  const transaction = (deadline: Deadline, limits: PostgresTimeouts = timeouts) =>
    new Kysely<Schema>({ dialect: transactionDialect(writes, limits, deadline) }).transaction();
  const db = new Kysely<Schema>({ dialect: readDialect(reads, timeouts, retrying) });
  const close = async () => {
    closing.abort();
    await notifications.close();
    await Promise.all([db.destroy(), reads.close(), writes.close()]);
  };
  try {
    // A host that does not do sends the next connection to another one; one that
    // is there all the same gets another chance.
    const { id, format } = await pRetry(
      () => {
        const patient = { lockTimeoutMs: migrateMs, statementTimeoutMs: migrateMs };
        return prepare(transaction(new Deadline(migrateMs), patient), options, hosts.name);
      },
      {
        retries: hosts.count + 1,
        minTimeout: minRetryMs,
        shouldRetry: ({ error }) => isPassing(error),
      },
    );
    return {
      id,
      format,
      db,
      scans: db,
      history: new History(),
      readTime: () => readTime(db),
      notifications,
      write: (work, withinMs = waitMs) => write(transaction, work, new Deadline(withinMs)),
      append: appender(lanes, waitMs),
      maxAppendRuns: maxAppendRows,
      // The server's own vacuum does it.
      reclaimSpace: () => Promise.resolve(false),
      close,
    };
  } catch (error) {
    await close();
    throw toOpenError(hosts.name, error);
  }
}

/** Checks the server and migrates the database, one process at a time; tells who the journal is. */
function prepare(
  transaction: TransactionBuilder<Schema>,
  { holdFormat = false }: PostgresOptions,
  name: string,
): Promise<{ id: string; format: JournalFormat }> {
  return transaction.execute(async (tx) => {
    await checkServer(tx, name);
    await sql`select pg_advisory_xact_lock(${sql.lit(migrationLock)})`.execute(tx);
    const untyped = tx as unknown as Kysely<never>;
    await refuseForeign(name, untyped);
    await migrate(untyped, { bytes: "bytea", key: "integer generated by default as identity" });
    const id = await identity(tx);
    return { id, format: await openFormat(tx, holdFormat) };
  });
}

async function checkServer(tx: Db, name: string): Promise<void> {
  const { rows } = await sql<{
    version: number;
    encoding: string;
    schema: string | null;
    read_only: string;
  }>`
    select current_setting('server_version_num')::int as version,
      current_setting('server_encoding') as encoding,
      current_setting('transaction_read_only') as read_only,
      current_schema() as schema`.execute(tx);
  const { version, encoding, schema, read_only: readOnly } = rows[0]!;
  const refuse = (problem: string) => {
    throw new JournalOpenError(`cannot use ${name}: ${problem}`);
  };
  if (version < minServerVersion) {
    refuse(`its server is PostgreSQL ${Math.floor(version / 10_000)}, upgrade it to 14 or later`);
  }
  if (encoding !== "UTF8") {
    refuse(`its encoding is ${encoding}, create a database with encoding UTF8`);
  }
  if (readOnly === "on") {
    refuse("it is read-only; name the primary, or all hosts: postgres://HOST,HOST/DATABASE");
  }
  if (schema === null)
    refuse("no schema of its search_path exists: create one, or change the path");
}

async function readTime(db: Db): Promise<number> {
  const { rows } = await sql<{ ms: number }>`
    select (extract(epoch from clock_timestamp()) * 1000)::float8 as ms`.execute(db);
  return rows[0]!.ms;
}

async function identity(tx: Db): Promise<string> {
  const row = await tx.selectFrom("journal").select("journal_id").executeTakeFirst();
  if (row !== undefined) return row.journal_id;
  const journalId = randomUUID();
  await tx.insertInto("journal").values({ only_row: 1, journal_id: journalId }).execute();
  return journalId;
}

/**
 * Runs a transaction again at once where it was rolled back; what may take longer
 * to pass is left to whoever asked.
 */
async function write<T>(
  transaction: (deadline: Deadline) => TransactionBuilder<Schema>,
  work: (tx: Db) => Promise<T>,
  deadline: Deadline,
): Promise<T> {
  for (let tries = 1; ; tries++) {
    try {
      return await transaction(deadline).execute(work);
    } catch (error) {
      const isOver = tries === maxTries || deadline.isOver;
      if (!isOver && (isRolledBack(error) || isUnpreparable(error))) continue;
      throw refusedIfKnown(error);
    }
  }
}

/** Appends in one statement, until the server says that it cannot do such a one. */
function appender(lanes: PostgresPipelines, waitMs: number): NonNullable<Journal["append"]> {
  let isSupported = true;
  return async (what) => {
    const statement = isSupported ? appendStatement(what) : undefined;
    if (statement === undefined) return false;
    try {
      const { namespace_id: pipeline } = what.namespace;
      const { rows } = await lanes.commit(pipeline, statement, new Deadline(waitMs));
      return rows.length > 0;
    } catch (error) {
      // What speaks PostgreSQL's protocol, or distributes its tables, may not have it.
      if (isUnsupported(error)) isSupported = false;
      else if (!isRolledBack(error) && !isUnpreparable(error)) throw refusedIfKnown(error);
      return false;
    }
  };
}

function refusedIfKnown(error: unknown): unknown {
  if (isUnstorable(error)) return unstorable(error);
  if (!isPassing(error)) return error;
  return new RefusedError({ reason: "journal_unavailable" }, { cause: error });
}

async function readAgain<T>(
  read: (deadline: Deadline) => Promise<T>,
  waitMs: number,
  signal: AbortSignal,
): Promise<T> {
  const deadline = new Deadline(waitMs);
  try {
    return await pRetry(() => read(deadline), {
      retries: Number.POSITIVE_INFINITY,
      minTimeout: minRetryMs,
      maxTimeout: maxRetryMs,
      maxRetryTime: waitMs,
      randomize: true,
      signal,
      shouldRetry: ({ error }) => isPassing(error),
    });
  } catch (error) {
    if (!isPassing(error) && !signal.aborted) throw error;
    throw new RefusedError({ reason: "journal_unavailable" }, { cause: error });
  }
}

/** What the usual mistakes are called. */
const hints: Readonly<Record<string, string>> = {
  "28P01": "give the role's password in the connection string, or in PGPASSWORD",
  "28000": "allow the role to connect (pg_hba.conf)",
  ECONNREFUSED: "start the server, or correct its host and port",
  ENOTFOUND: "correct the server's host",
  "3D000": "create the database first",
  "42501": "grant the role the missing privilege",
  "53300":
    "let the server take more connections, or runlog use fewer (--limit database-connections)",
};

function toOpenError(name: string, error: unknown): Error {
  if (error instanceof JournalOpenError) return error;
  // Of a name with several addresses, each one failed.
  const errors: unknown[] = error instanceof AggregateError ? error.errors : [error];
  const reason = errors.map(textOf).join(", ");
  const hint = hints[sqlStateOf(error) ?? codeOf(errors[0]) ?? ""];
  const advice = hint === undefined ? "" : `: ${hint}`;
  return new JournalOpenError(`cannot open ${name}: ${reason}${advice}`, { cause: error });
}

function textOf(error: unknown): string {
  if (!(error instanceof Error)) return String(error);
  return error.cause === undefined ? error.message : `${error.message} (${textOf(error.cause)})`;
}
