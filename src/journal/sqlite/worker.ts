/** The thread that writes to a SQLite journal: runs what sqlite/writer.ts sends, in order. */
import { parentPort, workerData } from "node:worker_threads";
import type Database from "better-sqlite3";
import { SqliteError } from "better-sqlite3";
import { connect, incrementalVacuum, preparedBy } from "./connection.ts";
import { GuardError, refuseOtherFiles, SqliteGuard } from "./guard.ts";
import {
  type Answer,
  beginText,
  commitText,
  type PackedStatement,
  ValueReader,
  type Work,
} from "./messages.ts";
import type { SqliteOptions } from "./options.ts";

/** Pages that one step gives back: 2 MiB. */
const reclaimedPages = 512;

const port = parentPort!;
const { path, lockTimeoutMs, isReader, files } = workerData as SqliteOptions;

function answer(work: () => unknown): Answer {
  try {
    return { t: "done", value: work() };
  } catch (error) {
    if (error instanceof GuardError) return { t: "found", finding: error.finding };
    const message = error instanceof Error ? error.message : String(error);
    return { t: "failed", message, code: error instanceof SqliteError ? error.code : undefined };
  }
}

let connection: Database.Database | undefined;
let guard: SqliteGuard | undefined;

/** Runs statements until one fails; the rows of the last one. */
function run(
  prepare: (text: string) => Database.Statement,
  statements: readonly PackedStatement[],
  values: ArrayBuffer,
): unknown[] {
  const reader = new ValueReader(values);
  let answered: unknown[] = [];
  for (const { text, rowCount, width, isCondition } of statements) {
    const prepared = prepare(text);
    const row = new Array<unknown>(width);
    answered = [];
    for (let n = 0; n < rowCount; n++) {
      reader.readInto(row);
      if (prepared.reader) answered = prepared.all(row);
      else if (prepared.run(row).changes === 0 && isCondition) throw new UnmetError();
    }
    if (text === beginText) guard?.afterBegin();
    else if (text === commitText) guarded(() => guard?.afterCommit());
  }
  return answered;
}

/** Thrown where a condition changes no row. */
class UnmetError extends Error {}

/** Runs a transaction; whether its conditions were met. What fails before its commit is rolled back. */
function transact(connection: Database.Database, statements: () => unknown): boolean {
  try {
    statements();
    return true;
  } catch (error) {
    const isOpen = connection.inTransaction;
    if (isOpen) connection.exec("rollback");
    // The guard notices another connection's write once: pass it on.
    if (isOpen && !(error instanceof GuardError)) return false;
    throw error;
  }
}

/** Gives free pages back; whether there are more. */
function reclaimSpace(connection: Database.Database): boolean {
  // run() would stop this pragma after its first page, exec() goes on to its end.
  connection.exec(`PRAGMA incremental_vacuum(${reclaimedPages})`);
  const free = connection.pragma("freelist_count", { simple: true });
  const mode = connection.pragma("auto_vacuum", { simple: true });
  return mode === incrementalVacuum && Number(free) > 0;
}

/** Looks around; what a log that is gone still holds goes into the database, so that nothing is lost with it. */
function guarded(look: () => void): void {
  try {
    look();
  } catch (error) {
    const isRescuable = error instanceof GuardError && error.finding === "log_missing";
    if (isRescuable && connection?.inTransaction === false) {
      connection.pragma("wal_checkpoint(PASSIVE)");
    }
    throw error;
  }
}

/** Looks at the files, and tries a write after one failed. */
function look(connection: Database.Database, tries: boolean): void {
  guarded(() => guard?.look());
  if (!tries || connection.inTransaction) return;
  try {
    connection.exec(beginText);
    guard?.afterBegin();
    connection.exec("UPDATE journal SET owner = owner");
    connection.exec(commitText);
    guarded(() => guard?.afterCommit());
  } finally {
    if (connection.inTransaction) connection.exec("rollback");
  }
}

const opened = answer(() => {
  if (files !== undefined) refuseOtherFiles(path, files);
  connection = connect(path, lockTimeoutMs, isReader);
  return undefined;
});
port.postMessage(opened);
if (connection !== undefined) {
  const writer = connection;
  const prepare = preparedBy(writer);
  port.on("message", (work: Work) => {
    switch (work.t) {
      case "run":
        port.postMessage(
          { ...answer(() => run(prepare, work.statements, work.values)), values: work.values },
          [work.values],
        );
        return;
      case "transaction": {
        const { statements, values } = work;
        const runAll = () => run(prepare, statements, values);
        port.postMessage({ ...answer(() => transact(writer, runAll)), values }, [values]);
        return;
      }
      case "reclaim":
        port.postMessage(answer(() => reclaimSpace(writer)));
        return;
      case "guard":
        port.postMessage(
          answer(() => {
            guard = new SqliteGuard(path, writer, work.owner);
          }),
        );
        return;
      case "look":
        port.postMessage(answer(() => look(writer, work.tries)));
        return;
      case "close":
        writer.close();
        port.close();
    }
  });
}
