/**
 * The command that exec runs, and all that it starts.
 *
 * Invariants: every signal that exec gets reaches the command's whole process group; exec
 * ends after the group, and not before its output has been read. A first signal asks as
 * the sender did; the second one asks for the end (SIGTERM), the third ends (SIGKILL).
 * Who is asked to end and does not within the grace is killed.
 */
import { type ChildProcess, spawn } from "node:child_process";
import { constants } from "node:os";
import type { Readable, Writable } from "node:stream";
import { startTimer } from "../timers.ts";
import { endingSignals, notice, type Output, stderr, stdout } from "./output.ts";
import { makePipes } from "./pipes.ts";
import { ProcessGroup } from "./process-group.ts";
import { printable } from "./text.ts";

/** How the command ended. */
export type Ended =
  | { readonly t: "exit"; readonly code: number }
  | { readonly t: "signal"; readonly signal: NodeJS.Signals }
  /** `code` is the system's: ENOENT, EACCES, … */
  | { readonly t: "not_started"; readonly code: string; readonly message: string };

/** One of the command's outputs, and where a person still sees it. */
export interface ChildOutput {
  /** `tty`: a terminal has one output for both. */
  readonly name: "stdout" | "stderr" | "tty";
  readonly source: Readable;
  readonly seen: Output;
}

/** A command under way. */
export interface Child {
  readonly outputs: readonly ChildOutput[];
  /** Settles when the command and its process group have ended; never rejects. */
  readonly ended: Promise<Ended>;
  /** Asks the group to end, and kills the processes that have not after the grace period. */
  terminate(): void;
  /** Stops passing signals on. */
  dispose(): void;
}

/** A command that has been started, however. */
export interface Started {
  readonly pid: number;
  /** Its standard input, where that is a pipe of ours. */
  readonly input?: Writable;
  readonly outputs: readonly ChildOutput[];
  /** Settles when the command itself has ended. */
  readonly exited: Promise<Ended>;
}

/** Milliseconds from one look to the next whether a group has ended whose leader has. */
const groupPollMs = 50;
/** Milliseconds without output once the group has ended: an outsider may hold the pipe. */
const quietMs = 200;
/** Milliseconds after the command's end, from which on a person wants to know why exec goes on. */
const explainAfterMs = 1_000;

const passedOn = [...endingSignals, "SIGUSR2"] as const;

/**
 * Starts a command with real pipes for its output.
 *
 * @param stdin "inherit": this process's standard input; "pipe": one of its own, see Started
 */
export function startChild(
  file: string,
  args: readonly string[],
  env: NodeJS.ProcessEnv,
  stdin: "inherit" | "pipe",
): Started {
  const pipes = makePipes(["stdout", "stderr"]);
  const outputs: readonly ChildOutput[] = [
    { name: "stdout", source: pipes.stdout.source, seen: stdout },
    { name: "stderr", source: pipes.stderr.source, seen: stderr },
  ];
  const giveUp = (failure: Promise<Ended>): Started => {
    // Nobody waits for these.
    for (const { source } of outputs) source.destroy();
    return { pid: 0, outputs: [], exited: failure };
  };
  let child: ChildProcess;
  try {
    child = spawn(file, args, {
      env,
      stdio: [stdin, pipes.stdout.writeEnd, pipes.stderr.writeEnd],
      // A session, and so a group, of its own.
      detached: true,
    });
  } catch (error) {
    // ENOTDIR, ELOOP, ENAMETOOLONG, E2BIG, an empty name: Node reports these at once, others below.
    return giveUp(Promise.resolve(notStarted(file, codeOf(error))));
  } finally {
    for (const pipe of [pipes.stdout, pipes.stderr]) pipe.closeWriteEnd();
  }
  const { promise: exited, resolve } = Promise.withResolvers<Ended>();
  child.once("exit", (code, signal) => {
    resolve(signal === null ? { t: "exit", code: code ?? 1 } : { t: "signal", signal });
  });
  const failed = Promise.withResolvers<Ended>();
  // In the next turn.
  child.once("error", (error) => failed.resolve(notStarted(file, codeOf(error))));
  if (child.pid === undefined) return giveUp(failed.promise);
  const { pid, stdin: input } = child;
  // A write tells of it, too.
  input?.on("error", () => undefined);
  return { pid, outputs, exited, ...(input && { input }) };
}

function codeOf(error: unknown): string {
  return (error as NodeJS.ErrnoException).code ?? "EUNKNOWN";
}

/** The command could not be run; says so. */
export function notStarted(file: string, code: string): Ended {
  const why = code === "ENOENT" ? "no such command" : code;
  const message = `cannot run ${JSON.stringify(file)}: ${why}`;
  notice(printable(message));
  return { t: "not_started", code, message };
}

