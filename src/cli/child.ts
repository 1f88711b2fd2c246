/**
 * The command that exec runs.
 *
 * Invariant: it gets every signal that exec gets, once; exec ends after it,
 * and not before its output has been read.
 */
import { spawn } from "node:child_process";
import type { Readable } from "node:stream";
import { notice, type Output, stderr, stdout } from "./output.ts";

/** How the command ended. */
export type Ended =
  | { readonly t: "exit"; readonly code: number }
  | { readonly t: "signal"; readonly signal: NodeJS.Signals }
  /** `code` is the system's: ENOENT, EACCES, … */
  | { readonly t: "not_started"; readonly code: string; readonly message: string };

/** One of the command's outputs, and where a person still sees it. */
export interface ChildOutput {
  readonly name: "stdout" | "stderr";
  readonly source: Readable;
  readonly seen: Output;
}

/** A command under way. */
export interface Child {
  readonly outputs: readonly ChildOutput[];
  /** Settles when the command has ended; never rejects. */
  readonly ended: Promise<Ended>;
  kill(signal: NodeJS.Signals): void;
  /** Stops passing signals on. */
  dispose(): void;
}

/** Milliseconds without output after the command ended: something else may hold the pipe. */
const quietMs = 1_000;

const passedOn = ["SIGINT", "SIGTERM", "SIGHUP", "SIGQUIT", "SIGUSR2"] as const;

/** Starts a command with this process's standard input. */
export function startChild(file: string, args: readonly string[], env: NodeJS.ProcessEnv): Child {
  const child = spawn(file, args, { env, stdio: ["inherit", "pipe", "pipe"] });
  const outputs: readonly ChildOutput[] = [
    { name: "stdout", source: child.stdout, seen: stdout },
    { name: "stderr", source: child.stderr, seen: stderr },
  ];
  const { promise: ended, resolve } = Promise.withResolvers<Ended>();
  let timer: NodeJS.Timeout | undefined;
  child.once("error", (error: NodeJS.ErrnoException) => {
    const code = error.code ?? "EUNKNOWN";
    const why = code === "ENOENT" ? "there is no such command" : code;
    if (child.pid === undefined) {
      notice(`cannot run ${JSON.stringify(file)}: ${why}`);
      resolve({ t: "not_started", code, message: `cannot run ${JSON.stringify(file)}: ${why}` });
    }
  });
  child.once("exit", (code, signal) => {
    resolve(signal === null ? { t: "exit", code: code ?? 1 } : { t: "signal", signal });
    timer = endOutputsWhenQuiet(outputs);
  });
  const onSignal = (signal: NodeJS.Signals) => {
    // At a terminal the whole foreground group got it from the keyboard.
    const fromKeyboard = process.stdin.isTTY && (signal === "SIGINT" || signal === "SIGQUIT");
    if (!fromKeyboard) {
      child.kill(signal);
    }
  };
  for (const signal of passedOn) {
    process.on(signal, onSignal);
  }
  return {
    outputs,
    ended,
    kill: (signal) => child.kill(signal),
    dispose() {
      clearInterval(timer);
      for (const signal of passedOn) {
        process.off(signal, onSignal);
      }
    },
  };
}

/**
 * Ends outputs that nothing has written to for a while: a process that the
 * command left behind may hold them open for ever.
 */
function endOutputsWhenQuiet(outputs: readonly ChildOutput[]): NodeJS.Timeout {
  let before = -1;
  return setInterval(() => {
    const open = outputs.filter(({ source }) => !source.readableEnded && !source.destroyed);
    const waiting = open.some(({ source }) => source.readableLength > 0);
    const read = outputs.reduce((sum, { source }) => sum + bytesRead(source), 0);
    if (open.length > 0 && !waiting && read === before) {
      notice("the command has ended, but something it started holds its output open: not read on");
      for (const { source } of open) {
        source.push(null);
      }
    }
    before = read;
  }, quietMs);
}

function bytesRead(source: Readable): number {
  return "bytesRead" in source && typeof source.bytesRead === "number" ? source.bytesRead : 0;
}
