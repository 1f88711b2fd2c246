/**
 * gRPC's envelopes: five bytes before a message, flags and its length as a
 * big-endian number (https://github.com/grpc/grpc/blob/master/doc/PROTOCOL-HTTP2.md).
 */
import { bytesIn, concat, FieldWriter, type WritableMessage } from "./field-writer.ts";

const headerBytes = 5;

/** The flag of a message that is compressed. */
export const compressedFlag = 1;

/** A message that cannot be read; servers and clients map it to their own errors. */
export class EnvelopeError extends Error {
  readonly problem: "too_large" | "compressed";

  constructor(problem: EnvelopeError["problem"], message: string) {
    super(message);
    this.name = "EnvelopeError";
    this.problem = problem;
  }
}

/** Bytes of memory that the first bytes of a message get; beyond that it grows with the bytes that have come. */
const firstBytes = 64 * 1024;

const empty = new Uint8Array(0);

/**
 * Takes a body apart into messages, however it was cut into chunks.
 *
 * Invariant: what is kept of a message that is not whole is a copy, in memory of
 * at most four times the bytes that came and 64 KiB; each byte is copied twice at most,
 * about.
 */
export class EnvelopeReader {
  readonly #maxBytes: number;
  /** What has arrived of a message that is not whole yet, up to `#filled`, with its header. */
  #partial = empty;
  #filled = 0;
  /** Bytes of the message with its header, where that has arrived; or of the header. */
  #needed = headerBytes;
  #hasHeader = false;

  /** @param maxBytes of one message */
  constructor(maxBytes: number) {
    this.#maxBytes = maxBytes;
  }

  /** Bytes of memory that a message takes which has begun and not ended; 0 where none has. */
  get heldBytes(): number {
    return this.#filled === 0 ? 0 : this.#partial.length;
  }

  /** Whether a message has begun and not ended. */
  get isInside(): boolean {
    return this.#filled > 0;
  }

  /**
   * Takes the next bytes and adds the messages that they complete. These are
   * views of the bytes.
   *
   * @param flags takes the flags of each message; without it, compressed ones are refused
   * @throws EnvelopeError for a message that is too large, or compressed; those before it were added
   */
  take(chunk: Uint8Array, messages: Uint8Array[], flags?: number[]): void {
    const begin = this.#filled === 0 ? 0 : this.#complete(chunk, messages, flags);
    const end = this.#split(chunk, begin, messages, flags);
    if (end < chunk.length) this.#keep(chunk, end, chunk.length);
  }

  /** Adds to the message that is not whole; where the next one begins. */
  #complete(chunk: Uint8Array, messages: Uint8Array[], flags: number[] | undefined): number {
    for (let at = 0; ; ) {
      const end = Math.min(chunk.length, at + this.#needed - this.#filled);
      this.#keep(chunk, at, end);
      at = end;
      if (this.#filled < this.#needed) return at;
      if (!this.#hasHeader) {
        this.#needed += this.#lengthAt(this.#partial, 0, flags !== undefined);
        this.#hasHeader = true;
        if (this.#filled < this.#needed) continue;
      }
      messages.push(this.#partial.subarray(headerBytes, this.#needed));
      flags?.push(this.#partial[0]!);
      // The caller keeps the message for as long as it needs it; the parser does not.
      this.#partial = empty;
      this.#filled = 0;
      return at;
    }
  }

  /** Adds the messages that are whole from `at` on; where the first begins that is not. */
  #split(
    chunk: Uint8Array,
    begin: number,
    messages: Uint8Array[],
    flags: number[] | undefined,
  ): number {
    for (let at = begin; ; at += this.#needed) {
      // The rest of a message that is still not whole has been kept.
      if (this.#filled > 0) return at;
      this.#needed = headerBytes;
      this.#hasHeader = chunk.length - at >= headerBytes;
      if (!this.#hasHeader) return at;
      this.#needed += this.#lengthAt(chunk, at, flags !== undefined);
      if (chunk.length - at < this.#needed) return at;
      messages.push(chunk.subarray(at + headerBytes, at + this.#needed));
      flags?.push(chunk[at]!);
    }
  }

  #keep(chunk: Uint8Array, begin: number, end: number): void {
    const size = this.#filled + end - begin;
    if (this.#filled === 0 || size > this.#partial.length) {
      const grown = Math.min(this.#needed, Math.max(size, 4 * this.#filled, firstBytes));
      const partial = new Uint8Array(grown);
      partial.set(this.#partial.subarray(0, this.#filled));
      this.#partial = partial;
    }
    this.#partial.set(chunk.subarray(begin, end), this.#filled);
    this.#filled = size;
  }

  #lengthAt(bytes: Uint8Array, at: number, takesCompressed: boolean): number {
    if (!takesCompressed && (bytes[at]! & compressedFlag) !== 0) {
      throw new EnvelopeError(
        "compressed",
        "a message is compressed, but the call names no encoding",
      );
    }
    // Without the sign that a shift of 24 would give.
    const length =
      bytes[at + 1]! * 0x1000000 +
      ((bytes[at + 2]! << 16) | (bytes[at + 3]! << 8) | bytes[at + 4]!);
    if (length <= this.#maxBytes) return length;
    const problem = `message size ${length} is larger than configured readMaxBytes ${this.#maxBytes}`;
    throw new EnvelopeError("too_large", problem);
  }
}

/** A message in parts, one behind the other. */
export type MessageParts = readonly Uint8Array[];

/** Bytes of a part from which on copying it costs more than sending it as a piece of its own. */
const pieceBytes = 4 * 1024;

/**
 * Puts messages into envelopes. The pieces are sent in order:
 * one piece of memory, apart from large parts, which are not copied.
 */
export function envelop(messages: readonly MessageParts[]): readonly Uint8Array[] {
  const pieces: Uint8Array[] = [];
  let gathered: Uint8Array[] = [];
  const gather = () => {
    if (gathered.length > 0) pieces.push(concat(gathered));
    gathered = [];
  };
  for (const parts of messages) {
    gathered.push(headerOf(bytesIn(parts)));
    for (const part of parts) {
      if (part.length < pieceBytes) {
        gathered.push(part);
        continue;
      }
      gather();
      pieces.push(part);
    }
  }
  gather();
  return pieces;
}

/** Puts messages into envelopes, one behind the other in one piece of memory: for many small ones. */
export function envelopTogether(messages: readonly (Uint8Array | WritableMessage)[]): Uint8Array {
  let bytes = 0;
  for (const message of messages) bytes += headerBytes + sizeOf(message);
  const out = new FieldWriter(bytes);
  for (const message of messages) {
    out.raw(headerOf(sizeOf(message)));
    if (message instanceof Uint8Array) out.raw(message);
    else message.writeTo(out);
  }
  return out.buffer;
}

function sizeOf(message: Uint8Array | WritableMessage): number {
  return message instanceof Uint8Array ? message.length : message.size;
}

function headerOf(size: number): Uint8Array {
  return Uint8Array.of(0, size >>> 24, size >>> 16, size >>> 8, size);
}
