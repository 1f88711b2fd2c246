/** google.protobuf.Timestamp, read and written by hand. */
import type { Timestamp } from "@bufbuild/protobuf/wkt";
import type { FieldReader } from "./field-reader.ts";
import { numberField, type WritableMessage } from "./field-writer.ts";
import { timestampNanos, timestampSeconds } from "./tags.ts";

/** A Timestamp; `timeMs` is milliseconds since 1970, and not before. */
export function timestampMessage(timeMs: number): WritableMessage {
  const seconds = Math.floor(timeMs / 1_000);
  const nanos = (timeMs - seconds * 1_000) * 1_000_000;
  return {
    size: numberField(seconds) + numberField(nanos),
    writeTo(out) {
      out.number(timestampSeconds, seconds);
      out.number(timestampNanos, nanos);
    },
  };
}

/** The last second that RFC 3339 can write: of the year 9999. */
export const maxTimestampSeconds = 253_402_300_799n;
/** Nanoseconds stay below a second. */
export const maxNanos = 999_999_999;

const maxSeconds = Number(maxTimestampSeconds);

/** Passes over a Timestamp that ends at `end`, if it is of 1970 to 9999 and encoded in the usual way. */
export function skipTimestamp(reader: FieldReader, end: number): boolean {
  return (
    skipNumber(reader, timestampSeconds, end, maxSeconds) &&
    skipNumber(reader, timestampNanos, end, maxNanos) &&
    reader.at === end
  );
}

/** Passes over a number's field, if there is one; whether the number is not over `max`. */
function skipNumber(reader: FieldReader, tag: number, end: number, max: number): boolean {
  if (!reader.skipTag(tag, end)) return true;
  const value = reader.number(end);
  return value !== undefined && value <= max;
}

/** Reads Timestamps, most of which are of the same second. */
export class TimestampReader {
  #seconds = 0;
  #exactSeconds = 0n;

  /** The Timestamp that ends at `end`; undefined where it is not encoded in the usual way. */
  read(reader: FieldReader, end: number): Timestamp | undefined {
    let seconds = 0;
    let nanos = 0;
    while (reader.at < end) {
      const tag = reader.bytes[reader.at++];
      const value = reader.number(end);
      if (value === undefined) return undefined;
      if (tag === timestampSeconds) seconds = value;
      else if (tag === timestampNanos && value < 0x8000_0000) nanos = value;
      else return undefined;
    }
    if (seconds !== this.#seconds) {
      this.#seconds = seconds;
      this.#exactSeconds = BigInt(seconds);
    }
    return { $typeName: "google.protobuf.Timestamp", seconds: this.#exactSeconds, nanos };
  }
}
