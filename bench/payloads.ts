/** What is written: a JSON text of so many bytes that holds its number, for whoever reads it back. */
import { randomBytes } from "node:crypto";

/** `{"n":` goes before the number, which is padded to so many characters. */
const numberAt = 5;
const numberLength = 10;
const head = '{"n":';
const middle = ',"text":"';
const tail = '"}';
/** Payloads whose text differs, so that no database can compress them away. */
const variants = 64;

/** Payloads of one size. Number 1 is the first. */
export class Payloads {
  readonly size: number;
  readonly #texts: readonly string[];

  /** @param size bytes of one; 32 at least */
  constructor(size: number) {
    this.size = size;
    const length = size - head.length - numberLength - middle.length - tail.length;
    this.#texts = Array.from({ length: variants }, () =>
      randomBytes(length).toString("base64").slice(0, length),
    );
  }

  /** The nth payload as text; all characters are ASCII. */
  textOf(n: number): string {
    const number = String(n).padStart(numberLength);
    return `${head}${number}${middle}${this.#texts[n % variants]!}${tail}`;
  }

  /** The nth payload. */
  of(n: number): Buffer {
    return Buffer.from(this.textOf(n), "latin1");
  }
}

/** The number of a payload. */
export function numberOf(payload: Uint8Array): number {
  let number = 0;
  for (let at = numberAt; at < numberAt + numberLength; at++) {
    const byte = payload[at]!;
    if (byte !== 0x20) number = number * 10 + byte - 0x30;
  }
  return number;
}

/** Sees to it that events come once each and in order; whatever else makes the figure void. */
export class Checker {
  #last: number;

  /** @param after the number before the first one */
  constructor(after = 0) {
    this.#last = after;
  }

  /** How many have come. */
  get last(): number {
    return this.#last;
  }

  /** @throws Error where it is not the next one */
  take(n: number): void {
    if (n !== this.#last + 1) throw new Error(`void: event ${n} came after ${this.#last}`);
    this.#last = n;
  }
}
