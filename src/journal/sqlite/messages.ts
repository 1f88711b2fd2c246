/**
 * What the thread that writes is sent, and what it answers, one answer for each
 * message. The values of all statements travel behind each other in one buffer
 * that changes hands: as values of JavaScript each would be cloned by itself,
 * which costs more than SQLite does.
 */

import type { Finding } from "./guard.ts";

/** A statement to be run, once for each row. */
export type Statement =
  | {
      readonly text: string;
      readonly parameters: readonly unknown[];
      /** Whether the transaction is rolled back where this changes no row. */
      readonly isCondition?: boolean;
    }
  | {
      readonly text: string;
      /** Parameters by their columns. */
      readonly rows: readonly Readonly<Record<string, unknown>>[];
      readonly columns: readonly string[];
    };

/** How a transaction begins and ends; the thread looks around then. */
export const beginText = "begin immediate";
export const commitText = "commit";

/** A statement whose rows are in a buffer. */
export interface PackedStatement {
  readonly text: string;
  /** Rows, and parameters of each. */
  readonly rowCount: number;
  readonly width: number;
  readonly isCondition: boolean;
}

/** Something to be done. */
export type Work =
  | {
      readonly t: "run";
      readonly statements: readonly PackedStatement[];
      readonly values: ArrayBuffer;
    }
  /** A transaction, from its beginning to its commit; answers whether its conditions were met. */
  | {
      readonly t: "transaction";
      readonly statements: readonly PackedStatement[];
      readonly values: ArrayBuffer;
    }
  | { readonly t: "reclaim" }
  /** From now on commits are guarded; `owner` is what this process has written as its own. */
  | { readonly t: "guard"; readonly owner: string }
  /** Looks at the files; with `tries` writes something too, to see whether that works. */
  | { readonly t: "look"; readonly tries: boolean }
  | { readonly t: "close" };

/** What came of it. */
export type Answer =
  /** The values' buffer comes back to be used again. */
  | { readonly t: "done"; readonly value: unknown; readonly values?: ArrayBuffer }
  | { readonly t: "failed"; readonly message: string; readonly code: string | undefined }
  | { readonly t: "found"; readonly finding: Finding };

/** What stands before each value. */
const tags = { null: 0, number: 1, latin1: 2, utf8: 3, blob: 4 } as const;
/** Bytes of a tag and a length, or of a tag and a number. */
const headBytes = 9;
/** Bytes of the first buffer. */
const firstBytes = 64 * 1024;

/** Packs statements; their values into `spare`, or into a larger buffer where that is too small. */
export function pack(
  statements: readonly Statement[],
  spare: ArrayBuffer | undefined,
): { readonly statements: readonly PackedStatement[]; readonly values: ArrayBuffer } {
  const writer = new ValueWriter(spare ?? new ArrayBuffer(firstBytes));
  const packed = statements.map((statement): PackedStatement => {
    const { text } = statement;
    if ("parameters" in statement) {
      for (const value of statement.parameters) writer.write(value);
      const { parameters, isCondition = false } = statement;
      return { text, rowCount: 1, width: parameters.length, isCondition };
    }
    const { rows, columns } = statement;
    for (const row of rows) {
      for (const column of columns) writer.write(row[column]);
    }
    return { text, rowCount: rows.length, width: columns.length, isCondition: false };
  });
  return { statements: packed, values: writer.buffer };
}

/** Writes values one behind the other, into a buffer that grows. */
class ValueWriter {
  buffer: ArrayBuffer;
  #bytes: Uint8Array;
  #view: DataView;
  #at = 0;

  constructor(buffer: ArrayBuffer) {
    this.buffer = buffer;
    this.#bytes = new Uint8Array(buffer);
    this.#view = new DataView(buffer);
  }

  write(value: unknown): void {
    switch (typeof value) {
      case "number":
        this.#reserve(0);
        this.#bytes[this.#at] = tags.number;
        this.#view.setFloat64(this.#at + 1, value);
        this.#at += headBytes;
        return;
      case "string":
        this.#text(value);
        return;
      default:
        if (value === null) {
          this.#reserve(0);
          this.#bytes[this.#at++] = tags.null;
        } else if (value instanceof Uint8Array) {
          this.#reserve(value.length);
          this.#head(tags.blob, value.length);
          this.#bytes.set(value, this.#at);
          this.#at += value.length;
        } else {
          throw new TypeError(`SQLite stores no ${typeof value}`);
        }
    }
  }

  #text(text: string): void {
    // As much as UTF-8 may take.
    this.#reserve(text.length * 3);
    const start = this.#at;
    this.#head(tags.latin1, text.length);
    for (let i = 0; i < text.length; i++) {
      const code = text.charCodeAt(i);
      if (code > 0xff) {
        this.#at = start;
        this.#utf8(text);
        return;
      }
      this.#bytes[this.#at++] = code;
    }
  }

  #utf8(text: string): void {
    const encoded = Buffer.from(text, "utf8");
    this.#head(tags.utf8, encoded.length);
    this.#bytes.set(encoded, this.#at);
    this.#at += encoded.length;
  }

  #head(tag: number, length: number): void {
    this.#bytes[this.#at] = tag;
    this.#view.setUint32(this.#at + 1, length);
    this.#at += headBytes;
  }

  /** Makes room for a head and so many bytes more. */
  #reserve(bytes: number): void {
    const needed = this.#at + headBytes + bytes;
    if (needed <= this.buffer.byteLength) return;
    const written = this.#bytes.subarray(0, this.#at);
    this.buffer = new ArrayBuffer(Math.max(needed, this.buffer.byteLength * 2));
    this.#bytes = new Uint8Array(this.buffer);
    this.#view = new DataView(this.buffer);
    this.#bytes.set(written);
  }
}

/** Takes values out of their buffer, in the order in which they were packed. */
export class ValueReader {
  readonly #buffer: ArrayBuffer;
  readonly #bytes: Buffer;
  readonly #view: DataView;
  #at = 0;

  constructor(buffer: ArrayBuffer) {
    this.#buffer = buffer;
    this.#bytes = Buffer.from(buffer);
    this.#view = new DataView(buffer);
  }

  /** Reads the next values into `row`; blobs are views of the buffer. */
  readInto(row: unknown[]): void {
    for (let i = 0; i < row.length; i++) row[i] = this.#read();
  }

  #read(): unknown {
    const tag = this.#bytes[this.#at];
    if (tag === tags.null) {
      this.#at++;
      return null;
    }
    const head = this.#at + 1;
    this.#at += headBytes;
    if (tag === tags.number) return this.#view.getFloat64(head);
    const start = this.#at;
    const length = this.#view.getUint32(head);
    this.#at += length;
    if (tag === tags.blob) return Buffer.from(this.#buffer, start, length);
    return this.#bytes.toString(tag === tags.latin1 ? "latin1" : "utf8", start, this.#at);
  }
}
