/**
 * The events that producers send: the same bytes for the same run, run_seq and producer,
 * so that whoever reads them can tell whether they are what was sent.
 */
import { crc32 } from "node:zlib";
import { create, toBinary } from "@bufbuild/protobuf";
import { timestampFromMs } from "@bufbuild/protobuf/wkt";
import { type Event, EventSchema } from "../../gen/runlog/v1/event_pb.js";

/** Types of events, one after the other. */
const types = ["step.begin", "step.end", "token"] as const;
const maxPaddingBytes = 400;
const firstTimeMs = 1_700_000_000_000;

/** The type of the event at a place. */
export function typeAt(runSeq: number): string {
  return types[runSeq % types.length]!;
}

/** The event that a producer puts at a place of a run. */
export function eventAt(run: string, runSeq: number, by: string): Event {
  const padding = "x".repeat((runSeq * 7919) % maxPaddingBytes);
  return create(EventSchema, {
    type: typeAt(runSeq),
    data: Buffer.from(`${by} ${run}#${runSeq} ${padding}`),
    contentType: "text/plain",
    time: timestampFromMs(firstTimeMs + runSeq),
    attributes: { place: `${runSeq}` },
  });
}

/** What a sender says under an id; `variant` is what the same id must not be used for. */
export function signalEvent(run: string, id: string, variant = 0): Event {
  return create(EventSchema, {
    type: "input",
    data: Buffer.from(
      `${id} to ${run} ${"y".repeat((id.length * 131 + variant) % maxPaddingBytes)}`,
    ),
    contentType: "text/plain",
    time: timestampFromMs(firstTimeMs),
    attributes: { variant: `${variant}` },
  });
}

/** CRC-32 of an event's encoding. */
export function crcOf(event: Event): number {
  return crc32(toBinary(EventSchema, event));
}

/** CRC-32 of the event that a producer puts at a place of a run. */
export function expectedCrc(run: string, runSeq: number, by: string): number {
  return crcOf(eventAt(run, runSeq, by));
}

/** The producer that an event's data names. */
export function producerOf({ data }: Event): string {
  const text = Buffer.from(data.buffer, data.byteOffset, data.byteLength).toString();
  return text.slice(0, Math.max(text.indexOf(" "), 0));
}
