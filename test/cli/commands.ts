/**
 * The commands as child processes. Every one is ended by its own pid: call
 * `endAll` in afterEach or after.
 */
import assert from "node:assert/strict";
import { type ChildProcessWithoutNullStreams, spawn } from "node:child_process";
import { once } from "node:events";
import { fileURLToPath } from "node:url";

/** The program's file. */
export const main = fileURLToPath(new URL("../../src/cli/main.ts", import.meta.url));

/** How a command ended. */
export interface Ended {
  /** null where a signal ended it. */
  readonly status: number | null;
  readonly stdout: Buffer;
  readonly stderr: string;
}

/** A record as `tail --json` prints it. */
export interface JsonRecord {
  readonly seq: string;
  readonly runId: string;
  readonly runSeq?: string;
  readonly event?: {
    readonly type: string;
    readonly data?: string;
    readonly attributes?: Readonly<Record<string, string>>;
  };
  readonly runStarted?: { readonly depth?: number; readonly spec: { parentRunId?: string } };
  readonly runFinished?: {
    readonly result: { readonly state: string; readonly failure?: { readonly code: string } };
  };
}

/** A command that runs. */
export class RunningCommand {
  readonly child: ChildProcessWithoutNullStreams;
  readonly ended: Promise<Ended>;
  #stdout = Buffer.alloc(0);
  #stderr = "";
  #isOver = false;
  #waiting: (() => void)[] = [];

  /** @param program what runs; Node itself unless given */
  constructor(args: readonly string[], env: NodeJS.ProcessEnv, program = process.execPath) {
    this.child = spawn(program, [...args], { env });
    // A command that has ended takes no more input.
    this.child.stdin.on("error", () => undefined);
    this.child.stdout.on("data", (chunk: Buffer) => {
      this.#stdout = Buffer.concat([this.#stdout, chunk]);
      this.#wake();
    });
    this.child.stderr.setEncoding("utf8").on("data", (text: string) => {
      this.#stderr += text;
      this.#wake();
    });
    this.ended = once(this.child, "close").then(([status]) => {
      this.#isOver = true;
      this.#wake();
      return { status: status as number | null, stdout: this.#stdout, stderr: this.#stderr };
    });
  }

  get stdout(): string {
    return this.#stdout.toString();
  }

  get stderr(): string {
    return this.#stderr;
  }

  /** Waits until what it wrote matches; fails once it has ended without. */
  async until(output: "stdout" | "stderr", pattern: RegExp): Promise<RegExpExecArray> {
    for (;;) {
      const match = pattern.exec(this[output]);
      if (match !== null) return match;
      assert.ok(!this.#isOver, `it ended without ${pattern}: ${this.stdout}${this.stderr}`);
      await new Promise<void>((resolve) => this.#waiting.push(resolve));
    }
  }

  /** Sends a signal and waits for the end. */
  async kill(signal: NodeJS.Signals): Promise<Ended> {
    this.child.kill(signal);
    return this.ended;
  }

  #wake(): void {
    for (const wake of this.#waiting.splice(0)) wake();
  }
}

/** Starts commands against one server, in one namespace at a time. */
export class Commands {
  /** For RUNLOG_SERVER. */
  url = "";
  /** For RUNLOG_NAMESPACE. */
  namespace = "default";
  readonly #running = new Set<RunningCommand>();

  /** Starts a command. */
  start(args: readonly string[], env: Readonly<Record<string, string>> = {}): RunningCommand {
    return this.startNode([main, ...args], env);
  }

  /** Starts Node itself. */
  startNode(args: readonly string[], env: Readonly<Record<string, string>> = {}): RunningCommand {
    const command = new RunningCommand(args, {
      ...process.env,
      RUNLOG_SERVER: this.url,
      RUNLOG_NAMESPACE: this.namespace,
      RUNLOG_RUN_ID: "",
      ...env,
    });
    this.#running.add(command);
    command.child.once("close", () => this.#running.delete(command));
    return command;
  }

  /** Runs a command to its end. */
  run(
    args: readonly string[],
    input: string | Buffer = "",
    env: Readonly<Record<string, string>> = {},
  ): Promise<Ended> {
    const command = this.start(args, env);
    command.child.stdin.end(input);
    return command.ended;
  }

  /** Starts a server and takes it as the one that commands talk to. */
  async serve(file: string, listen = "127.0.0.1:0"): Promise<RunningCommand> {
    const server = this.start(["serve", "--listen", listen, "--journal", `sqlite:${file}`]);
    const [, url] = await server.until("stdout", /^listening on (http:\/\/127\.0\.0\.1:\d+)\n/);
    this.url = url!;
    return server;
  }

  /** The records that `tail --json` prints with these flags, once it has ended by itself. */
  async records(...flags: string[]): Promise<JsonRecord[]> {
    const { status, stdout, stderr } = await this.run(["tail", "--json", ...flags]);
    assert.equal(status, 0, stderr);
    return jsonLines<JsonRecord>(stdout);
  }

  /** Kills what is left. */
  async endAll(): Promise<void> {
    await Promise.all([...this.#running].map((command) => command.kill("SIGKILL")));
  }
}

/** Parses one JSON value a line. */
export function jsonLines<T>(output: Buffer | string): T[] {
  const lines = output.toString().split("\n");
  return lines.filter((line) => line !== "").map((line) => JSON.parse(line) as T);
}

/** The payloads of a run's events. */
export function textsOf(records: readonly JsonRecord[], runId: string): string[] {
  return records.flatMap(({ runId: owner, event }) =>
    owner === runId && event !== undefined
      ? [Buffer.from(event.data ?? "", "base64").toString()]
      : [],
  );
}

/** How a run ended: its state, and its failure's code where there is one. */
export function resultOf(records: readonly JsonRecord[], runId: string): string | undefined {
  const end = records.find((record) => record.runId === runId && record.runFinished !== undefined);
  const result = end?.runFinished?.result;
  const failure = result?.failure === undefined ? "" : ` ${result.failure.code}`;
  return result && `${result.state.replace("RUN_STATE_", "")}${failure}`;
}

/** Asserts the exit status 1 and that the last line, and no stack, says why. */
export function assertFailed({ status, stderr }: Ended, why: RegExp): void {
  assert.equal(status, 1, stderr);
  assert.match(stderr.trimEnd().split("\n").at(-1)!, why);
  assert.doesNotMatch(stderr, /^ {4}at /m);
}
