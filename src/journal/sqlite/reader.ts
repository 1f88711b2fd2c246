/** A thread that reads, for scans that go in steps. */
import { SqliteError } from "better-sqlite3";
import type { SqliteOptions } from "./options.ts";
import { SqliteWriter } from "./writer.ts";

/**
 * Starts the thread when it is first asked something, and again where it has died.
 *
 * @param onError maps the thread's errors to those thrown
 */
export function lazyReader(
  options: SqliteOptions,
  onError: (error: unknown) => unknown,
): Pick<SqliteWriter, "run" | "stop"> {
  let starting: Promise<SqliteWriter> | undefined;
  let isStopped = false;
  const start = async () => {
    const thread = await SqliteWriter.start({ ...options, isReader: true });
    void thread.died.then(() => {
      starting = undefined;
    });
    return thread;
  };
  return {
    async run(statements) {
      if (isStopped) throw onError(new SqliteError("the journal was closed", "SQLITE_MISUSE"));
      try {
        starting ??= start();
        const thread = await starting.catch((error: unknown) => {
          starting = undefined;
          throw error;
        });
        return await thread.run(statements);
      } catch (error) {
        throw onError(error);
      }
    },
    async stop() {
      isStopped = true;
      await (await starting?.catch(() => undefined))?.stop();
    },
  };
}
