/**
 * A SubscribeResponse with an EventBatch, written and read by hand, at a fraction
 * of what the descriptors cost: most of a replay is events, which are alike.
 * Whatever is not as runlog writes it is left to protobuf-es, so the result is
 * always its own.
 *
 * Layout: https://protobuf.dev/programming-guides/encoding/
 */
import { fromBinary, type UnknownField } from "@bufbuild/protobuf";
import { WireType } from "@bufbuild/protobuf/wire";
import type { Timestamp } from "@bufbuild/protobuf/wkt";
import { EventSchema } from "../../gen/runlog/v1/event_pb.js";
import {
  RunFinishedSchema,
  RunResumedSchema,
  RunStartedSchema,
  RunWaitingSchema,
  type SequencedEvent,
  SequencedEventSchema,
  SignalSchema,
} from "../../gen/runlog/v1/record_pb.js";
import {
  type SubscribeResponse,
  SubscribeResponseSchema,
} from "../../gen/runlog/v1/subscribe_pb.js";
import { EventReader } from "./event.ts";
import { FieldReader, RepeatedText } from "./field-reader.ts";
import { bytesIn, concat, varintBytes, writeVarint } from "./field-writer.ts";
import {
  eventBatchEvents,
  sequencedEventEvent,
  sequencedEventHandledSignalSeq,
  sequencedEventRecordTime,
  sequencedEventRunFinished,
  sequencedEventRunId,
  sequencedEventRunResumed,
  sequencedEventRunSeq,
  sequencedEventRunStarted,
  sequencedEventRunWaiting,
  sequencedEventSeq,
  sequencedEventSignal,
  subscribeResponseEvents,
} from "./tags.ts";
import { TimestampReader } from "./timestamp.ts";

const eventsTag = Uint8Array.of(subscribeResponseEvents);

function varint(value: number): Uint8Array {
  const bytes = new Uint8Array(varintBytes(value));
  writeVarint(bytes, 0, value);
  return bytes;
}

/** A SubscribeResponse with the EventBatch that these parts are, which are not copied. */
export function eventsResponse(batch: readonly Uint8Array[]): readonly Uint8Array[] {
  return [eventsTag, varint(bytesIn(batch)), ...batch];
}

/** The field of such a SubscribeResponse, for protobuf-es to write verbatim. */
export function eventsField(batch: readonly Uint8Array[]): UnknownField {
  return {
    no: SubscribeResponseSchema.field.events.number,
    wireType: WireType.LengthDelimited,
    data: concat([varint(bytesIn(batch)), ...batch]),
  };
}

/**
 * Decodes a SubscribeResponse, as `fromBinary` does, several times as fast. For
 * clients of other gRPC libraries: runlog's own does so by itself. The data of
 * events are views of `bytes`.
 *
 * @throws what `fromBinary` throws where the bytes are no such message
 */
export function decodeSubscribeResponse(bytes: Uint8Array): SubscribeResponse {
  return readPlain(bytes) ?? fromBinary(SubscribeResponseSchema, bytes);
}

function readPlain(bytes: Uint8Array): SubscribeResponse | undefined {
  try {
    return new BatchReader(bytes).response();
  } catch {
    // A part that is broken: what the whole is then, protobuf-es says.
    return undefined;
  }
}

/**
 * Reads one message. What returns undefined has found something that it leaves
 * to protobuf-es, broken lengths included.
 */
class BatchReader {
  readonly #reader: FieldReader;
  readonly #runIds = new RepeatedText();
  readonly #times = new TimestampReader();
  readonly #events = new EventReader(this.#times);

  constructor(bytes: Uint8Array) {
    this.#reader = new FieldReader(bytes);
  }

  response(): SubscribeResponse | undefined {
    const reader = this.#reader;
    const { bytes } = reader;
    const end = bytes.length;
    // Fields behind it are merged into it, or replace it.
    if (!reader.skipTag(subscribeResponseEvents, end) || reader.fieldEnd(end) !== end) {
      return undefined;
    }
    const events: SequencedEvent[] = [];
    while (reader.at < end) {
      const itemEnd = reader.skipTag(eventBatchEvents, end) ? reader.fieldEnd(end) : undefined;
      if (itemEnd === undefined) return undefined;
      const start = reader.at;
      events.push(
        this.#item(itemEnd) ?? fromBinary(SequencedEventSchema, bytes.subarray(start, itemEnd)),
      );
      reader.at = itemEnd;
    }
    const $typeName = "runlog.v1.SubscribeResponse";
    const value = { $typeName: "runlog.v1.EventBatch" as const, events };
    return { $typeName, frame: { case: "events", value } };
  }

  #item(end: number): SequencedEvent | undefined {
    const reader = this.#reader;
    let seq = 0;
    let runId = "";
    let runSeq = 0;
    let handled = 0;
    let recordTime: Timestamp | undefined;
    let record: SequencedEvent["record"] | undefined;
    while (reader.at < end) {
      const tag = reader.bytes[reader.at++]!;
      const isSeq = tag === sequencedEventSeq || tag === sequencedEventRunSeq;
      if (isSeq || tag === sequencedEventHandledSignalSeq) {
        const value = reader.number(end);
        if (value === undefined) return undefined;
        if (tag === sequencedEventSeq) seq = value;
        else if (tag === sequencedEventRunSeq) runSeq = value;
        else handled = value;
        continue;
      }
      const fieldEnd = reader.fieldEnd(end);
      if (fieldEnd === undefined) return undefined;
      if (tag === sequencedEventRunId) {
        runId = this.#runIds.read(reader.bytes, reader.at, fieldEnd);
      } else if (tag === sequencedEventRecordTime) {
        // A message that comes twice is merged.
        if (recordTime !== undefined) return undefined;
        recordTime = this.#times.read(reader, fieldEnd);
        if (recordTime === undefined) return undefined;
      } else {
        if (record !== undefined) return undefined;
        record = this.#record(tag, fieldEnd);
        if (record === undefined) return undefined;
      }
      reader.at = fieldEnd;
    }
    const item: SequencedEvent = {
      $typeName: "runlog.v1.SequencedEvent",
      seq: BigInt(seq),
      runId,
      runSeq: BigInt(runSeq),
      record: record ?? { case: undefined },
      handledSignalSeq: handled === 0 ? 0n : BigInt(handled),
    };
    if (recordTime !== undefined) item.recordTime = recordTime;
    return item;
  }

  /** What an item is about; undefined for a field that is not known. */
  #record(tag: number, end: number): SequencedEvent["record"] | undefined {
    const reader = this.#reader;
    const start = reader.at;
    const body = () => reader.bytes.subarray(start, end);
    switch (tag) {
      case sequencedEventEvent:
        return {
          case: "event",
          value: this.#events.read(reader, end) ?? fromBinary(EventSchema, body()),
        };
      case sequencedEventRunStarted:
        return { case: "runStarted", value: fromBinary(RunStartedSchema, body()) };
      case sequencedEventRunFinished:
        return { case: "runFinished", value: fromBinary(RunFinishedSchema, body()) };
      case sequencedEventRunResumed:
        return { case: "runResumed", value: fromBinary(RunResumedSchema, body()) };
      case sequencedEventSignal:
        return { case: "signal", value: fromBinary(SignalSchema, body()) };
      case sequencedEventRunWaiting:
        return { case: "runWaiting", value: fromBinary(RunWaitingSchema, body()) };
      default:
        return undefined;
    }
  }
}
