/**
 * What the thread that writes is sent, and what it answers, one answer for each
 * message. Blobs travel behind each other in one buffer that changes hands: as
 * values each would take the whole buffer along that it is a part of.
 */

/** Stands for a blob: its bytes are the next so many of the buffer. */
export const blobMark = "blob";

/** A statement with values for each time that it is run. */
export interface PackedStatement {
  readonly text: string;
  readonly values: readonly (readonly unknown[])[];
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
  statements: readonly PackedStatement[],
  spare: ArrayBuffer | undefined,
): {
  readonly statements: readonly PackedStatement[];
  readonly blobs: ArrayBuffer;
} {
  const found: Uint8Array[] = [];
  let bytes = 0;
  const mark = (value: unknown) => {
    if (!(value instanceof Uint8Array)) return value;
    found.push(value);
    bytes += value.length;
    return { [blobMark]: value.length };
  };
  const packed = statements.map(({ text, values }) => {
    return { text, values: values.map((row) => row.map(mark)) };
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
