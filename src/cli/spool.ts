import {
  closeSync,
  ftruncateSync,
  mkdtempSync,
  openSync,
  readSync,
  rmSync,
  writeSync,
} from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";

/** Bytes before each entry: its length. */
const prefixBytes = 4;

/**
 * A queue of byte strings on disk, for what comes while the server is away.
 *
 * Invariants: first in, first out; what was put and not taken is in the file and nowhere
 * else; the file has no name, so that it goes with the process whatever ends that. Nothing
 * is synced: a machine that goes down takes the unsent with it, as it would from memory.
 */
export class Spool {
  readonly #maxBytes: number;
  #fd: number | undefined;
  #readAt = 0;
  #writeAt = 0;
  #count = 0;

  /** @param maxBytes bytes that it holds at most */
  constructor(maxBytes: number) {
    this.#maxBytes = maxBytes;
  }

  /** Entries that it holds. */
  get count(): number {
    return this.#count;
  }

  /** Puts one at the end; false where there is no room, on the disk or by the limit. */
  put(bytes: Uint8Array): boolean {
    const size = prefixBytes + bytes.length;
    // Measured by the file, that only shrinks once it is empty.
    if (this.#writeAt + size > this.#maxBytes) return false;
    const entry = Buffer.alloc(size);
    entry.writeUInt32LE(bytes.length);
    entry.set(bytes, prefixBytes);
    try {
      this.#fd ??= openUnnamed();
      let written = 0;
      while (written < size) {
        written += writeSync(this.#fd, entry, written, size - written, this.#writeAt + written);
      }
    } catch (error) {
      const { code } = error as NodeJS.ErrnoException;
      if (code === "ENOSPC" || code === "EDQUOT" || code === "EFBIG" || code === "EROFS") {
        return false;
      }
      throw error;
    }
    this.#writeAt += size;
    this.#count++;
    return true;
  }

  /** Takes the first one; undefined where it is empty. */
  take(): Uint8Array | undefined {
    if (this.#count === 0) return undefined;
    const length = this.#read(prefixBytes).readUInt32LE();
    const bytes = this.#read(length);
    this.#count--;
    if (this.#count === 0) {
      ftruncateSync(this.#fd!, 0);
      this.#readAt = 0;
      this.#writeAt = 0;
    }
    return bytes;
  }

  /** Gives the file back. */
  close(): void {
    if (this.#fd !== undefined) closeSync(this.#fd);
    this.#fd = undefined;
    this.#count = 0;
  }

  #read(length: number): Buffer {
    const bytes = Buffer.alloc(length);
    let at = 0;
    while (at < length) {
      const got = readSync(this.#fd!, bytes, at, length - at, this.#readAt + at);
      if (got === 0) throw new Error("the spool file is shorter than what was written to it");
      at += got;
    }
    this.#readAt += length;
    return bytes;
  }
}

function openUnnamed(): number {
  const directory = mkdtempSync(join(tmpdir(), "runlog-spool-"));
  try {
    return openSync(join(directory, "events"), "w+", 0o600);
  } finally {
    rmSync(directory, { recursive: true });
  }
}
