/**
 * Checks events as the bytes that they arrived as, and will be stored as. The
 * usual ones are only scanned. Whatever else is a valid Event is decoded, checked,
 * and encoded again.
 */
import { isUtf8 } from "node:buffer";
import { fromBinary, toBinary } from "@bufbuild/protobuf";
import { type Event, EventSchema } from "../../gen/runlog/v1/event_pb.js";
import { type Limits, maxAppendEvents } from "../limits.ts";
import { invalidField, RefusedError } from "../refusal.ts";
import { checkEvent, checkMessage } from "../validate.ts";
import { scanEventType } from "../wire/event.ts";
import { RepeatedText } from "../wire/field-reader.ts";
import { MalformedMessage, scanMessage } from "../wire/message-scan.ts";
import type { CheckedEvent } from "./operation.ts";

/** Types of the events that came before, whoever sent them. */
const types = new RepeatedText();

/** Checks the encoded events of one append. */
export function checkEvents(
  field: string,
  events: readonly Uint8Array[],
  limits: Pick<Limits, "maxEventBytes" | "maxAppendBytes">,
): { events: CheckedEvent[]; bytes: number } {
  if (events.length > maxAppendEvents) {
    throw invalidField(field, `has more than ${maxAppendEvents} events`, maxAppendEvents);
  }
  const checked = new Array<CheckedEvent>(events.length);
  let bytes = 0;
  for (let index = 0; index < events.length; index++) {
    const event = events[index]!;
    if (event.length > limits.maxEventBytes) {
      const place = `${field}[${index}]`;
      throw new RefusedError({ reason: "too_large", field: place, limit: limits.maxEventBytes });
    }
    const scanned = scanEventType(event, types);
    const one =
      scanned === undefined
        ? checkEventBytes(`${field}[${index}]`, event, limits.maxEventBytes)
        : { type: scanned, bytes: event };
    bytes += one.bytes.length;
    checked[index] = one;
  }
  if (bytes > limits.maxAppendBytes) {
    throw new RefusedError({ reason: "too_large", field, limit: limits.maxAppendBytes });
  }
  return { events: checked, bytes };
}

/** Checks one encoded event. */
export function checkEventBytes(
  field: string,
  bytes: Uint8Array,
  maxEventBytes: number,
): CheckedEvent {
  const event = decode(field, bytes);
  checkMessage(field, EventSchema, event);
  checkEvent(field, event);
  const encoded = toBinary(EventSchema, event);
  if (encoded.length > maxEventBytes) {
    throw new RefusedError({ reason: "too_large", field, limit: maxEventBytes });
  }
  return { type: event.type, bytes: encoded };
}

function decode(field: string, bytes: Uint8Array): Event {
  try {
    scanMessage(EventSchema, bytes, isUtf8);
    return fromBinary(EventSchema, bytes, { readUnknownFields: false });
  } catch (error) {
    if (!(error instanceof MalformedMessage)) throw invalidField(field, "is not an encoded Event");
    const { field: inside, problem, limit } = error;
    throw invalidField(inside === "" ? field : `${field}.${inside}`, problem, limit);
  }
}
