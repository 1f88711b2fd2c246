/**
 * Which events a server takes, decided before they get a run_seq.
 *
 * Invariant: what passes here is never refused with INVALID_FIELD. One such
 * refusal would end the whole run's sender, and every event behind it.
 */
import type { Event } from "../../gen/runlog/v1/event_pb.js";
import {
  maxAttributes,
  maxAttributeValueBytes,
  maxContentTypeBytes,
  maxKeyBytes,
  maxTypeBytes,
} from "../limits.ts";
import { isTimestamp } from "../times.ts";
import { type EventInit, encodeEvent } from "../wire/event.ts";

/** The event, encoded (see encodeEvent); undefined where it is not valid or cannot be encoded. */
export function encodeValid(init: EventInit, nowMs: number): Uint8Array | undefined {
  const { type = "", contentType = "", attributes = {}, time } = init;
  try {
    return isValidType(type) &&
      fits(contentType, maxContentTypeBytes) &&
      areValidAttributes(attributes) &&
      (time === undefined || isTimestamp({ seconds: 0n, nanos: 0, ...time }))
      ? encodeEvent(init, nowMs)
      : undefined;
  } catch {
    return undefined;
  }
}

/** Whether a string can be an event's type: 1 to 128 bytes on one line, no control characters. */
export function isValidType(type: string): boolean {
  return (
    type !== "" &&
    fits(type, maxTypeBytes) &&
    // biome-ignore lint/suspicious/noControlCharactersInRegex: these are what it is about
    !/[\u0000-\u001f\u007f]/.test(type)
  );
}

function areValidAttributes(attributes: Event["attributes"]): boolean {
  const pairs = Object.entries(attributes);
  return (
    pairs.length <= maxAttributes &&
    pairs.every(
      ([key, value]) => key !== "" && fits(key, maxKeyBytes) && fits(value, maxAttributeValueBytes),
    )
  );
}

/** Whether a string is UTF-8, without U+0000, of at most so many bytes, without encoding the usual short one. */
function fits(text: string, maxBytes: number): boolean {
  return (
    text.isWellFormed() &&
    !text.includes("\0") &&
    text.length <= maxBytes &&
    (text.length * 3 <= maxBytes || utf8.encode(text).length <= maxBytes)
  );
}

const utf8 = new TextEncoder();
