import type { JournalHealth } from "../journal-health.ts";
import { isForeignChange, problemOf } from "./errors.ts";
import type { SqliteWriter } from "./writer.ts";

/** Milliseconds between two looks; one takes microseconds. */
const lookIntervalMs = 500;

/** What the watch looks at, and its listeners. */
export interface SqliteWatchOptions {
  readonly path: string;
  readonly thread: SqliteWriter;
  readonly health: JournalHealth;
  /** Milliseconds without an answer after which the disk is taken for dead. */
  readonly databaseWaitMs: number;
  /** Called when another connection has written. */
  readonly onForeignWrite: () => void;
}

/**
 * Looks at a SQLite journal whether anybody writes to it or not, and tells its
 * health: a file that is gone, a disk that is full, or a stranger is noticed
 * within a second, and so is that it is over.
 *
 * Begins at once; the result ends it.
 */
export function watchSqlite(options: SqliteWatchOptions): () => void {
  const { path, thread, health, databaseWaitMs, onForeignWrite } = options;
  let beganMs: number | undefined;
  const look = async () => {
    beganMs = performance.now();
    try {
      await thread.look(health.problem?.kind === "passing");
      health.worked();
    } catch (error) {
      const problem = problemOf(error, path);
      if (problem !== undefined) health.failed(problem);
      else if (isForeignChange(error)) onForeignWrite();
    } finally {
      beganMs = undefined;
    }
  };
  const timer = setInterval(() => {
    if (beganMs === undefined) {
      void look();
      return;
    }
    const waitedMs = performance.now() - beganMs;
    if (waitedMs <= databaseWaitMs) return;
    const message = `the disk of ${path} does not answer`;
    health.failed({ kind: "passing", message });
  }, lookIntervalMs);
  timer.unref();
  let isStopped = false;
  void thread.died.then((cause) => {
    if (isStopped) return;
    const message = `the thread that writes ${path} has ended (${cause.message}): restart runlog`;
    health.failed({ kind: "fatal", message, cause });
  });
  return () => {
    isStopped = true;
    clearInterval(timer);
  };
}
