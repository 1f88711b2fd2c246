import { getTextEncoding } from "@bufbuild/protobuf/wire";

/** Bytes of the longest varint. */
const maxVarintBytes = 10;
/** Bytes of a length: no message of runlog's has 2^28 bytes. */
const maxLengthBytes = 4;

/** A text in UTF-8, decoded as protobuf-es does it. */
export function decodeText(bytes: Uint8Array): string {
  return getTextEncoding().decodeUtf8(bytes, true);
}

/** A text that mostly is the one before. */
export class RepeatedText {
  #bytes = new Uint8Array(0);
  #text = "";

  /** The text in UTF-8 between two places. */
  read(bytes: Uint8Array, at: number, end: number): string {
    if (!this.#isAt(bytes, at, end - at)) {
      this.#text = decodeText(bytes.subarray(at, end));
      // A copy: the message that it is from is not held for its sake.
      this.#bytes = new Uint8Array(bytes.subarray(at, end));
    }
    return this.#text;
  }

  #isAt(bytes: Uint8Array, at: number, length: number): boolean {
    const before = this.#bytes;
    if (length !== before.length) return false;
    // From behind: ids that begin alike are common.
    for (let i = length - 1; i >= 0; i--) {
      if (bytes[at + i] !== before[i]) return false;
    }
    return true;
  }
}

/**
 * Reads protobuf's fields by hand, one behind the other, with tags that are one
 * byte each.
 *
 * Invariant: a method that returns undefined, or false, has found something
 * else than it was asked for; except after `skipTag`, the reader then stands at no
 * particular place, and the caller gives the message up.
 */
export class FieldReader {
  readonly bytes: Uint8Array;
  /** Where the reader is. */
  at = 0;

  constructor(bytes: Uint8Array) {
    this.bytes = bytes;
  }

  /** Passes over a tag, if it stands here, before `end`. */
  skipTag(tag: number, end: number): boolean {
    if (this.at >= end || this.bytes[this.at] !== tag) return false;
    this.at++;
    return true;
  }

  /** Reads a length; where the field ends, if that is not behind `end`. */
  fieldEnd(end: number): number | undefined {
    const length = this.varint(end, maxLengthBytes);
    return length === undefined || length > end - this.at ? undefined : this.at + length;
  }

  /** A number up to 2^53 - 1. */
  number(end: number): number | undefined {
    const value = this.varint(end, maxVarintBytes);
    return value === undefined || value > Number.MAX_SAFE_INTEGER ? undefined : value;
  }

  /** Reads a varint of at most `maxBytes`; beyond 2^53 it is not exact, but no smaller. */
  varint(end: number, maxBytes = maxVarintBytes): number | undefined {
    const first = this.bytes[this.at]!;
    // Most are one byte.
    if (this.at < end && first < 0x80) {
      this.at++;
      return first;
    }
    return this.#longVarint(end, maxBytes);
  }

  #longVarint(end: number, maxBytes: number): number | undefined {
    const { bytes } = this;
    const stop = Math.min(end, this.at + maxBytes);
    let value = 0;
    let scale = 1;
    while (this.at < stop) {
      const byte = bytes[this.at++]!;
      if (byte < 0x80) return value + byte * scale;
      value += (byte & 0x7f) * scale;
      scale *= 0x80;
    }
    return undefined;
  }

  /** Passes over printable ASCII that ends at `end`; whether nothing else was there. */
  skipPrintable(end: number): boolean {
    for (; this.at < end; this.at++) {
      const byte = this.bytes[this.at]!;
      if (byte < 0x20 || byte > 0x7e) return false;
    }
    return true;
  }
}
