/**
 * The bytes of a record: the wire encoding of an `EventBatch`, written once
 * when the record is appended and copied to every subscriber. Events are
 * embedded as the bytes that they were checked as; nothing here decodes one.
 *
 * Layout: https://protobuf.dev/programming-guides/encoding/
 */
import { WireType } from "@bufbuild/protobuf/wire";
import { timestampMs } from "@bufbuild/protobuf/wkt";
import { decodeText, FieldReader } from "./field-reader.ts";
import {
  encodeMessage,
  encodeText,
  FieldWriter,
  messageField,
  numberField,
} from "./field-writer.ts";
import {
  eventBatchEvents,
  eventType,
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
} from "./tags.ts";
import { TimestampReader, timestampMessage } from "./timestamp.ts";

/** The facts about a run that the server records, by their tag in SequencedEvent. */
const factTags = {
  run_started: sequencedEventRunStarted,
  run_finished: sequencedEventRunFinished,
  run_resumed: sequencedEventRunResumed,
  run_waiting: sequencedEventRunWaiting,
} as const;

/** A fact about a run. */
export type FactKind = keyof typeof factTags;

/** What a record's items have in common. */
export interface RecordHead {
  /** seq of the first item. */
  readonly firstSeq: number;
  readonly runId: string;
  /** Server's clock at commit, milliseconds since 1970. */
  readonly timeMs: number;
}

/** A record that has its place and is not written yet. */
export interface RecordLayout {
  /** Bytes of the record. */
  readonly size: number;
  readonly head: RecordHead;
  readonly tag: number;
  readonly firstRunSeq: number;
  readonly bodies: readonly Uint8Array[];
  /** By the index of an event that moved it: the run's position in its signals. */
  readonly handled: ReadonlyMap<number, number> | undefined;
  /** Bytes of each item. */
  readonly itemSizes: readonly number[];
  readonly runId: Uint8Array;
  readonly time: Uint8Array;
}

/** The time that was encoded last: all records of a commit have the same. */
let lastTime = { ms: -1, bytes: new Uint8Array(0) };

function encodeTime(ms: number): Uint8Array {
  if (lastTime.ms !== ms) lastTime = { ms, bytes: encodeMessage(timestampMessage(ms)) };
  return lastTime.bytes;
}

function layOut(
  head: RecordHead,
  tag: number,
  firstRunSeq: number,
  bodies: readonly Uint8Array[],
  handled?: ReadonlyMap<number, number>,
): RecordLayout {
  const runId = encodeText(head.runId);
  const time = encodeTime(head.timeMs);
  const fixed = messageField(runId.length) + messageField(time.length);
  const itemSizes = new Array<number>(bodies.length);
  let size = 0;
  for (let i = 0; i < bodies.length; i++) {
    const item =
      numberField(head.firstSeq + i) +
      fixed +
      (firstRunSeq > 0 ? numberField(firstRunSeq + i) : 0) +
      messageField(bodies[i]!.length) +
      numberField(handled?.get(i) ?? 0);
    itemSizes[i] = item;
    size += messageField(item);
  }
  return { size, head, tag, firstRunSeq, bodies, handled, itemSizes, runId, time };
}

/**
 * Lays out consecutive events of one run.
 *
 * @param firstRunSeq from 1
 * @param events encoded `Event`s
 * @param handled by the index of an event that moved it: the run's position in its signals
 */
export function layOutEvents(
  head: RecordHead,
  firstRunSeq: number,
  events: readonly Uint8Array[],
  handled?: ReadonlyMap<number, number>,
): RecordLayout {
  return layOut(head, sequencedEventEvent, firstRunSeq, events, handled);
}

/** Lays out one signal; `body` is the encoded Signal. */
export function layOutSignal(head: RecordHead, body: Uint8Array): RecordLayout {
  return layOut(head, sequencedEventSignal, 0, [body]);
}

/** Lays out one fact; `body` is the encoded message of its kind. */
export function layOutFact(head: RecordHead, kind: FactKind, body: Uint8Array): RecordLayout {
  return layOut(head, factTags[kind], 0, [body]);
}

/** Writes records, each into its own part of one piece of memory. */
export function writeRecords(layouts: readonly RecordLayout[]): Uint8Array[] {
  const out = new FieldWriter(layouts.reduce((sum, { size }) => sum + size, 0));
  return layouts.map((layout) => {
    const start = out.at;
    write(layout, out);
    return out.buffer.subarray(start, out.at);
  });
}

function write(
  { head, tag, firstRunSeq, bodies, handled, itemSizes, runId, time }: RecordLayout,
  out: FieldWriter,
): void {
  for (let i = 0; i < bodies.length; i++) {
    out.head(eventBatchEvents, itemSizes[i]!);
    out.number(sequencedEventSeq, head.firstSeq + i);
    out.bytes(sequencedEventRunId, runId);
    if (firstRunSeq > 0) out.number(sequencedEventRunSeq, firstRunSeq + i);
    out.bytes(sequencedEventRecordTime, time);
    out.bytes(tag, bodies[i]!);
    out.number(sequencedEventHandledSignalSeq, handled?.get(i) ?? 0);
  }
}

