/**
 * Events, written, read and scanned by hand, at a fraction of what the
 * descriptors cost. Whatever is not a plain event is left to protobuf-es, so the
 * result is always its own.
 *
 * Layout: https://protobuf.dev/programming-guides/encoding/
 */
import { create, type MessageInitShape, toBinary } from "@bufbuild/protobuf";
import { type Timestamp, timestampFromMs } from "@bufbuild/protobuf/wkt";
import { type Event, EventSchema } from "../../gen/runlog/v1/event_pb.js";
import {
  maxAttributes,
  maxAttributeValueBytes,
  maxContentTypeBytes,
  maxKeyBytes,
  maxTypeBytes,
} from "../limits.ts";
import { FieldReader, RepeatedText } from "./field-reader.ts";
import { FieldWriter, messageField, Slab, textField, utf8LengthOf } from "./field-writer.ts";
import {
  eventAttributes,
  eventAttributesKey,
  eventAttributesValue,
  eventContentType,
  eventData,
  eventTime,
  eventType,
} from "./tags.ts";
import { skipTimestamp, type TimestampReader, timestampMessage } from "./timestamp.ts";

/** An event as producers give it; `time` is filled in where it is missing. */
export type EventInit = MessageInitShape<typeof EventSchema>;

/** The memory of encoded events. */
const slab = new Slab();

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
  const now = timestampMessage(nowMs);
  const bytes =
    textField(typeBytes) +
    textField(dataBytes) +
    textField(contentTypeBytes) +
    messageField(now.size);
  const out = new FieldWriter(bytes, slab);
  out.text(eventType, type, typeBytes);
  if (dataBytes > 0) out.bytes(eventData, data!);
  out.text(eventContentType, contentType, contentTypeBytes);
  out.message(eventTime, now);
  return out.buffer;
}

/** Reads events that are much alike, one after the other. */
export class EventReader {
  readonly #types = new RepeatedText();
  readonly #contentTypes = new RepeatedText();
  readonly #times: TimestampReader;

  constructor(times: TimestampReader) {
    this.#times = times;
  }

  /**
   * The event that ends at `end`, its data a view; undefined where it is not plain.
   *
   * @throws what protobuf-es throws for a text that is not UTF-8
   */
  read(reader: FieldReader, end: number): Event | undefined {
    const { bytes } = reader;
    let type = "";
    let data: Uint8Array | undefined;
    let contentType = "";
    let time: Timestamp | undefined;
    while (reader.at < end) {
      const tag = bytes[reader.at++]!;
      const fieldEnd = reader.fieldEnd(end);
      if (fieldEnd === undefined) return undefined;
      if (tag === eventType) type = this.#types.read(bytes, reader.at, fieldEnd);
      else if (tag === eventData) data = bytes.subarray(reader.at, fieldEnd);
      else if (tag === eventContentType) {
        contentType = this.#contentTypes.read(bytes, reader.at, fieldEnd);
      } else if (tag === eventTime && time === undefined) {
        time = this.#times.read(reader, fieldEnd);
        // A message that comes twice is merged.
        if (time === undefined) return undefined;
      } else return undefined;
      reader.at = fieldEnd;
    }
    data ??= new Uint8Array(0);
    const event: Event = { $typeName: "runlog.v1.Event", type, data, contentType, attributes: {} };
    if (time !== undefined) event.time = time;
    return event;
  }
}

/**
 * The type of an event that is encoded in the usual way and within all limits:
 * each field once, in the order of its number, in printable ASCII. undefined where
 * it has to be looked at more closely.
 *
 * @param types of the events before: the next one's is probably the same
 */
export function scanEventType(event: Uint8Array, types: RepeatedText): string | undefined {
  const reader = new FieldReader(event);
  const end = event.length;
  if (!reader.skipTag(eventType, end)) return undefined;
  const typeEnd = reader.fieldEnd(end);
  if (typeEnd === undefined) return undefined;
  const typeStart = reader.at;
  if (typeEnd === typeStart || typeEnd - typeStart > maxTypeBytes) return undefined;
  if (!reader.skipPrintable(typeEnd)) return undefined;
  if (reader.skipTag(eventData, end)) {
    const dataEnd = reader.fieldEnd(end);
    if (dataEnd === undefined) return undefined;
    reader.at = dataEnd;
  }
  if (reader.skipTag(eventContentType, end) && !skipText(reader, end, 0, maxContentTypeBytes)) {
    return undefined;
  }
  if (reader.skipTag(eventTime, end)) {
    const timeEnd = reader.fieldEnd(end);
    if (timeEnd === undefined || !skipTimestamp(reader, timeEnd)) return undefined;
  }
  for (let pairs = 0; reader.skipTag(eventAttributes, end); pairs++) {
    if (pairs === maxAttributes || !skipPair(reader, end)) return undefined;
  }
  return reader.at === end ? types.read(event, typeStart, typeEnd) : undefined;
}

/** Passes over printable ASCII of so many bytes. */
function skipText(reader: FieldReader, end: number, minBytes: number, maxBytes: number): boolean {
  const textEnd = reader.fieldEnd(end);
  if (textEnd === undefined) return false;
  const bytes = textEnd - reader.at;
  return bytes >= minBytes && bytes <= maxBytes && reader.skipPrintable(textEnd);
}

function skipPair(reader: FieldReader, end: number): boolean {
  const pairEnd = reader.fieldEnd(end);
  if (pairEnd === undefined || !reader.skipTag(eventAttributesKey, pairEnd)) return false;
  if (!skipText(reader, pairEnd, 1, maxKeyBytes)) return false;
  if (!reader.skipTag(eventAttributesValue, pairEnd)) return false;
  return skipText(reader, pairEnd, 0, maxAttributeValueBytes) && reader.at === pairEnd;
}
