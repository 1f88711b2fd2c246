/**
 * An IngestRequest with an Append, written and taken apart by hand; its events
 * are left as they are.
 *
 * Layout: https://protobuf.dev/programming-guides/encoding/
 */
import type { Append } from "../../gen/runlog/v1/ingest_pb.js";
import { maxAppendEvents } from "../limits.ts";
import { decodeText, FieldReader } from "./field-reader.ts";
import {
  messageField,
  numberField,
  textField,
  utf8LengthOf,
  type WritableMessage,
} from "./field-writer.ts";
import {
  appendEvents,
  appendFirstRunSeq,
  appendHandledSignalSeq,
  appendRunId,
  ingestRequestAppend,
} from "./tags.ts";

/** Consecutive events of a run, encoded. */
export interface EncodedAppend {
  readonly runId: string;
  readonly firstRunSeq: number;
  readonly events: readonly Uint8Array[];
  /** The run's signals up to this one are handled; 0: this tells nothing of them. */
  readonly handledSignalSeq: number;
}

/** An IngestRequest with an Append. */
export function appendMessage(append: EncodedAppend): WritableMessage {
  const { runId, firstRunSeq, events, handledSignalSeq } = append;
  const runIdBytes = utf8LengthOf(runId) ?? 0;
  let bytes = textField(runIdBytes) + numberField(firstRunSeq) + numberField(handledSignalSeq);
  for (const event of events) bytes += messageField(event.length);
  return {
    size: messageField(bytes),
    writeTo(out) {
      out.head(ingestRequestAppend, bytes);
      out.text(appendRunId, runId, runIdBytes);
      out.number(appendFirstRunSeq, firstRunSeq);
      for (const event of events) out.bytes(appendEvents, event);
      out.number(appendHandledSignalSeq, handledSignalSeq);
    },
  };
}

/** An Append whose events are still encoded. */
export type AppendBytes = Omit<Append, "$typeName" | "events"> & {
  readonly events: readonly Uint8Array[];
};

/**
 * The Append in an IngestRequest; undefined for anything else, or where it is not
 * encoded as producers usually do: each field once, in the order of its number.
 */
export function scanAppend(bytes: Uint8Array): AppendBytes | undefined {
  const reader = new FieldReader(bytes);
  const end = bytes.length;
  if (!reader.skipTag(ingestRequestAppend, end) || reader.fieldEnd(end) !== end) return undefined;
  const runId = reader.skipTag(appendRunId, end) ? readPrintable(reader, end) : "";
  if (runId === undefined) return undefined;
  const firstRunSeq = reader.skipTag(appendFirstRunSeq, end) ? reader.number(end) : 0;
  if (firstRunSeq === undefined) return undefined;
  const events: Uint8Array[] = [];
  while (reader.skipTag(appendEvents, end)) {
    const eventEnd = reader.fieldEnd(end);
    if (eventEnd === undefined) return undefined;
    events.push(bytes.subarray(reader.at, eventEnd));
    reader.at = eventEnd;
    // It is refused for their number, whatever the rest is.
    if (events.length > maxAppendEvents) return appendOf(runId, firstRunSeq, events, 0);
  }
  const handledSignalSeq = reader.skipTag(appendHandledSignalSeq, end) ? reader.number(end) : 0;
  if (handledSignalSeq === undefined || reader.at < end) return undefined;
  return appendOf(runId, firstRunSeq, events, handledSignalSeq);
}

function appendOf(
  runId: string,
  firstRunSeq: number,
  events: readonly Uint8Array[],
  handledSignalSeq: number,
): AppendBytes {
  return {
    runId,
    firstRunSeq: BigInt(firstRunSeq),
    events,
    handledSignalSeq: BigInt(handledSignalSeq),
  };
}

function readPrintable(reader: FieldReader, end: number): string | undefined {
  const textEnd = reader.fieldEnd(end);
  if (textEnd === undefined) return undefined;
  const start = reader.at;
  return reader.skipPrintable(textEnd)
    ? decodeText(reader.bytes.subarray(start, textEnd))
    : undefined;
}
