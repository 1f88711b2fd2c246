/**
 * Servers in processes of their own, to be killed. Every one is ended by its
 * own pid: call `endAll` in afterEach.
 */
import { type ChildProcess, spawn } from "node:child_process";
import { once } from "node:events";
import { createInterface } from "node:readline";
import { fileURLToPath } from "node:url";
import type { Limits } from "../../src/limits.ts";

/** Where a server kills itself. */
export interface CrashPoint {
  /** Inside the transaction once its work is done, or once it is committed, before the answer. */
  readonly at: "before-commit" | "after-commit";
  /** The first transaction from this one on that adds records; 1 is the first. */
  readonly transaction: number;
}

/** What the child is given. */
export interface ChildOptions {
  /** The database file of an embedded journal. */
  readonly file?: string;
  /** The journal's URL, where there is no file. */
  readonly journal?: string;
  /** Where they differ from the defaults. */
  readonly limits?: Partial<Limits>;
  readonly crash?: CrashPoint;
}

/** What the child tells, one JSON line each. */
export type ChildMessage =
  | { readonly t: "listening"; readonly url: string; readonly pid: number }
  | { readonly t: "failed"; readonly name: string; readonly message: string }
  /** Its last words at the crash point; committedSeq is the newest seq that is committed. */
  | { readonly t: "crashing"; readonly committedSeq: number };

const entry = fileURLToPath(new URL("crashing-server.ts", import.meta.url));

/** The server did not come up; the message is what startServer threw. */
export class StartFailure extends Error {
  /** Name of the error that startServer threw. */
  readonly thrown: string;

  constructor(thrown: string, message: string) {
    super(message);
    this.name = "StartFailure";
    this.thrown = thrown;
  }
}

/** A server that listens. */
export interface ServerProcess {
  readonly url: string;
  /** Of the server itself, also where it runs under another program. */
  readonly pid: number;
  /** Resolves once the process has ended, whatever ended it, with what it told last. */
  readonly ended: Promise<{ readonly committedSeq: number | undefined }>;
  /** Stops it in the middle of whatever it does, until it is resumed. */
  suspend(): void;
  /** Lets it go on. */
  resume(): void;
  /** kill -9; resolves once the process has ended. */
  kill(): Promise<void>;
  /** Closes its standard input, on which it exits by itself; resolves once it has. */
  stop(): Promise<void>;
}

/** Starts servers, and ends those that are left. */
export class ServerProcesses {
  readonly #children = new Set<ChildProcess>();

  /**
   * Starts a server and resolves once it listens.
   *
   * @param under a program and its arguments that run it, such as a tracer
   * @throws StartFailure with what startServer threw
   */
  async start(options: ChildOptions, under: readonly string[] = []): Promise<ServerProcess> {
    const [command, ...args] = [...under, process.execPath, entry, JSON.stringify(options)];
    const child = spawn(command!, args, { stdio: ["pipe", "pipe", "inherit"] });
    this.#children.add(child);
    let committedSeq: number | undefined;
    const started = Promise.withResolvers<{ url: string; pid: number }>();
    const lines = createInterface({ input: child.stdout });
    lines.on("line", (line) => {
      const message = JSON.parse(line) as ChildMessage;
      if (message.t === "listening") started.resolve(message);
      else if (message.t === "crashing") committedSeq = message.committedSeq;
      else started.reject(new StartFailure(message.name, message.message));
    });
    // Also when it could not be spawned at all.
    child.once("error", (error) => started.reject(error));
    const ended = once(child, "close").then(() => {
      this.#children.delete(child);
      started.reject(new Error("the server ended before it listened"));
      return { committedSeq };
    });
    ended.catch(() => undefined);
    const { url, pid } = await started.promise;
    return {
      url,
      pid,
      ended,
      suspend: () => void process.kill(pid, "SIGSTOP"),
      resume: () => void process.kill(pid, "SIGCONT"),
      async kill() {
        killPid(pid);
        await ended;
      },
      async stop() {
        child.stdin.end();
        await ended;
      },
    };
  }

  /** Ends what is left. A server under a tracer ends with its standard input. */
  async endAll(): Promise<void> {
    const left = [...this.#children];
    await Promise.all(
      left.map(async (child) => {
        const closed = once(child, "close");
        child.stdin?.end();
        if (child.exitCode === null && child.signalCode === null) child.kill("SIGKILL");
        await closed;
      }),
    );
  }
}

/** kill -9; a process that has ended by itself is fine. */
function killPid(pid: number): void {
  try {
    process.kill(pid, "SIGKILL");
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code !== "ESRCH") throw error;
  }
}
