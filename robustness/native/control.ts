import { closeSync, openSync, readSync, writeSync } from "node:fs";
import { constants } from "node:os";

/** Names of errors that a disk can answer with. */
export type DiskError = "EIO" | "ENOSPC" | "EROFS";

/** Byte offsets in struct control of disk.c. */
const offsets = {
  writeError: 0,
  writePermille: 4,
  syncError: 8,
  syncPermille: 12,
  readError: 16,
  readPermille: 20,
  openError: 24,
  syncDelayMs: 28,
  clockOffsetMs: 32,
  keepsUndo: 40,
  writes: 44,
  syncs: 48,
  failures: 52,
} as const;
const controlBytes = 64;

/** Which operations fail with which error, and how many of a thousand; 1000 unless given. */
export interface DiskFailure {
  readonly of: "write" | "sync" | "read" | "open";
  readonly error: DiskError;
  readonly permille?: number;
}

/**
 * The switches of a preloaded disk (disk.c): a file that the server's process has mapped.
 * What is written here holds from the next system call on.
 */
export class DiskControl {
  readonly path: string;
  readonly #fd: number;

  /** Makes the file; everything is off, but undo logs are kept. */
  constructor(path: string) {
    this.path = path;
    this.#fd = openSync(path, "w+");
    writeSync(this.#fd, Buffer.alloc(controlBytes), 0, controlBytes, 0);
    this.#set("keepsUndo", 1);
  }

  /** Makes operations fail until `heal`. */
  fail({ of, error, permille = 1000 }: DiskFailure): void {
    if (of !== "open") this.#set(`${of}Permille`, permille);
    this.#set(`${of}Error`, constants.errno[error]);
  }

  /** Makes each sync take so many milliseconds longer. */
  slowSyncs(delayMs: number): void {
    this.#set("syncDelayMs", delayMs);
  }

  /** Sets the wall clock forward, or back, against the true one; whole seconds count. */
  shiftClock(offsetMs: number): void {
    const bytes = Buffer.alloc(8);
    bytes.writeBigInt64LE(BigInt(offsetMs));
    writeSync(this.#fd, bytes, 0, 8, offsets.clockOffsetMs);
  }

  /** Ends all failures and delays; the clock is right again. */
  heal(): void {
    for (const name of ["writeError", "syncError", "readError", "openError"] as const) {
      this.#set(name, 0);
    }
    this.slowSyncs(0);
    this.shiftClock(0);
  }

  /** Operations since the beginning, and how many of them failed on command. */
  get counts(): { readonly writes: number; readonly syncs: number; readonly failures: number } {
    return {
      writes: this.#get("writes"),
      syncs: this.#get("syncs"),
      failures: this.#get("failures"),
    };
  }

  close(): void {
    closeSync(this.#fd);
  }

  #set(name: keyof typeof offsets, value: number): void {
    const bytes = Buffer.alloc(4);
    bytes.writeUInt32LE(value);
    writeSync(this.#fd, bytes, 0, 4, offsets[name]);
  }

  #get(name: keyof typeof offsets): number {
    const bytes = Buffer.alloc(4);
    readSync(this.#fd, bytes, 0, 4, offsets[name]);
    return bytes.readUInt32LE();
  }
}
