/**
 * Bytes into lines.
 *
 * Invariants: what is held between chunks is at most `maxBytes`; of a longer line only its
 * length is kept. Bytes are passed on as they are: no decoding, nothing trimmed but what
 * ended the line, and a byte order mark before the first one.
 */

/**
 * What ended a line: a newline; a carriage return alone, as progress bars write it; nothing
 * more for a while, as after a prompt; or the end of the input.
 */
export type LineEnd = "newline" | "carriage-return" | "pause" | "end-of-input";

/** One line of input. Numbers begin at 1. */
export type Line = { readonly number: number; readonly end: LineEnd } & (
  | { readonly t: "line"; readonly bytes: Uint8Array }
  /** Longer than the limit; only its size is known. */
  | { readonly t: "too_long"; readonly size: number }
);

/** How to split. */
export interface SplitOptions {
  /** A longer line is too long. */
  readonly maxBytes: number;
  /**
   * Whether only a newline ends a line; otherwise a carriage return and a pause do too,
   * unless the line begins as JSON does: that is written in one piece, or not to be cut.
   */
  readonly newlinesOnly: boolean;
}

const newline = 0x0a;
const carriageReturn = 0x0d;
const byteOrderMark = Uint8Array.of(0xef, 0xbb, 0xbf);
/** "{" and "[" */
const jsonStarts: ReadonlySet<number> = new Set([0x7b, 0x5b]);

/** Splits one input. */
export class LineSplitter {
  readonly #options: SplitOptions;
  #parts: Uint8Array[] = [];
  #held = 0;
  /** Length of the present line so far, held or not. */
  #size = 0;
  /** The present line's first byte. */
  #first: number | undefined;
  /** The last byte was a carriage return, which is not held: the next one tells whether it ends the line. */
  #afterReturn = false;
  #number = 0;

  constructor(options: SplitOptions) {
    this.#options = options;
  }

  /** Whether a line has begun that a pause would end. */
  get hasPartial(): boolean {
    return this.#size > 0 && this.#mayCut;
  }

  /** Returns the lines that this chunk completes. */
  push(chunk: Uint8Array): Line[] {
    const lines: Line[] = [];
    if (chunk.length === 0) return lines;
    if (chunk[0] === newline) this.#keepReturn();
    else this.#cutAtReturn(lines);
    let start = 0;
    // Sought once, not once for each line: most output has none.
    let nextReturn = this.#options.newlinesOnly ? -1 : chunk.indexOf(carriageReturn);
    for (;;) {
      const end = chunk.indexOf(newline, start);
      const lineEnd = end === -1 ? chunk.length : end;
      let heldTo = lineEnd;
      while (nextReturn !== -1 && nextReturn < lineEnd) {
        const at = nextReturn;
        nextReturn = chunk.indexOf(carriageReturn, at + 1);
        // Before a newline it belongs to the line.
        if (at + 1 === end) continue;
        this.#first ??= at > start ? chunk[start] : undefined;
        if (!this.#mayCut) continue;
        if (at + 1 === chunk.length) {
          heldTo = at;
          this.#afterReturn = true;
          continue;
        }
        this.#hold(chunk.subarray(start, at));
        if (this.#size > 0) lines.push(this.#take("carriage-return"));
        start = at + 1;
      }
      this.#hold(chunk.subarray(start, heldTo));
      if (end === -1) return lines;
      lines.push(this.#take("newline"));
      start = end + 1;
    }
  }

  /** Nothing has come for a while: returns what there is of a line that may be cut. */
  pause(): Line[] {
    const lines: Line[] = [];
    this.#cutAtReturn(lines);
    if (this.hasPartial) lines.push(this.#take("pause"));
    return lines;
  }

  /** Returns the last line, where the input does not end with a newline. */
  end(): Line[] {
    const lines: Line[] = [];
    this.#cutAtReturn(lines);
    if (this.#size > 0) lines.push(this.#take("end-of-input"));
    return lines;
  }

  /** Whether the present line may end without a newline. */
  get #mayCut(): boolean {
    if (this.#options.newlinesOnly) return false;
    if (this.#first === undefined) return true;
    // Behind a byte order mark there may be JSON.
    const isMarked = this.#number === 0 && this.#first === byteOrderMark[0];
    return !isMarked && !jsonStarts.has(this.#first);
  }

  /** The carriage return that came last ends the present line. */
  #cutAtReturn(lines: Line[]): void {
    if (this.#afterReturn && this.#size > 0) lines.push(this.#take("carriage-return"));
    this.#afterReturn = false;
  }

  /** The carriage return that came last belongs to the present line. */
  #keepReturn(): void {
    if (this.#afterReturn) this.#hold(Uint8Array.of(carriageReturn));
    this.#afterReturn = false;
  }

  #hold(part: Uint8Array): void {
    if (part.length === 0) return;
    this.#first ??= part[0];
    this.#size += part.length;
    if (this.#size > this.#options.maxBytes) {
      this.#parts = [];
      this.#held = 0;
      return;
    }
    this.#parts.push(part);
    this.#held += part.length;
  }

  #take(end: LineEnd): Line {
    const number = ++this.#number;
    const line: Line =
      this.#size > this.#options.maxBytes
        ? { t: "too_long", number, end, size: this.#size }
        : { t: "line", number, end, bytes: this.#joined() };
    this.#begin();
    return line;
  }

  #begin(): void {
    this.#parts = [];
    this.#held = 0;
    this.#size = 0;
    this.#first = undefined;
  }

  /** Copies, so that a short line does not keep its whole chunk in memory. */
  #joined(): Uint8Array {
    const bytes = new Uint8Array(this.#held);
    let offset = 0;
    for (const part of this.#parts) {
      bytes.set(part, offset);
      offset += part.length;
    }
    const marked = this.#number === 1 && byteOrderMark.every((byte, i) => bytes[i] === byte);
    return marked ? bytes.subarray(byteOrderMark.length) : bytes;
  }
}
