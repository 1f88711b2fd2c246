import { type ChildProcess, spawn } from "node:child_process";
import { once } from "node:events";
import { createWriteStream, readFileSync, type WriteStream, writeFileSync } from "node:fs";
import { join } from "node:path";
import { createInterface } from "node:readline";
import { isUnexpected } from "../history/check-surroundings.ts";
import type { History } from "../history/history.ts";
import { server } from "./entry.ts";

/** Milliseconds between tries of a supervisor, and for one try. */
const restartMs = 200;
const startTimeoutMs = 60_000;

/** Processes that must not outlive this one. */
const running = new Set<ChildProcess>();
process.once("exit", () => {
  for (const child of running) child.kill("SIGKILL");
});

/** What a server is started with. */
export interface ServerNodeOptions {
  readonly name: string;
  /** URL of the journal. */
  readonly journal: string;
  readonly history: History;
  /** Where its log goes. */
  readonly directory: string;
  readonly environment?: Readonly<Record<string, string>>;
  /** name=value, each. */
  readonly limits?: readonly string[];
  /** Bytes of memory that it may have resident. */
  readonly maxRssBytes: number;
}

/**
 * A server as an operator runs it: `runlog serve` in a process of its own, started again
 * by its supervisor when it ends, and watched.
 */
export class ServerNode {
  readonly name: string;
  readonly #options: ServerNodeOptions;
  readonly #log: WriteStream;
  /** Picked by the first start, kept by the others. */
  #listen = "127.0.0.1:0";
  #child: ChildProcess | undefined;
  #supervising: Promise<void> | undefined;
  /** Whether it is meant to run: while it is, it is started again. */
  #isWanted = false;
  /** While a fault is on after which servers may end by themselves. */
  mayEnd = false;
  /** While its database is out of reach: then it does not start, and is started again. */
  mayFailToStart = false;
  /** Ends by itself since the beginning. */
  ends = 0;

  constructor(options: ServerNodeOptions) {
    this.name = options.name;
    this.#options = options;
    this.#log = createWriteStream(join(options.directory, `${options.name}.log`), { flags: "a" });
  }

  get url(): string {
    return `http://${this.#listen}`;
  }

  /** Of the process that runs, if one does. */
  get pid(): number | undefined {
    return this.#child?.pid;
  }

  /** Starts it, and keeps it running from now on; resolves once it listens. */
  async start(): Promise<void> {
    for (;;) {
      const problem = await this.#launch();
      if (problem === undefined) {
        this.#isWanted = true;
        return;
      }
      if (!this.mayEnd && !this.mayFailToStart)
        throw new Error(`${this.name} did not start: ${problem}`);
      await new Promise((resolve) => setTimeout(resolve, restartMs));
    }
  }

  /** Starts it and does not wait for it to listen: for faults while it starts. */
  launch(): void {
    this.#isWanted = false;
    this.#launch().catch(() => undefined);
  }

  /** Ends it by a signal and does not start it again; resolves once the process is gone. */
  async end(signal: NodeJS.Signals): Promise<void> {
    this.#isWanted = false;
    const child = this.#child;
    if (child !== undefined && child.exitCode === null && child.signalCode === null) {
      const exited = once(child, "exit");
      child.kill(signal);
      await exited;
    }
    await this.#supervising;
  }

  /** Sends a signal that does not end it. */
  signal(signal: NodeJS.Signals): void {
    this.#child?.kill(signal);
  }

  /** Writes down how much memory it had at most since the last look. */
  noteMemory(): number {
    const rssBytes = peakRssBytes(this.pid);
    const { history, maxRssBytes: maxBytes } = this.#options;
    if (rssBytes > 0) history.append({ t: "memory", node: this.name, rssBytes, maxBytes });
    return rssBytes;
  }

  /** Ends it for good. */
  async close(): Promise<void> {
    await this.end("SIGKILL");
    this.#log.end();
  }

  /** What kept it from listening, if anything did. */
  async #launch(): Promise<string | undefined> {
    const { journal, environment, limits = [] } = this.#options;
    const args = ["serve", "--listen", this.#listen, "--journal", journal];
    const flags = limits.flatMap((limit) => ["--limit", limit]);
    const child = spawn(process.execPath, [server.entry, ...args, ...flags], {
      stdio: ["ignore", "pipe", "pipe"],
      env: { ...process.env, ...environment },
    });
    this.#child = child;
    running.add(child);
    const lastLines: string[] = [];
    createInterface({ input: child.stderr }).on("line", (line) => {
      lastLines.push(line);
      if (lastLines.length > 5) lastLines.shift();
      this.#noteLine(line);
    });
    const listening = Promise.withResolvers<string | undefined>();
    createInterface({ input: child.stdout }).on("line", (line) => {
      const host = /^listening on http:\/\/(\S+)$/.exec(line)?.[1];
      if (host === undefined) return;
      this.#listen = host;
      listening.resolve(undefined);
    });
    const timer = setTimeout(() => child.kill("SIGKILL"), startTimeoutMs);
    child.once("exit", (code, signal) => {
      this.#onExit(child, signal ?? String(code), lastLines.join("\n"));
      listening.resolve(`${signal ?? code} ${lastLines.join("\n")}`);
    });
    const problem = await listening.promise;
    clearTimeout(timer);
    return problem;
  }

  #noteLine(line: string): void {
    this.#log.write(`${line}\n`);
    const { history } = this.#options;
    if (isUnexpected(line)) history.append({ t: "log", node: this.name, line });
  }

  /** A supervisor starts it again, whatever ended it. */
  #onExit(child: ChildProcess, status: string, lastLines: string): void {
    running.delete(child);
    if (this.#child === child) this.#child = undefined;
    if (!this.#isWanted) return;
    this.ends++;
    const { history } = this.#options;
    const told = `${status} ${lastLines}`;
    history.append({ t: "exit", node: this.name, status: told, isWanted: this.mayEnd });
    this.#supervising ??= this.#restart().finally(() => {
      this.#supervising = undefined;
    });
  }

  async #restart(): Promise<void> {
    while (this.#isWanted) {
      await new Promise((resolve) => setTimeout(resolve, restartMs));
      if (!this.#isWanted || (await this.#launch()) === undefined) return;
    }
  }
}

/** Most resident memory of a process since it was last asked, in bytes; 0 where there is none. */
export function peakRssBytes(pid: number | undefined): number {
  if (pid === undefined) return 0;
  try {
    const status = readFileSync(`/proc/${pid}/status`, "utf8");
    // 5 resets the peak, https://docs.kernel.org/filesystems/proc.html
    writeFileSync(`/proc/${pid}/clear_refs`, "5");
    return Number(/^VmHWM:\s+(\d+) kB$/m.exec(status)?.[1] ?? 0) * 1024;
  } catch {
    return 0;
  }
}
