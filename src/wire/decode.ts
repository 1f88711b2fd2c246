/**
 * Decodes what subscriptions bring, at a fraction of what decoding by descriptor
 * costs: most of a replay is events, which are alike. Whatever is not as runlog
 * writes it is left to protobuf-es, so the result is always the same.
 *
 * Layout: https://protobuf.dev/programming-guides/encoding/, with the field
 * numbers of SubscribeResponse, EventBatch, SequencedEvent and Event in
 * `proto/runlog/v1`.
 */
import { fromBinary } from "@bufbuild/protobuf";
import { getTextEncoding } from "@bufbuild/protobuf/wire";
import type { Timestamp } from "@bufbuild/protobuf/wkt";
import { type Event, EventSchema } from "../../gen/runlog/v1/event_pb.js";
import { type IngestResponse, IngestResponseSchema } from "../../gen/runlog/v1/ingest_pb.js";
import {
  RunFinishedSchema,
  RunResumedSchema,
  RunStartedSchema,
  type SequencedEvent,
  SequencedEventSchema,
} from "../../gen/runlog/v1/record_pb.js";
import {
  type SubscribeResponse,
  SubscribeResponseSchema,
} from "../../gen/runlog/v1/subscribe_pb.js";

const tagEvents = 0x12; // SubscribeResponse.events
const tagBatchItem = 0x0a; // EventBatch.events
const tagAck = 0x12; // IngestResponse.ack
const tagTime = 0x22; // Event.time

/**
 * Decodes a SubscribeResponse, as `fromBinary` does, several times as fast. For
 * clients of other gRPC libraries: runlog's own does so by itself. The data of
 * events are views of `bytes`.
 *
 * @throws what `fromBinary` throws where the bytes are no such message
 */
export function decodeSubscribeResponse(bytes: Uint8Array): SubscribeResponse {
  return decodeBatch(bytes) ?? fromBinary(SubscribeResponseSchema, bytes);
}

/**
 * Decodes an IngestResponse, as `fromBinary` does; acknowledgements, which most
 * of them are, several times as fast.
 *
 * @throws what `fromBinary` throws where the bytes are no such message
 */
export function decodeIngestResponse(bytes: Uint8Array): IngestResponse {
  return decodeAck(bytes) ?? fromBinary(IngestResponseSchema, bytes);
}

function decodeAck(bytes: Uint8Array): IngestResponse | undefined {
  try {
    return new Decoder(bytes).ack();
  } catch {
    return undefined;
  }
}

function decodeBatch(bytes: Uint8Array): SubscribeResponse | undefined {
  try {
    return new Decoder(bytes).response();
  } catch {
    // A part that is broken: what the whole is then, protobuf-es says.
    return undefined;
  }
}

/** A text in UTF-8, which mostly is a short one in ASCII. */
function textOf(bytes: Uint8Array, at: number, end: number): string {
  let text = "";
  for (let i = at; i < end; i++) {
    if (bytes[i]! >= 0x80) return getTextEncoding().decodeUtf8(bytes.subarray(at, end), true);
    text += String.fromCharCode(bytes[i]!);
  }
  return text;
}

/** A text that mostly is the one before. */
class RepeatedText {
  #at = 0;
  #length = -1;
  #text = "";

  read(bytes: Uint8Array, at: number, end: number): string {
    if (!this.#isAt(bytes, at, end - at)) {
      this.#text = getTextEncoding().decodeUtf8(bytes.subarray(at, end), true);
      this.#at = at;
      this.#length = end - at;
    }
    return this.#text;
  }

