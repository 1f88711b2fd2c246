/**
 * Encodes what producers send, at a fraction of what encoding by descriptor
 * costs. What is not a plain event is left to protobuf-es, so the bytes are
 * always the same as its own.
 *
 * Layout: https://protobuf.dev/programming-guides/encoding/, with the field
 * numbers of Event and Append in `proto/runlog/v1`.
 */
import { create, type MessageInitShape, toBinary } from "@bufbuild/protobuf";
import { timestampFromMs } from "@bufbuild/protobuf/wkt";
import { type Event, EventSchema } from "../../gen/runlog/v1/event_pb.js";
import {
  FieldWriter,
  messageField,
  numberField,
  textField,
  utf8LengthOf,
  type WritableMessage,
} from "./field-writer.ts";

const tagType = 0x0a; // Event.type
const tagData = 0x12; // Event.data
const tagContentType = 0x1a; // Event.content_type
const tagTime = 0x22; // Event.time
const tagAppendRunId = 0x0a; // Append.run_id
const tagAppendFirstRunSeq = 0x10; // Append.first_run_seq
const tagAppendEvents = 0x1a; // Append.events
const tagAppend = 0x12; // IngestRequest.append

/** An event as producers give it; `time` is filled in where it is missing. */
export type EventInit = MessageInitShape<typeof EventSchema>;

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
  const out = new FieldWriter(
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

/** An IngestRequest with an Append. */
export function appendMessage({ runId, firstRunSeq, events }: EncodedAppend): WritableMessage {
  const runIdBytes = utf8LengthOf(runId) ?? 0;
  let bytes = textField(runIdBytes) + numberField(firstRunSeq);
  for (const event of events) bytes += messageField(event.length);
  return {
    size: messageField(bytes),
    writeTo(out) {
      out.number(tagAppend, bytes);
      out.text(tagAppendRunId, runId, runIdBytes);
      if (firstRunSeq > 0) out.number(tagAppendFirstRunSeq, firstRunSeq);
      for (const event of events) out.bytes(tagAppendEvents, event);
    },
  };
}
