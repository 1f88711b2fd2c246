/** What the demo's processes tell each other when they start, and the names they agree on. */
import { v5 as uuidv5 } from "uuid";
import type { BackoffOptions } from "../src/client/index.ts";

/** Given to an orchestrator or a worker as its only argument, as JSON. */
export interface Task {
  /** The server's URL; of several nodes, with commas. */
  readonly server: string;
  readonly rootRunId: string;
  readonly runId: string;
  /** Empty for the orchestrator. */
  readonly parentRunId: string;
  readonly name: string;
  /** The repository. */
  readonly repository: string;
  /** What to look at, relative to the repository. */
  readonly directory: string;
  /** Where each process keeps a record of what it sent. */
  readonly sentDirectory: string;
  /** Milliseconds over which a worker spreads its work, so that there is something to watch. */
  readonly paceMs: number;
}

/** From the conductor to the orchestrator. */
export interface KillOrder {
  /** The worker to kill with SIGKILL. */
  readonly kill: string;
}

/** Waits between attempts: the server is away for a second or two, and people watch. */
export const demoBackoff: BackoffOptions = { baseMs: 100, capMs: 500 };

/** Reads the task of this process. */
export function ownTask(): Task {
  return JSON.parse(process.argv[2] ?? "") as Task;
}

/** The run id of a directory's worker: the same after a restart, so that it reopens its run. */
export function workerRunId(rootRunId: string, directory: string): string {
  return uuidv5(directory, rootRunId);
}
