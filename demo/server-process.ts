/**
 * `runlog serve` as a process of its own, on one journal and one port, to be
 * killed and started again.
 */
import { type ChildProcess, spawn } from "node:child_process";
import { join } from "node:path";
import { createInterface } from "node:readline";
import { ended } from "./workers.ts";

/** The command line's entry. */
export const runlogPath = join(import.meta.dirname, "../src/cli/main.ts");

/** A server that runs, or did. */
export class ServerProcess {
  readonly #journal: string;
  /** Picked by the first start, kept by the others. */
  #listen = "127.0.0.1:0";
  #child: ChildProcess | undefined;

  constructor(journal: string) {
    this.#journal = journal;
  }

  /** Starts it and returns its URL once it serves. */
  async start(signal: AbortSignal): Promise<string> {
    const args = [runlogPath, "serve", "--listen", this.#listen, "--journal", this.#journal];
    const child = spawn(process.execPath, [...args, "--log-level", "silent"], {
      stdio: ["ignore", "pipe", "inherit"],
    });
    this.#child = child;
    for await (const line of createInterface({ input: child.stdout, signal })) {
      const url = /^listening on (\S+)$/.exec(line)?.[1];
      if (url !== undefined) {
        this.#listen = new URL(url).host;
        return url;
      }
    }
    signal.throwIfAborted();
    throw new Error("the server ended before it listened");
  }

  /** Ends it with kill -9, and waits until it is gone. Does nothing where it does not run. */
  async kill(): Promise<void> {
    const child = this.#child;
    this.#child = undefined;
    if (child !== undefined && child.exitCode === null && child.signalCode === null) {
      const end = ended(child);
      child.kill("SIGKILL");
      await end;
    }
  }
}
