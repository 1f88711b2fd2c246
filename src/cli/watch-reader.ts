/**
 * Notices that the reader of a pipe has left, before there is anything to write to it:
 * `runlog tail … | head -1` is to end with `head`, also where nothing more comes.
 *
 * Node tells of it only when a write fails. GNU tail polls its output for it, so one runs
 * beside us and does nothing else; it ends with this process. Where there is none the next
 * record tells.
 */
import { spawn } from "node:child_process";
import { fstatSync } from "node:fs";
import type { Output } from "./output.ts";

const stdoutFd = 1;

/** Watches standard output, where it is a pipe, and tells `output`. */
export function watchReader(output: Output): { stop(): void } {
  if (process.platform !== "linux" || !fstatSync(stdoutFd).isFIFO())
    return { stop: () => undefined };
  const child = spawn("tail", [`--pid=${process.pid}`, "-f", "/dev/null"], {
    stdio: ["ignore", "inherit", "ignore"],
  });
  child.once("exit", (_, signal) => {
    if (signal === "SIGPIPE") output.readerLeft();
  });
  // There is none: nothing is lost but the notice.
  child.once("error", () => undefined);
  return { stop: () => void child.kill() };
}
