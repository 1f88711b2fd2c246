/**
 * A command on a terminal of its own (`exec --tty`): it sees what it would see at this
 * one, in colours, with a width, and with /dev/tty to ask for a password at. Its standard
 * output and standard error are one, in their true order.
 */
import { accessSync, constants } from "node:fs";
import { delimiter, join } from "node:path";
import { Readable } from "node:stream";
import type { IPty } from "@lydell/node-pty";
import { type Ended, notStarted, type Started, signalName } from "./child.ts";
import { stdout } from "./output.ts";

const defaultColumns = 80;
const defaultRows = 24;
/** What a terminal takes for the end of input: Ctrl-D. */
const endOfInput = "\u0004";

/** Starts a command on a terminal of its own, with this process's standard input as its keyboard. */
export async function startOnTerminal(
  file: string,
  args: readonly string[],
  env: NodeJS.ProcessEnv,
): Promise<Started> {
  const problem = problemWith(file, env["PATH"] ?? "");
  if (problem !== undefined) {
    return { pid: 0, outputs: [], exited: Promise.resolve(notStarted(file, problem)) };
  }
  const { spawn } = await import("@lydell/node-pty");
  const pty = spawn(file, [...args], {
    name: env["TERM"] ?? "xterm-256color",
    cols: process.stdout.columns ?? defaultColumns,
    rows: process.stdout.rows ?? defaultRows,
    cwd: process.cwd(),
    env,
    encoding: null,
  });
  const source = new Readable({
    read: () => pty.resume(),
    destroy: (error, done) => done(error),
  });
  // Without an encoding the package hands out bytes, whatever its types say.
  pty.onData((data) => {
    if (!source.push(Buffer.from(data))) pty.pause();
  });
  const release = connectKeyboard(pty);
  const exited = new Promise<Ended>((resolve) => {
    pty.onExit(({ exitCode, signal }) => {
      release();
      source.push(null);
      const name = signal === undefined || signal === 0 ? undefined : signalName(signal);
      resolve(name === undefined ? { t: "exit", code: exitCode } : { t: "signal", signal: name });
    });
  });
  return { pid: pty.pid, outputs: [{ name: "tty", source, seen: stdout }], exited };
}

/** Why a command cannot be run, as the system says it: the package reports no error of its own. */
function problemWith(file: string, path: string): "ENOENT" | "EACCES" | undefined {
  const candidates = file.includes("/")
    ? [file]
    : path.split(delimiter).map((directory) => join(directory, file));
  const found = candidates.filter((candidate) => isAccessible(candidate, constants.F_OK));
  if (found.length === 0) return "ENOENT";
  return found.some((candidate) => isAccessible(candidate, constants.X_OK)) ? undefined : "EACCES";
}

function isAccessible(path: string, mode: number): boolean {
  try {
    accessSync(path, mode);
    return true;
  } catch {
    return false;
  }
}

/** Passes on keys and the size of the window; returns a function that undoes it. */
function connectKeyboard(pty: IPty): () => void {
  const { stdin, stdout: screen } = process;
  // Bytes as they are: the package writes them on to a socket.
  const onData = (chunk: Buffer) => pty.write(chunk as unknown as string);
  const onEnd = () => pty.write(endOfInput);
  const onResize = () => pty.resize(screen.columns, screen.rows);
  // Raw: Ctrl-C and Ctrl-Z are the command's to see, from its own terminal.
  if (stdin.isTTY) stdin.setRawMode(true);
  stdin.on("data", onData).once("end", onEnd);
  if (screen.isTTY) screen.on("resize", onResize);
  return () => {
    stdin.off("data", onData).off("end", onEnd).pause();
    if (stdin.isTTY) stdin.setRawMode(false);
    screen.off("resize", onResize);
  };
}
