/**
 * Worker processes of an orchestrator or of another worker.
 *
 * Invariant: a process that a signal ended is started again with the same
 * task; nobody outlives the process that started it (see endWithParent).
 */
import { type ChildProcess, fork } from "node:child_process";
import { join } from "node:path";
import type { Task } from "./tasks.ts";

/** Starts that one task may take: a program that dies again and again has a bug. */
const maxStarts = 5;

/** What happens to a worker. */
export type WorkerNews =
  | { readonly t: "started"; readonly task: Task; readonly attempt: number }
  | { readonly t: "died"; readonly task: Task; readonly signal: NodeJS.Signals };

/** The workers of one process. */
export class Workers {
  readonly #running = new Map<string, ChildProcess>();
  readonly #news: (news: WorkerNews) => Promise<void>;

  constructor(news: (news: WorkerNews) => Promise<void>) {
    this.#news = news;
  }

  /** Runs one task to its end. Throws where the worker fails. */
  async run(task: Task): Promise<void> {
    for (let attempt = 1; attempt <= maxStarts; attempt++) {
      await this.#news({ t: "started", task, attempt });
      const child = fork(join(import.meta.dirname, "worker.ts"), [JSON.stringify(task)]);
      this.#running.set(task.name, child);
      const end = await ended(child);
      this.#running.delete(task.name);
      if (end === 0) {
        return;
      }
      if (typeof end === "number") {
        throw new Error(`worker ${task.name} ended with status ${end}`);
      }
      await this.#news({ t: "died", task, signal: end });
    }
    throw new Error(`worker ${task.name} died ${maxStarts} times`);
  }

  /** Kills a worker with SIGKILL. Returns whether it was running. */
  kill(name: string): boolean {
    return this.#running.get(name)?.kill("SIGKILL") ?? false;
  }
}

/** Ends this process when its parent has ended. */
export function endWithParent(): void {
  process.once("disconnect", () => process.exit(1));
}

/** Resolves with the exit status, or with the signal that ended it. */
export function ended(child: ChildProcess): Promise<number | NodeJS.Signals> {
  return new Promise((resolve, reject) => {
    child.once("error", reject);
    child.once("exit", (code, signal) => resolve(signal ?? code ?? 1));
  });
}
