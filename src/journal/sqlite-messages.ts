/**
 * What the thread that writes is sent, and what it answers, one answer for each
 * message. All values of a statement are one flat list, which is cheap to copy
 * between threads; blobs travel behind each other in one buffer that changes
 * hands: as values each would take the whole buffer along that it is a part of.
 */

/** A statement to be run, once for each row of values. */
export interface Statement {
  readonly text: string;
  /** Rows, and parameters of each. */
  readonly rowCount: number;
  readonly width: number;
  /** The rows' parameters, one row behind the other. */
  readonly values: readonly unknown[];
}

/** A statement whose blobs are in a buffer: in their place stand their sizes. */
export interface PackedStatement extends Statement {
  /** Which values are blobs, in order. */
  readonly blobAt: readonly number[];
}

/** Something to be done. */
export type Work =
  | {
      readonly t: "run";
      readonly statements: readonly PackedStatement[];
      readonly blobs: ArrayBuffer;
    }
  | { readonly t: "reclaim" }
  | { readonly t: "close" };

/** What came of it. */
export type Answer =
  /** The blobs' buffer comes back to be used again. */
  | { readonly t: "done"; readonly value: unknown; readonly blobs?: ArrayBuffer }
  | { readonly t: "failed"; readonly message: string; readonly code: string | undefined };

/** Packs the statements' blobs into one buffer: `spare`, where it is large enough. */
export function pack(
  statements: readonly Statement[],
  spare: ArrayBuffer | undefined,
): { readonly statements: readonly PackedStatement[]; readonly blobs: ArrayBuffer } {
  const found: Uint8Array[] = [];
  let bytes = 0;
  const packed = statements.map((statement): PackedStatement => {
    const values = [...statement.values];
    const blobAt: number[] = [];
    for (let at = 0; at < values.length; at++) {
      const value = values[at];
      if (!(value instanceof Uint8Array)) continue;
      found.push(value);
      bytes += value.length;
      blobAt.push(at);
      values[at] = value.length;
    }
    return { ...statement, values, blobAt };
  });
  const isRoomy = spare !== undefined && spare.byteLength >= bytes;
  const blobs = new Uint8Array(isRoomy ? spare : new ArrayBuffer(bytes));
  let at = 0;
  for (const blob of found) {
    blobs.set(blob, at);
    at += blob.length;
  }
  return { statements: packed, blobs: blobs.buffer };
}

/** Takes blobs out of their buffer, in the order in which they were packed. */
export class BlobReader {
  readonly #blobs: ArrayBuffer;
  #at = 0;

  constructor(blobs: ArrayBuffer) {
    this.#blobs = blobs;
  }

  /** A statement's rows, one after the other; the list is the same each time. */
  *rowsOf({ rowCount, width, values, blobAt }: PackedStatement): Generator<readonly unknown[]> {
    const row = new Array<unknown>(width);
    let blob = 0;
    for (let first = 0, n = 0; n < rowCount; n++, first += width) {
      for (let i = 0; i < width; i++) row[i] = values[first + i];
      for (; blob < blobAt.length && blobAt[blob]! < first + width; blob++) {
        const length = values[blobAt[blob]!] as number;
        row[blobAt[blob]! - first] = Buffer.from(this.#blobs, this.#at, length);
        this.#at += length;
      }
      yield row;
    }
  }
}
