/**
 * Checks events as the bytes that they arrived as, and will be stored as. The
 * usual ones are scanned: each field once, in the order of its number, in ASCII.
 * Whatever else is a valid Event is decoded, checked, and encoded again.
 *
 * Layout: https://protobuf.dev/programming-guides/encoding/, with the field
 * numbers of Event in `proto/runlog/v1/event.proto`.
 */
import { fromBinary, toBinary } from "@bufbuild/protobuf";
import { type Event, EventSchema } from "../../gen/runlog/v1/event_pb.js";
import {
  type Limits,
  maxAppendEvents,
  maxAttributes,
  maxAttributeValueBytes,
  maxContentTypeBytes,
  maxKeyBytes,
  maxTypeBytes,
} from "../limits.ts";
import { invalidField, RefusedError } from "../refusal.ts";
import { maxNanos, maxTimestampSeconds } from "../times.ts";
import { checkLength, checkMessage } from "../validate.ts";
import { MalformedMessage, scanMessage } from "../wire/message-scan.ts";
import type { CheckedEvent } from "./operation.ts";
import { checkPairs } from "./validate.ts";

/** Checks the encoded events of one append. */
export function checkEvents(
  field: string,
  events: readonly Uint8Array[],
  limits: Pick<Limits, "maxEventBytes" | "maxAppendBytes">,
): { events: CheckedEvent[]; bytes: number } {
  if (events.length > maxAppendEvents) {
    throw invalidField(field, `takes at most ${maxAppendEvents}`, maxAppendEvents);
  }
  const checked = new Array<CheckedEvent>(events.length);
  let bytes = 0;
  let type = "";
  for (let index = 0; index < events.length; index++) {
    const event = events[index]!;
    if (event.length > limits.maxEventBytes) {
      const place = `${field}[${index}]`;
      throw new RefusedError({ reason: "too_large", field: place, limit: limits.maxEventBytes });
    }
    const scanned = scanType(event, type);
    const one =
      scanned === undefined
        ? checkDecoded(`${field}[${index}]`, event, limits.maxEventBytes)
        : { type: scanned, bytes: event };
    type = one.type;
    bytes += one.bytes.length;
    checked[index] = one;
  }
  if (bytes > limits.maxAppendBytes) {
    throw new RefusedError({ reason: "too_large", field, limit: limits.maxAppendBytes });
  }
  return { events: checked, bytes };
}

/** Wire type of everything in an Event: a length, and so many bytes. */
const lengthDelimited = 2;
const tagKey = 0x0a;
const tagValue = 0x12;
const tagSeconds = 0x08;
const tagNanos = 0x10;
/** Bytes of a length: more than 2^28 is no event. */
const maxLengthBytes = 4;
const maxSeconds = Number(maxTimestampSeconds);

/** Reads lengths and texts, one after the other. */
class Scanner {
  readonly bytes: Uint8Array;
  at: number;
  end: number;

  constructor(bytes: Uint8Array) {
    this.bytes = bytes;
    this.at = 0;
    this.end = bytes.length;
  }

  /** The length that stands here, if so many bytes follow; -1 if not. */
  length(): number {
    let length = 0;
    let factor = 1;
    for (let i = 0; i < maxLengthBytes && this.at < this.end; i++) {
      const byte = this.bytes[this.at++]!;
      length += (byte & 0x7f) * factor;
      if (byte < 0x80) return this.at + length <= this.end ? length : -1;
      factor *= 0x80;
    }
    return -1;
  }

  /** Passes over a varint; whether there was one, of at most `max`, which is below 2^42. */
  varint(max: number): boolean {
    let value = 0;
    for (let scale = 1; scale < 2 ** 42 && this.at < this.end; scale *= 0x80) {
      const byte = this.bytes[this.at++]!;
      value += (byte & 0x7f) * scale;
      if (byte < 0x80) return value <= max;
    }
    return false;
  }

  /** Passes over printable ASCII of 0 to `maxLength` bytes; its length, or -1. */
  text(maxLength: number): number {
    const length = this.length();
    if (length < 0 || length > maxLength) return -1;
    const end = this.at + length;
    for (; this.at < end; this.at++) {
      const byte = this.bytes[this.at]!;
      if (byte < 0x20 || byte > 0x7e) return -1;
    }
    return length;
  }
}

