import { closeSync, openSync, readFileSync, writeSync } from "node:fs";
import type { Entry, NewEntry } from "./entry.ts";

/** Characters that are gathered before they are written. */
const bufferChars = 64 * 1024;

/** A history on its way: entries are appended to a file and kept for the checker. */
export class History {
  readonly path: string;
  readonly entries: Entry[] = [];
  readonly #fd: number;
  readonly #beganMs = performance.now();
  #pending = "";

  constructor(path: string) {
    this.path = path;
    this.#fd = openSync(path, "a");
  }

  /** Milliseconds since it began. */
  get nowMs(): number {
    return Math.round(performance.now() - this.#beganMs);
  }

  append(entry: NewEntry): void {
    const timed = { at: this.nowMs, ...entry } as Entry;
    this.entries.push(timed);
    this.#pending += `${JSON.stringify(timed)}\n`;
    if (this.#pending.length > bufferChars) this.flush();
  }

  flush(): void {
    writeSync(this.#fd, this.#pending);
    this.#pending = "";
  }

  close(): void {
    this.flush();
    closeSync(this.#fd);
  }
}

/** Reads the file of an earlier history. */
export function readHistory(path: string): Entry[] {
  const lines = readFileSync(path, "utf8").split("\n");
  return lines.filter((line) => line !== "").map((line) => JSON.parse(line) as Entry);
}
