/**
 * The bytes of a record: the wire encoding of an `EventBatch`, written once
 * when the record is appended and copied to every subscriber. Events are
 * embedded as the bytes that they were checked as; nothing here decodes one.
 *
 * Layout: https://protobuf.dev/programming-guides/encoding/, with the field
 * numbers of EventBatch and SequencedEvent in `proto/runlog/v1`.
 */
import { varintBytes, writeVarint } from "./field-writer.ts";

const tagBatchItem = 0x0a; // EventBatch.events
const tagSeq = 0x08;
const tagRunId = 0x12;
const tagRunSeq = 0x18;
const tagRecordTime = 0x22;
const tagEvent = 0x2a;

/** The facts about a run that the server records, by their tag in SequencedEvent. */
const factTags = { run_started: 0x32, run_finished: 0x3a, run_resumed: 0x42 } as const;

/** A fact about a run. */
export type FactKind = keyof typeof factTags;

/** google.protobuf.Timestamp of milliseconds since 1970. */
function timestampBytes(timeMs: number): Uint8Array {
  const seconds = Math.floor(timeMs / 1000);
  const nanos = (timeMs - seconds * 1000) * 1_000_000;
  const bytes = new Uint8Array(1 + varintBytes(seconds) + (nanos > 0 ? 1 + varintBytes(nanos) : 0));
  bytes[0] = 0x08;
  const end = writeVarint(bytes, 1, seconds);
  if (nanos > 0) {
    bytes[end] = 0x10;
    writeVarint(bytes, end + 1, nanos);
  }
  return bytes;
}

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
  /** Bytes of each item. */
  readonly itemSizes: readonly number[];
  readonly runId: Uint8Array;
  readonly time: Uint8Array;
}

function layOut(
  head: RecordHead,
  tag: number,
  firstRunSeq: number,
  bodies: readonly Uint8Array[],
): RecordLayout {
  const runId = Buffer.from(head.runId, "utf8");
  const time = timestampBytes(head.timeMs);
  const fixed =
    1 + varintBytes(runId.length) + runId.length + 1 + varintBytes(time.length) + time.length;
  const itemSizes = new Array<number>(bodies.length);
  let size = 0;
  for (let i = 0; i < bodies.length; i++) {
    const length = bodies[i]!.length;
    const item =
      1 +
      varintBytes(head.firstSeq + i) +
      fixed +
      (firstRunSeq > 0 ? 1 + varintBytes(firstRunSeq + i) : 0) +
      1 +
      varintBytes(length) +
      length;
    itemSizes[i] = item;
    size += 1 + varintBytes(item) + item;
  }
  return { size, head, tag, firstRunSeq, bodies, itemSizes, runId, time };
}

/** Lays out consecutive events of one run; `events` are encoded `Event`s, `firstRunSeq` is from 1. */
export function layOutEvents(
  head: RecordHead,
  firstRunSeq: number,
  events: readonly Uint8Array[],
): RecordLayout {
  return layOut(head, tagEvent, firstRunSeq, events);
}

/** Lays out one fact; `body` is the encoded RunStarted, RunFinished or RunResumed. */
export function layOutFact(head: RecordHead, kind: FactKind, body: Uint8Array): RecordLayout {
  return layOut(head, factTags[kind], 0, [body]);
}

/** Writes records, each into its own part of one piece of memory. */
export function writeRecords(layouts: readonly RecordLayout[]): Uint8Array[] {
  const out = Buffer.allocUnsafeSlow(layouts.reduce((sum, { size }) => sum + size, 0));
  let at = 0;
  return layouts.map((layout) => {
    const start = at;
    at += layout.size;
    write(layout, out, start);
    return out.subarray(start, at);
  });
}

function write(
  { head, tag, firstRunSeq, bodies, itemSizes, runId, time }: RecordLayout,
  out: Uint8Array,
  start: number,
): void {
  let at = start;
  for (let i = 0; i < bodies.length; i++) {
    const body = bodies[i]!;
    out[at++] = tagBatchItem;
    at = writeVarint(out, at, itemSizes[i]!);
    out[at++] = tagSeq;
    at = writeVarint(out, at, head.firstSeq + i);
    out[at++] = tagRunId;
    at = writeVarint(out, at, runId.length);
    out.set(runId, at);
    at += runId.length;
    if (firstRunSeq > 0) {
      out[at++] = tagRunSeq;
      at = writeVarint(out, at, firstRunSeq + i);
    }
    out[at++] = tagRecordTime;
    at = writeVarint(out, at, time.length);
    out.set(time, at);
    at += time.length;
    out[at++] = tag;
    at = writeVarint(out, at, body.length);
    out.set(body, at);
    at += body.length;
  }
}

/** Reads the varint at an offset: [value, offset behind it]. */
function readVarint(data: Uint8Array, at: number): [number, number] {
  let value = 0;
  let scale = 1;
  for (let offset = at; offset < data.length; offset++) {
    const byte = data[offset]!;
    value += (byte & 0x7f) * scale;
    if (byte < 0x80) return [value, offset + 1];
    scale *= 0x80;
  }
  throw new RangeError("truncated varint in a record");
}

/** Offset of the item with this index. */
function itemOffset(data: Uint8Array, index: number): number {
  let at = 0;
  for (let i = 0; i < index; i++) {
    const [size, start] = readVarint(data, at + 1);
    at = start + size;
  }
  return at;
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
  const [length, start] = readVarint(event, 1);
  return Buffer.from(event.buffer, event.byteOffset + start, length).toString("utf8");
}

/**
 * The stretches of a record of events in which all events are of a wanted type;
 * views, one behind the other they are the wire encoding of an EventBatch.
 */
export function stretchesOf(data: Uint8Array, wants: (type: string) => boolean): Uint8Array[] {
  const stretches: Uint8Array[] = [];
  let start = 0;
  let at = 0;
  for (const event of eventsIn(data)) {
    const [size, body] = readVarint(data, at + 1);
    const end = body + size;
    if (!wants(typeOf(event))) {
      if (start < at) stretches.push(data.subarray(start, at));
      start = end;
    }
    at = end;
  }
  if (start < at) stretches.push(data.subarray(start, at));
  return stretches;
}

/** The encoded `Event`s in a record of events, from the item with index `skip` on; views. */
export function* eventsIn(data: Uint8Array, skip = 0): Generator<Uint8Array> {
  let at = itemOffset(data, skip);
  while (at < data.length) {
    const [size, start] = readVarint(data, at + 1);
    const end = start + size;
    for (let field = start; field < end; ) {
      const tag = data[field]!;
      const [value, next] = readVarint(data, field + 1);
      if (tag === tagEvent) yield data.subarray(next, next + value);
      field = tag === tagSeq || tag === tagRunSeq ? next : next + value;
    }
    at = end;
  }
}

/** The items of a record, one by one; views, each the wire encoding of an EventBatch of one. */
export function itemsOf(data: Uint8Array): Uint8Array[] {
  const items: Uint8Array[] = [];
  for (let at = 0; at < data.length; ) {
    const [size, start] = readVarint(data, at + 1);
    items.push(data.subarray(at, start + size));
    at = start + size;
  }
  return items;
}
