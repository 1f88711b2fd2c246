/**
 * Real pipes for a command's output. Node's own "pipe" is a pair of sockets, and
 * /dev/stdout and /dev/stderr cannot be opened on a socket.
 */
import { execFileSync } from "node:child_process";
import { closeSync, constants, mkdtempSync, openSync, rmSync } from "node:fs";
import { Socket } from "node:net";
import { tmpdir } from "node:os";
import { join } from "node:path";
import type { Readable } from "node:stream";

/** A pipe with both its ends in this process. */
export interface Pipe {
  readonly source: Readable;
  /** For a child's stdio. */
  readonly writeEnd: number;
  /** Once the child has its copy: the source ends when the last copy is closed. */
  closeWriteEnd(): void;
}

/** Makes pipes, as many as there are names. */
export function makePipes<Name extends string>(names: readonly Name[]): Record<Name, Pipe> {
  const directory = mkdtempSync(join(tmpdir(), "runlog-pipes-"));
  try {
    const paths = names.map((name) => join(directory, name));
    execFileSync("mkfifo", ["-m", "600", ...paths]);
    const pipes = paths.map((path) => openPipe(path));
    return Object.fromEntries(names.map((name, i) => [name, pipes[i]])) as Record<Name, Pipe>;
  } finally {
    // An open pipe needs no name.
    rmSync(directory, { recursive: true });
  }
}

function openPipe(path: string): Pipe {
  // Not blocking: otherwise it would wait for somebody who opens the other end.
  const readEnd = openSync(path, constants.O_RDONLY | constants.O_NONBLOCK);
  const writeEnd = openSync(path, constants.O_WRONLY);
  return {
    source: new Socket({ fd: readEnd, readable: true, writable: false }),
    writeEnd,
    closeWriteEnd: () => closeSync(writeEnd),
  };
}