/**
 * record_time of a record's items, in milliseconds since 1970; undefined where it cannot be read.
 *
 * @param beginning the record, which may be cut off behind the time of its first item
 */
export function recordTimeMs(beginning: Uint8Array): number | undefined {
  const reader = new FieldReader(beginning);
  const end = beginning.length;
  // The item may reach beyond the cut.
  if (!reader.skipTag(eventBatchEvents, end) || reader.number(end) === undefined) return undefined;
  while (reader.at < end) {
    const tag = beginning[reader.at++]!;
    if ((tag & 7) === WireType.Varint) {
      if (reader.number(end) === undefined) return undefined;
      continue;
    }
    const fieldEnd = reader.fieldEnd(end);
    if (fieldEnd === undefined) return undefined;
    if (tag === sequencedEventRecordTime) {
      const time = new TimestampReader().read(reader, fieldEnd);
      return time && timestampMs(time);
    }
    reader.at = fieldEnd;
  }
  return undefined;
}

/** Passes over the head of an item; where the item ends. */
function itemEnd(reader: FieldReader): number {
  const end = reader.bytes.length;
  return whole(reader.skipTag(eventBatchEvents, end) ? reader.fieldEnd(end) : undefined);
}

/** What a record that we have written holds. */
function whole<T>(part: T | undefined): T {
  if (part === undefined) throw new RangeError("a record is not whole");
  return part;
}

/** Offset of the item with this index. */
function itemOffset(data: Uint8Array, index: number): number {
  const reader = new FieldReader(data);
  for (let i = 0; i < index; i++) reader.at = itemEnd(reader);
  return reader.at;
}

/** The bytes of a record from the item with index `skip` on; a view, not a copy. */
export function skipItems(data: Uint8Array, skip: number): Uint8Array {
  return skip === 0 ? data : data.subarray(itemOffset(data, skip));
}

/** The bytes of a record's first `count` items; a view, not a copy. */
export function takeItems(data: Uint8Array, count: number): Uint8Array {
  return data.subarray(0, itemOffset(data, count));
}

/** Type of an encoded `Event`: its first field, since we have encoded it. */
function typeOf(event: Uint8Array): string {
  const reader = new FieldReader(event);
  const isFirst = reader.skipTag(eventType, event.length);
  const end = whole(isFirst ? reader.fieldEnd(event.length) : undefined);
  return decodeText(event.subarray(reader.at, end));
}

/** The encoded `Event` in the item that ends at `end`; undefined where it is none. */
function eventIn(reader: FieldReader, end: number): Uint8Array | undefined {
  return bodyIn(reader, end, sequencedEventEvent);
}

/** The encoded `Signal` in the record of one; a view. */
export function signalIn(data: Uint8Array): Uint8Array {
  const reader = new FieldReader(data);
  return whole(bodyIn(reader, itemEnd(reader), sequencedEventSignal));
}

/** What the item that ends at `end` holds, if that has this tag. */
function bodyIn(reader: FieldReader, end: number, wanted: number): Uint8Array | undefined {
  while (reader.at < end) {
    const tag = reader.bytes[reader.at++]!;
    if ((tag & 7) === WireType.Varint) {
      whole(reader.number(end));
      continue;
    }
    const fieldEnd = whole(reader.fieldEnd(end));
    if (tag === wanted) return reader.bytes.subarray(reader.at, fieldEnd);
    reader.at = fieldEnd;
  }
  return undefined;
}

/**
 * The stretches of a record of events in which all events are of a wanted type;
 * views, one behind the other they are the wire encoding of an EventBatch.
 */
export function stretchesOf(data: Uint8Array, wants: (type: string) => boolean): Uint8Array[] {
  const stretches: Uint8Array[] = [];
  const reader = new FieldReader(data);
  let start = 0;
  while (reader.at < data.length) {
    const at = reader.at;
    const end = itemEnd(reader);
    const event = eventIn(reader, end);
    reader.at = end;
    if (event !== undefined && wants(typeOf(event))) continue;
    if (start < at) stretches.push(data.subarray(start, at));
    start = end;
  }
  if (start < data.length) stretches.push(data.subarray(start));
  return stretches;
}

/** The encoded `Event`s in a record of events, from the item with index `skip` on; views. */
export function* eventsIn(data: Uint8Array, skip = 0): Generator<Uint8Array> {
  const reader = new FieldReader(data);
  reader.at = itemOffset(data, skip);
  while (reader.at < data.length) {
    const end = itemEnd(reader);
    const event = eventIn(reader, end);
    if (event !== undefined) yield event;
    reader.at = end;
  }
}

/** The items of a record, one by one; views, each the wire encoding of an EventBatch of one. */
export function itemsOf(data: Uint8Array): Uint8Array[] {
  const items: Uint8Array[] = [];
  const reader = new FieldReader(data);
  while (reader.at < data.length) {
    const start = reader.at;
    reader.at = itemEnd(reader);
    items.push(data.subarray(start, reader.at));
  }
  return items;
}