  #isAt(bytes: Uint8Array, at: number, length: number): boolean {
    if (length !== this.#length) return false;
    // From behind: ids that begin alike are common.
    for (let i = length - 1; i >= 0; i--) {
      if (bytes[at + i] !== bytes[this.#at + i]) return false;
    }
    return true;
  }
}

/**
 * Reads one message. What returns undefined has found something that it leaves
 * to protobuf-es, broken lengths included.
 */
class Decoder {
  readonly #bytes: Uint8Array;
  readonly #runIds = new RepeatedText();
  readonly #types = new RepeatedText();
  readonly #contentTypes = new RepeatedText();
  #at = 0;
  /** Of the last timestamp: most are of the same second. */
  #seconds = 0;
  #secondsOfTime = 0n;

  constructor(bytes: Uint8Array) {
    this.#bytes = bytes;
  }

  response(): SubscribeResponse | undefined {
    const bytes = this.#bytes;
    if (bytes[this.#at++] !== tagEvents) return undefined;
    // Fields behind it are merged into it, or replace it.
    if (this.#endOfField(bytes.length) !== bytes.length) return undefined;
    const events: SequencedEvent[] = [];
    while (this.#at < bytes.length) {
      if (bytes[this.#at++] !== tagBatchItem) return undefined;
      const end = this.#endOfField(bytes.length);
      if (end === undefined) return undefined;
      const start = this.#at;
      const item = this.#item(end) ?? fromBinary(SequencedEventSchema, bytes.subarray(start, end));
      this.#at = end;
      events.push(item);
    }
    const $typeName = "runlog.v1.SubscribeResponse";
    const value = { $typeName: "runlog.v1.EventBatch" as const, events };
    return { $typeName, frame: { case: "events", value } };
  }

  ack(): IngestResponse | undefined {
    const bytes = this.#bytes;
    if (bytes[this.#at++] !== tagAck) return undefined;
    // Fields behind it are merged into it, or replace it.
    if (this.#endOfField(bytes.length) !== bytes.length) return undefined;
    let runId = "";
    let runSeq = 0;
    let seq = 0;
    while (this.#at < bytes.length) {
      const tag = bytes[this.#at++];
      if (tag !== 0x0a && tag !== 0x10 && tag !== 0x18) return undefined;
      const value = this.#varint(bytes.length);
      if (value === undefined) return undefined;
      if (tag === 0x10) runSeq = value;
      else if (tag === 0x18) seq = value;
      else {
        const end = this.#at + value;
        if (end > bytes.length) return undefined;
        runId = textOf(bytes, this.#at, end);
        this.#at = end;
      }
    }
    const $typeName = "runlog.v1.AppendAck";
    const value = { $typeName, runId, runSeq: BigInt(runSeq), seq: BigInt(seq) } as const;
    return { $typeName: "runlog.v1.IngestResponse", frame: { case: "ack", value } };
  }

  #item(end: number): SequencedEvent | undefined {
    let seq = 0;
    let runId = "";
    let runSeq = 0;
    let recordTime: Timestamp | undefined;
    let record: SequencedEvent["record"] | undefined;
    while (this.#at < end) {
      const tag = this.#bytes[this.#at++]!;
      if (tag === 0x08 || tag === 0x18) {
        const value = this.#varint(end);
        if (value === undefined) return undefined;
        if (tag === 0x08) seq = value;
        else runSeq = value;
        continue;
      }
      const fieldEnd = this.#endOfField(end);
      if (fieldEnd === undefined) return undefined;
      switch (tag) {
        case 0x12:
          runId = this.#runIds.read(this.#bytes, this.#at, fieldEnd);
          break;
        case 0x22:
          // A message that comes twice is merged.
          if (recordTime !== undefined) return undefined;
          recordTime = this.#timestamp(fieldEnd);
          if (recordTime === undefined) return undefined;
          break;
        case 0x2a:
        case 0x32:
        case 0x3a:
        case 0x42:
          if (record !== undefined) return undefined;
          record = this.#record(tag, fieldEnd);
          break;
        default:
          return undefined;
      }
      this.#at = fieldEnd;
    }
    const item: SequencedEvent = {
      $typeName: "runlog.v1.SequencedEvent",
      seq: BigInt(seq),
      runId,
      runSeq: BigInt(runSeq),
      record: record ?? { case: undefined },
    };
    if (recordTime !== undefined) item.recordTime = recordTime;
    return item;
  }

  #record(tag: 0x2a | 0x32 | 0x3a | 0x42, end: number): SequencedEvent["record"] {
    const start = this.#at;
    const body = () => this.#bytes.subarray(start, end);
    switch (tag) {
      case 0x2a:
        return { case: "event", value: this.#event(end) ?? fromBinary(EventSchema, body()) };
      case 0x32:
        return { case: "runStarted", value: fromBinary(RunStartedSchema, body()) };
      case 0x3a:
        return { case: "runFinished", value: fromBinary(RunFinishedSchema, body()) };
      case 0x42:
        return { case: "runResumed", value: fromBinary(RunResumedSchema, body()) };
    }
  }

  #event(end: number): Event | undefined {
    const bytes = this.#bytes;
    let type = "";
    let data: Uint8Array | undefined;
    let contentType = "";
    let time: Timestamp | undefined;
    while (this.#at < end) {
      const tag = bytes[this.#at++]!;
      const fieldEnd = this.#endOfField(end);
      if (fieldEnd === undefined) return undefined;
      if (tag === 0x0a) type = this.#types.read(bytes, this.#at, fieldEnd);
      else if (tag === 0x12) data = bytes.subarray(this.#at, fieldEnd);
      else if (tag === 0x1a) contentType = this.#contentTypes.read(bytes, this.#at, fieldEnd);
      else if (tag === tagTime && time === undefined) {
        time = this.#timestamp(fieldEnd);
        if (time === undefined) return undefined;
      } else return undefined;
      this.#at = fieldEnd;
    }
    data ??= new Uint8Array(0);
    const event: Event = { $typeName: "runlog.v1.Event", type, data, contentType, attributes: {} };
    if (time !== undefined) event.time = time;
    return event;
  }

  #timestamp(end: number): Timestamp | undefined {
    let seconds = 0;
    let nanos = 0;
    while (this.#at < end) {
      const tag = this.#bytes[this.#at++];
      const value = this.#varint(end);
      if (value === undefined) return undefined;
      if (tag === 0x08) seconds = value;
      else if (tag === 0x10 && value < 0x8000_0000) nanos = value;
      else return undefined;
    }
    if (seconds !== this.#seconds) {
      this.#seconds = seconds;
      this.#secondsOfTime = BigInt(seconds);
    }
    return { $typeName: "google.protobuf.Timestamp", seconds: this.#secondsOfTime, nanos };
  }

  /** Reads a length; where the field ends, if that is not behind `end`. */
  #endOfField(end: number): number | undefined {
    const length = this.#varint(end);
    if (length === undefined || length > end - this.#at) return undefined;
    return this.#at + length;
  }

  /** A number below 2^53. */
  #varint(end: number): number | undefined {
    let value = 0;
    let scale = 1;
    while (this.#at < end && scale < 2 ** 49) {
      const byte = this.#bytes[this.#at++]!;
      value += (byte & 0x7f) * scale;
      if (byte < 0x80) return value;
      scale *= 0x80;
    }
    return undefined;
  }
}
