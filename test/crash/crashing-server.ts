/**
 * The process that server-process.ts starts: the real server on a database
 * file, which can be told to kill itself at a chosen point of a transaction.
 * It tells its parent in JSON lines and ends when its standard input does, so
 * that it never outlives the test.
 */
import { writeSync } from "node:fs";
import { pino } from "pino";
import type { Journal } from "../../src/journal/journal.ts";
import type { Db } from "../../src/journal/schema.ts";
import { startServer } from "../../src/server/server.ts";
import type { ChildMessage, ChildOptions, CrashPoint } from "./server-process.ts";

function tell(message: ChildMessage): void {
  // Synchronous: a line must be out before the process kills itself.
  writeSync(1, `${JSON.stringify(message)}\n`);
}

/** The newest seq that a connection or a transaction sees. */
async function lastSeq(db: Db): Promise<number> {
  const rows = await db.selectFrom("namespaces").select("last_seq").execute();
  return Math.max(0, ...rows.map((row) => row.last_seq));
}

/** Kills the process in the first transaction from the n-th on that adds records. */
function crashing(journal: Journal, point: CrashPoint): Journal {
  let transactions = 0;
  const crash = async (): Promise<never> => {
    tell({ t: "crashing", committedSeq: await lastSeq(journal.db) });
    process.kill(process.pid, "SIGKILL");
    return new Promise<never>(() => undefined);
  };
  const { append } = journal;
  /** Appends that were sent and have not been answered. */
  const inFlight = new Set<Promise<boolean>>();
  /** Set from the chosen append on: later ones wait, so that none commits before the kill. */
  let chosen: PromiseWithResolvers<void> | undefined;
  return {
    ...journal,
    ...(append && {
      async append(what) {
        while (chosen !== undefined) await chosen.promise;
        const isReached = ++transactions >= point.transaction && what.records.length > 0;
        if (isReached) chosen = Promise.withResolvers();
        // Its statements and its commit are one message to the thread that writes.
        if (isReached && point.at === "before-commit") {
          await Promise.allSettled(inFlight);
          await crash();
        }
        const answer = append(what);
        inFlight.add(answer);
        const isWritten = await answer.finally(() => inFlight.delete(answer));
        if (isReached && isWritten) await crash();
        chosen?.resolve();
        chosen = undefined;
        return isWritten;
      },
    }),
    async write(work) {
      const before = await lastSeq(journal.db);
      const isReached = ++transactions >= point.transaction;
      const result = await journal.write(async (tx) => {
        const inTransaction = await work(tx);
        if (isReached && point.at === "before-commit" && (await lastSeq(tx)) > before) {
          await crash();
        }
        return inTransaction;
      });
      if (isReached && point.at === "after-commit" && (await lastSeq(journal.db)) > before) {
        await crash();
      }
      return result;
    },
  };
}

const { file, journal: url, limits, crash } = JSON.parse(process.argv[2] ?? "{}") as ChildOptions;
process.stdin.on("end", () => process.exit(0)).resume();
try {
  const server = await startServer({
    host: "127.0.0.1",
    port: 0,
    journal: url ?? `sqlite:${file}`,
    ...(limits === undefined ? {} : { limits }),
    logger: pino({ level: "warn" }, pino.destination({ dest: 2, sync: true })),
    ...(crash === undefined ? {} : { wrapJournal: (journal) => crashing(journal, crash) }),
  });
  tell({ t: "listening", url: server.url, pid: process.pid });
} catch (error) {
  const { name, message } = error as Error;
  tell({ t: "failed", name, message });
  process.exit(1);
}
