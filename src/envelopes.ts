/**
 * gRPC's envelopes: five bytes before a message, flags and its length as a
 * big-endian number (https://github.com/grpc/grpc/blob/master/doc/PROTOCOL-HTTP2.md).
 */
import { Code, ConnectError } from "@connectrpc/connect";
import { FieldWriter, type WritableMessage } from "./field-writer.ts";

const headerBytes = 5;
const compressedFlag = 1;

/** Takes a body apart into messages, however it was cut into chunks. */
export class EnvelopeReader {
  readonly #maxBytes: number;
  /** What has arrived of a message that is not whole yet. */
  #chunks: Uint8Array[] = [];
  #size = 0;
  /** Bytes that must be there before anything can be done. */
  #needed = headerBytes;

  /** @param maxBytes of one message */
  constructor(maxBytes: number) {
    this.#maxBytes = maxBytes;
  }

  /** Whether a message has begun and not ended. */
  get isInside(): boolean {
    return this.#size > 0;
  }

  /**
   * Takes the next bytes and adds the messages that they complete. These are
   * views of the bytes.
   *
   * @throws ConnectError for a message that is too large, or compressed; those before it were added
   */
  take(chunk: Uint8Array, messages: Uint8Array[]): void {
    this.#chunks.push(chunk);
    this.#size += chunk.length;
    if (this.#size < this.#needed) return;
    const bytes = this.#chunks.length === 1 ? chunk : Buffer.concat(this.#chunks, this.#size);
    const at = this.#split(bytes, messages);
    this.#chunks = at === bytes.length ? [] : [bytes.subarray(at)];
    this.#size = bytes.length - at;
  }

  #split(bytes: Uint8Array, messages: Uint8Array[]): number {
    for (let at = 0; ; ) {
      this.#needed = headerBytes;
      if (bytes.length - at < headerBytes) return at;
      const length = this.#lengthAt(bytes, at);
      this.#needed = headerBytes + length;
      if (bytes.length - at < this.#needed) return at;
      messages.push(bytes.subarray(at + headerBytes, at + this.#needed));
      at += this.#needed;
    }
  }

  #lengthAt(bytes: Uint8Array, at: number): number {
    if ((bytes[at]! & compressedFlag) !== 0) {
      throw new ConnectError("a message is compressed, and no encoding was named", Code.Internal);
    }
    // Without the sign that a shift of 24 would give.
    const length =
      bytes[at + 1]! * 0x1000000 +
      ((bytes[at + 2]! << 16) | (bytes[at + 3]! << 8) | bytes[at + 4]!);
    if (length <= this.#maxBytes) return length;
    const problem = `message size ${length} is larger than configured readMaxBytes ${this.#maxBytes}`;
    throw new ConnectError(problem, Code.ResourceExhausted);
  }
}

/** A message in parts, one behind the other. */
export type MessageParts = readonly Uint8Array[];

/** Bytes of a part from which on copying it costs more than sending it as a piece of its own. */
const pieceBytes = 4 * 1024;

/**
 * Puts messages into envelopes. What comes of it is sent one behind the other:
 * one piece of memory, apart from large parts, which are not copied.
 */
export function envelop(messages: readonly MessageParts[]): readonly Uint8Array[] {
  const pieces: Uint8Array[] = [];
  let gathered: Uint8Array[] = [];
  const gather = () => {
    if (gathered.length > 0) pieces.push(Buffer.concat(gathered));
    gathered = [];
  };
  for (const parts of messages) {
    gathered.push(headerOf(parts));
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

function headerOf(parts: MessageParts): Uint8Array {
  let size = 0;
  for (const part of parts) size += part.length;
  return writeHeader(Buffer.allocUnsafe(headerBytes), size);
}

/** Puts messages into envelopes, one behind the other in one piece of memory: for many small ones. */
export function envelopTogether(messages: readonly (Uint8Array | WritableMessage)[]): Uint8Array {
  let bytes = 0;
  for (const message of messages) bytes += headerBytes + sizeOf(message);
  const out = new FieldWriter(bytes);
  const header = Buffer.alloc(headerBytes);
  for (const message of messages) {
    out.raw(writeHeader(header, sizeOf(message)));
    if (message instanceof Uint8Array) out.raw(message);
    else message.writeTo(out);
  }
  return out.buffer;
}

function sizeOf(message: Uint8Array | WritableMessage): number {
  return message instanceof Uint8Array ? message.length : message.size;
}

function writeHeader(header: Buffer, size: number): Buffer {
  header[0] = 0;
  header.writeUInt32BE(size, 1);
  return header;
}
