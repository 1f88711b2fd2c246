/** Processes of servers. */
import { type ChildProcess, spawn } from "node:child_process";
import { once } from "node:events";
import { accessSync, constants } from "node:fs";
import { type AddressInfo, connect, createServer } from "node:net";
import { homedir } from "node:os";
import { delimiter, join } from "node:path";
import { createInterface } from "node:readline";

/** Milliseconds for a server to listen. */
const startTimeoutMs = 20_000;
const retryMs = 20;

/** The path of a program, on PATH or where `go install` puts it. */
export function findProgram(name: string): string | undefined {
  const goBin = process.env["GOBIN"] ?? join(process.env["GOPATH"] ?? join(homedir(), "go"), "bin");
  const directories = [goBin, ...(process.env["PATH"] ?? "").split(delimiter), "/usr/sbin"];
  return directories
    .map((directory) => join(directory, name))
    .find((path) => {
      try {
        accessSync(path, constants.X_OK);
        return true;
      } catch {
        return false;
      }
    });
}

/** A port that nobody listens on. */
export async function freePort(): Promise<number> {
  const server = createServer().listen(0, "127.0.0.1");
  await once(server, "listening");
  const { port } = server.address() as AddressInfo;
  server.close();
  await once(server, "close");
  return port;
}

/** Starts a program and waits until a port of it takes connections. */
export async function startListening(
  command: string,
  args: readonly string[],
  port: number,
): Promise<ChildProcess> {
  const child = spawn(command, args, { stdio: ["ignore", "ignore", "inherit"] });
  const deadline = performance.now() + startTimeoutMs;
  while (!(await takesConnections(port))) {
    if (child.exitCode !== null) throw new Error(`${command} ended with ${child.exitCode}`);
    if (performance.now() > deadline) throw new Error(`${command} does not listen`);
    await new Promise((resolve) => setTimeout(resolve, retryMs));
  }
  return child;
}

/** How a Node program says where it listens. */
const listening = /\S*127\.0\.0\.1:\d+$/;

/** Starts a Node program that says where it listens at the end of a line. */
export async function startNode(
  file: string,
  args: readonly string[],
  nodeOptions: readonly string[] = [],
): Promise<{ readonly child: ChildProcess; readonly url: string }> {
  const child = spawn(process.execPath, [...profiling(), ...nodeOptions, file, ...args], {
    stdio: ["ignore", "pipe", "inherit"],
  });
  const ended = once(child, "exit").then(([code]) => {
    throw new Error(`${file} ended with ${code}`);
  });
  ended.catch(() => undefined);
  const lines = createInterface({ input: child.stdout });
  const { promise: listens, resolve } = Promise.withResolvers<string>();
  // Whatever else it prints is read as well, or it would wait for that.
  lines.on("line", (line) => {
    const url = listening.exec(line)?.[0];
    if (url !== undefined) resolve(url);
  });
  return { child, url: await Promise.race([listens, ended]) };
}

/** BENCH_CPU_PROF names a directory for CPU profiles of the servers that are Node programs. */
function profiling(): string[] {
  const directory = process.env["BENCH_CPU_PROF"];
  return directory === undefined ? [] : ["--cpu-prof", `--cpu-prof-dir=${directory}`];
}

/** Ends a process and waits for that. */
export async function end(child: ChildProcess): Promise<void> {
  if (child.exitCode !== null || child.signalCode !== null) return;
  child.kill("SIGTERM");
  await once(child, "exit");
}

function takesConnections(port: number): Promise<boolean> {
  return new Promise((resolve) => {
    const socket = connect(port, "127.0.0.1");
    socket.once("connect", () => {
      socket.destroy();
      resolve(true);
    });
    socket.once("error", () => resolve(false));
  });
}
