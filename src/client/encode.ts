/**
 * Encodes what producers send, at a fraction of what encoding by descriptor
 * costs. What is not a plain event is left to protobuf-es, so the bytes are
 * always the same as its own.
 *
 * Layout: https://protobuf.dev/programming-guides/encoding/, with the field
 * numbers of Event and Append in `proto/runlog/v1`.
 */
import { create, toBinary } from "@bufbuild/protobuf";
import { timestampFromMs } from "@bufbuild/protobuf/wkt";
import { type Event, EventSchema } from "../../gen/runlog/v1/event_pb.js";
import type { EventInit } from "./sender-types.ts";

const tagType = 0x0a; // Event.type
const tagData = 0x12; // Event.data
const tagContentType = 0x1a; // Event.content_type
const tagTime = 0x22; // Event.time
const tagAppendRunId = 0x0a; // Append.run_id
const tagAppendFirstRunSeq = 0x10; // Append.first_run_seq
const tagAppendEvents = 0x1a; // Append.events
const tagAppend = 0x12; // IngestRequest.append
/** gRPC's envelope before a message. */
const envelopeBytes = 5;

const utf8 = new TextEncoder();

/** Consecutive events of a run, encoded. */
export interface EncodedAppend {
  readonly runId: string;
  readonly firstRunSeq: number;
  readonly events: readonly Uint8Array[];
}

/** The message of an event as it is recorded: one without a time gets `nowMs`, since 1970. */
export function eventOf(init: EventInit, nowMs: number): Event {
  const event = create(EventSchema, init);
  event.time ??= timestampFromMs(nowMs);
  return event;
}

/**
 * Encodes an event; one without a time gets `nowMs`, milliseconds since 1970.
 *
 * @throws what `toBinary` throws where it cannot be encoded
 */
export function encodeEvent(init: EventInit, nowMs: number): Uint8Array<ArrayBuffer> {
  return encodePlain(init, nowMs) ?? toBinary(EventSchema, eventOf(init, nowMs));
}

function encodePlain(init: EventInit, nowMs: number): Uint8Array<ArrayBuffer> | undefined {
  const { type, data, contentType = "", time, attributes, $unknown } = init as Partial<Event>;
  if (typeof type !== "string" || typeof contentType !== "string") return undefined;
  if (data !== undefined && !(data instanceof Uint8Array)) return undefined;
  if (attributes !== undefined && Object.keys(attributes).length > 0) return undefined;
  if (time !== undefined || $unknown !== undefined) return undefined;
  if (!Number.isSafeInteger(nowMs) || nowMs <= 0) return undefined;
  const typeBytes = utf8LengthOf(type);
  const contentTypeBytes = utf8LengthOf(contentType);
  if (typeBytes === undefined || contentTypeBytes === undefined) return undefined;
  const dataBytes = data?.length ?? 0;
  const seconds = Math.floor(nowMs / 1_000);
  const nanos = (nowMs - seconds * 1_000) * 1_000_000;
  const timeBytes = numberField(seconds) + numberField(nanos);
  const out = new Writer(
    textField(typeBytes) +
      textField(dataBytes) +
      textField(contentTypeBytes) +
      messageField(timeBytes),
  );
  out.text(tagType, type, typeBytes);
  if (dataBytes > 0) out.bytes(tagData, data!);
  out.text(tagContentType, contentType, contentTypeBytes);
  out.number(tagTime, timeBytes);
  if (seconds > 0) out.number(0x08, seconds);
  if (nanos > 0) out.number(0x10, nanos);
  return out.buffer;
}

/** Encoded messages in gRPC's envelopes, one behind the other; Appends are IngestRequests. */
export function encodeEnvelopes(
  messages: readonly (EncodedAppend | Uint8Array)[],
): Uint8Array<ArrayBuffer> {
  const sizes = messages.map((message) =>
    message instanceof Uint8Array ? message.length : messageField(appendBytes(message)),
  );
  const out = new Writer(sizes.reduce((sum, size) => sum + envelopeBytes + size, 0));
  for (const [index, message] of messages.entries()) {
    out.envelope(sizes[index]!);
    if (message instanceof Uint8Array) out.raw(message);
    else writeAppend(out, message);
  }
  return out.buffer;
}

function appendBytes({ runId, firstRunSeq, events }: EncodedAppend): number {
  let bytes = textField(utf8LengthOf(runId) ?? 0) + numberField(firstRunSeq);
  for (const event of events) bytes += messageField(event.length);
  return bytes;
}

function writeAppend(out: Writer, append: EncodedAppend): void {
  out.number(tagAppend, appendBytes(append));
  out.text(tagAppendRunId, append.runId, utf8LengthOf(append.runId) ?? 0);
  if (append.firstRunSeq > 0) out.number(tagAppendFirstRunSeq, append.firstRunSeq);
  for (const event of append.events) out.bytes(tagAppendEvents, event);
}

/** Bytes of a text in UTF-8; undefined where it is no well-formed text. */
function utf8LengthOf(text: string): number | undefined {
  for (let i = 0; i < text.length; i++) {
    if (text.charCodeAt(i) >= 0x80)
      return text.isWellFormed() ? utf8.encode(text).length : undefined;
  }
  return text.length;
}

/** Bytes that a field of text or bytes takes; none where it is empty. */
function textField(length: number): number {
  return length === 0 ? 0 : messageField(length);
}

/** Bytes that a message's field takes, also where it is empty. */
function messageField(length: number): number {
  return 1 + varintBytes(length) + length;
}

/** Bytes that a number's field takes; none for 0. */
function numberField(value: number): number {
  return value === 0 ? 0 : 1 + varintBytes(value);
}

function varintBytes(value: number): number {
  let bytes = 1;
  for (let rest = value; rest >= 0x80; rest = Math.floor(rest / 0x80)) bytes++;
  return bytes;
}

/** Writes fields one behind the other, with tags that are one byte each. */
class Writer {
  readonly buffer: Uint8Array<ArrayBuffer>;
  #at = 0;

  constructor(bytes: number) {
    this.buffer = new Uint8Array(bytes);
  }

  /** Flags and length, as in `src/envelopes.ts`. */
  envelope(length: number): void {
    this.buffer[this.#at] = 0;
    new DataView(this.buffer.buffer).setUint32(this.#at + 1, length);
    this.#at += envelopeBytes;
  }

  /** Also a length, where that is what the tag is followed by. */
  number(tag: number, value: number): void {
    this.buffer[this.#at++] = tag;
    let rest = value;
    for (; rest >= 0x80; rest = Math.floor(rest / 0x80)) {
      this.buffer[this.#at++] = (rest % 0x80) | 0x80;
    }
    this.buffer[this.#at++] = rest;
  }

  raw(bytes: Uint8Array): void {
    this.buffer.set(bytes, this.#at);
    this.#at += bytes.length;
  }

  bytes(tag: number, bytes: Uint8Array): void {
    this.number(tag, bytes.length);
    this.raw(bytes);
  }

  /** @param length its bytes in UTF-8 */
  text(tag: number, text: string, length: number): void {
    if (length === 0) return;
    this.number(tag, length);
    if (length > text.length) {
      this.raw(utf8.encode(text));
      return;
    }
    for (let i = 0; i < length; i++) this.buffer[this.#at++] = text.charCodeAt(i);
  }
}
