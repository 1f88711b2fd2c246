/**
 * Bytes into lines.
 *
 * Invariant: what is held between chunks is at most `maxBytes`; of a longer
 * line only its length is kept. Bytes are passed on as they are: no decoding,
 * nothing trimmed but the newline itself.
 */

/** One line of input. Numbers begin at 1. */
export type Line =
  | { readonly t: "line"; readonly number: number; readonly bytes: Uint8Array }
  /** Longer than the limit; only its size is known. */
  | { readonly t: "too_long"; readonly number: number; readonly size: number };

const newline = 0x0a;

/** Splits one input. */
export class LineSplitter {
  readonly #maxBytes: number;
  #parts: Uint8Array[] = [];
  #held = 0;
  /** Length of the present line so far, held or not. */
  #size = 0;
  #number = 0;

  constructor(maxBytes: number) {
    this.#maxBytes = maxBytes;
  }

  /** Returns the lines that this chunk completes. */
  push(chunk: Uint8Array): Line[] {
    const lines: Line[] = [];
    let start = 0;
    for (let end = chunk.indexOf(newline); end !== -1; end = chunk.indexOf(newline, start)) {
      this.#hold(chunk.subarray(start, end));
      lines.push(this.#take());
      start = end + 1;
    }
    if (start < chunk.length) {
      this.#hold(chunk.subarray(start));
    }
    return lines;
  }

  /** Returns the last line, where the input does not end with a newline. */
  end(): Line[] {
    return this.#size > 0 ? [this.#take()] : [];
  }

  #hold(part: Uint8Array): void {
    this.#size += part.length;
    if (this.#size > this.#maxBytes) {
      this.#parts = [];
      this.#held = 0;
      return;
    }
    this.#parts.push(part);
    this.#held += part.length;
  }

  #take(): Line {
    this.#number++;
    const line: Line =
      this.#size > this.#maxBytes
        ? { t: "too_long", number: this.#number, size: this.#size }
        : { t: "line", number: this.#number, bytes: join(this.#parts, this.#held) };
    this.#parts = [];
    this.#held = 0;
    this.#size = 0;
    return line;
  }
}

/** Copies, so that a short line does not keep its whole chunk in memory. */
function join(parts: readonly Uint8Array[], length: number): Uint8Array {
  const bytes = new Uint8Array(length);
  let offset = 0;
  for (const part of parts) {
    bytes.set(part, offset);
    offset += part.length;
  }
  return bytes;
}