/** Looks after a command that has been started; `graceMs` is the time from SIGTERM to SIGKILL. */
export function lookAfter({ pid, outputs, exited }: Started, graceMs: number): Child {
  if (pid === 0) {
    return { outputs, ended: exited, terminate: () => undefined, dispose: () => undefined };
  }
  const group = new ProcessGroup(pid);
  const over = new AbortController();
  let signals = 0;
  let killer: NodeJS.Timeout | undefined;
  const killAfterGrace = () => {
    killer ??= startTimer(() => {
      if (group.kill("SIGKILL")) {
        notice(`the command did not end within ${graceMs / 1000} s of SIGTERM: killed it`);
      }
    }, graceMs);
  };
  const terminate = () => {
    // A command that is stopped would not see it.
    group.kill("SIGTERM");
    group.kill("SIGCONT");
    killAfterGrace();
  };
  const onSignal = (signal: NodeJS.Signals) => {
    if (signal === "SIGUSR2") {
      group.kill(signal);
      return;
    }
    signals++;
    if (signals === 1) {
      group.kill(signal);
      group.kill("SIGCONT");
      // An interactive command may take Ctrl-C for something else.
      if (signal !== "SIGINT") killAfterGrace();
    } else if (signals === 2 && killer === undefined) {
      notice("second signal: asked the command to end (SIGTERM); a third one kills it");
      terminate();
    } else {
      notice("killed the command");
      group.kill("SIGKILL");
    }
  };
  const onStop = () => {
    // Its session has no terminal, so that the keyboard's stop reaches only this process.
    group.kill("SIGSTOP");
    process.once("SIGCONT", () => group.kill("SIGCONT"));
    process.kill(process.pid, "SIGSTOP");
  };
  for (const signal of passedOn) process.on(signal, onSignal);
  process.on("SIGTSTP", onStop);
  return {
    outputs,
    ended: exited.then(async (ended) => {
      await groupEnded(group, over.signal);
      clearTimeout(killer);
      if (!over.signal.aborted) endOutputsWhenQuiet(outputs, over.signal);
      return ended;
    }),
    terminate,
    dispose() {
      over.abort();
      clearTimeout(killer);
      process.off("SIGTSTP", onStop);
      for (const signal of passedOn) process.off(signal, onSignal);
    },
  };
}

/** Resolves once nobody is left in the group, or nobody waits any more. */
function groupEnded(group: ProcessGroup, signal: AbortSignal): Promise<void> {
  return new Promise((resolve) => {
    const startedMs = performance.now();
    let explained = false;
    const look = () => {
      if (signal.aborted || !group.isAlive) {
        clearInterval(timer);
        resolve();
      } else if (!explained && performance.now() - startedMs > explainAfterMs) {
        explained = true;
        notice(
          "the command has ended, but processes that it started have not: the run ends with the last of them",
        );
      }
    };
    const timer = setInterval(look, groupPollMs);
    look();
  });
}

/**
 * Ends outputs that nothing is written to any more: a process that has left the group,
 * a daemon, may hold them open for ever.
 */
function endOutputsWhenQuiet(outputs: readonly ChildOutput[], signal: AbortSignal): void {
  const openOnes = () => outputs.filter(({ source }) => !source.readableEnded && !source.destroyed);
  /** Bytes that have come so far; undefined while some of them wait, and with them the rest of the pipe. */
  const readSoFar = () =>
    openOnes().some(({ source }) => source.readableLength > 0)
      ? undefined
      : outputs.reduce((sum, { source }) => sum + bytesRead(source), 0);
  let before: number | undefined;
  const endIfQuiet = () => {
    if (signal.aborted || before === undefined || readSoFar() !== before) return;
    notice(
      "the command has ended, but a process outside of its group holds the output open: not recording that",
    );
    for (const { source } of openOnes()) source.push(null);
  };
  const timer = setInterval(() => {
    if (openOnes().length === 0) {
      clearInterval(timer);
      return;
    }
    const read = readSoFar();
    // Not before the pipes have been looked at once more: lines may have taken all the time since.
    if (read !== undefined && read === before) setImmediate(endIfQuiet);
    before = read;
  }, quietMs);
  signal.addEventListener("abort", () => clearInterval(timer), { once: true });
}

function bytesRead(source: Readable): number {
  return "bytesRead" in source && typeof source.bytesRead === "number" ? source.bytesRead : 0;
}

/** The name of a signal by its number. */
export function signalName(number: number): NodeJS.Signals | undefined {
  const [name] = Object.entries(constants.signals).find(([, value]) => value === number) ?? [];
  return name as NodeJS.Signals | undefined;
}
