/**
 * Which events a server takes, decided before they get a run_seq.
 *
 * Invariant: what passes here is never refused with INVALID_FIELD. One such
 * refusal would end the whole run's sender, and every event behind it.
 */
import { create } from "@bufbuild/protobuf";
import { TimestampSchema } from "@bufbuild/protobuf/wkt";
import { checkEvent, checkEventType } from "../validate.ts";
import { type EventInit, encodeEvent } from "../wire/event.ts";

/** The event, encoded (see encodeEvent); what is wrong where it is not valid or cannot be encoded. */
export function encodeValid(init: EventInit, nowMs: number): Uint8Array | string {
  const { type = "", contentType = "", attributes = {}, time } = init;
  try {
    checkEvent("event", {
      type,
      contentType,
      attributes,
      ...(time !== undefined && { time: create(TimestampSchema, time) }),
    });
    return encodeEvent(init, nowMs);
  } catch (error) {
    return error instanceof Error ? error.message : String(error);
  }
}

/** Whether a string can be an event's type: 1 to 128 bytes on one line, no control characters. */
export function isValidType(type: string): boolean {
  try {
    checkEventType("type", type);
    return true;
  } catch {
    return false;
  }
}