/**
 * The type of an event that is encoded in the usual way and within all limits;
 * undefined where it has to be looked at more closely.
 *
 * @param expected the type that it probably has, so that its text is not made anew
 */
function scanType(event: Uint8Array, expected: string): string | undefined {
  const scanner = new Scanner(event);
  let type: string | undefined;
  let before = 0;
  let pairs = 0;
  while (scanner.at < scanner.end) {
    const tag = event[scanner.at++]!;
    const field = tag >> 3;
    const isNext = field > before || (field === 5 && before === 5);
    if ((tag & 7) !== lengthDelimited || !isNext) return undefined;
    before = field;
    switch (field) {
      case 1: {
        const length = scanner.text(maxTypeBytes);
        if (length <= 0) return undefined;
        type = textBefore(scanner, length, expected);
        break;
      }
      case 2: {
        const length = scanner.length();
        if (length < 0) return undefined;
        scanner.at += length;
        break;
      }
      case 3:
        if (scanner.text(maxContentTypeBytes) < 0) return undefined;
        break;
      case 4:
        if (!scanTime(scanner)) return undefined;
        break;
      case 5:
        if (++pairs > maxAttributes || !scanPair(scanner)) return undefined;
        break;
      default:
        return undefined;
    }
  }
  return type;
}

/** The text that ends here. */
function textBefore({ bytes, at }: Scanner, length: number, expected: string): string {
  const start = at - length;
  if (expected.length === length) {
    let same = 0;
    while (same < length && expected.charCodeAt(same) === bytes[start + same]) same++;
    if (same === length) return expected;
  }
  return Buffer.from(bytes.buffer, bytes.byteOffset + start, length).toString("latin1");
}

function scanTime(scanner: Scanner): boolean {
  const length = scanner.length();
  if (length < 0) return false;
  const end = scanner.at + length;
  return (
    scanNumber(scanner, tagSeconds, end, maxSeconds) &&
    scanNumber(scanner, tagNanos, end, maxNanos) &&
    scanner.at === end
  );
}

/** Passes over a number's field, if there is one. */
function scanNumber(scanner: Scanner, tag: number, end: number, max: number): boolean {
  if (scanner.at >= end || scanner.bytes[scanner.at] !== tag) return true;
  scanner.at++;
  return scanner.varint(max);
}

function scanPair(scanner: Scanner): boolean {
  const length = scanner.length();
  if (length < 0) return false;
  const end = scanner.at + length;
  if (scanner.bytes[scanner.at++] !== tagKey || scanner.text(maxKeyBytes) <= 0) return false;
  if (scanner.at >= end || scanner.bytes[scanner.at++] !== tagValue) return false;
  return scanner.text(maxAttributeValueBytes) >= 0 && scanner.at === end;
}

function hasControlCharacter(text: string): boolean {
  for (let i = 0; i < text.length; i++) {
    const unit = text.charCodeAt(i);
    if (unit < 0x20 || unit === 0x7f) return true;
  }
  return false;
}

/** Checks an event's type: one line of 1 to 128 bytes. */
function checkType(field: string, type: string): void {
  if (type === "") throw invalidField(field, "is missing");
  checkLength(field, type, maxTypeBytes);
  if (hasControlCharacter(type)) throw invalidField(field, "holds a control character");
}

function checkDecoded(field: string, bytes: Uint8Array, maxEventBytes: number): CheckedEvent {
  const event = decode(field, bytes);
  checkMessage(field, EventSchema, event);
  checkType(`${field}.type`, event.type);
  checkLength(`${field}.content_type`, event.contentType, maxContentTypeBytes);
  checkPairs(`${field}.attributes`, event.attributes, maxAttributes, maxAttributeValueBytes);
  const encoded = toBinary(EventSchema, event);
  if (encoded.length > maxEventBytes) {
    throw new RefusedError({ reason: "too_large", field, limit: maxEventBytes });
  }
  return { type: event.type, bytes: encoded };
}

function decode(field: string, bytes: Uint8Array): Event {
  try {
    scanMessage(EventSchema, bytes);
    return fromBinary(EventSchema, bytes, { readUnknownFields: false });
  } catch (error) {
    if (!(error instanceof MalformedMessage)) throw invalidField(field, "is not an encoded Event");
    const { field: inside, problem, limit } = error;
    throw invalidField(inside === "" ? field : `${field}.${inside}`, problem, limit);
  }
}
