/** Which times and durations everybody can read: the well-known types' own ranges, outside of which JSON cannot write them. */
import { maxNanos, maxTimestampSeconds } from "./wire/timestamp.ts";

/** The first second that RFC 3339 can write: of the year 1. */
const minTimestampSeconds = -62_135_596_800n;
/** About 10,000 years, as `google/protobuf/duration.proto` says. */
const maxDurationSeconds = 315_576_000_000n;

interface SecondsAndNanos {
  readonly seconds: bigint;
  readonly nanos: number;
}

/** Whether a google.protobuf.Timestamp is of the years 1 to 9999. */
export function isTimestamp({ seconds, nanos }: SecondsAndNanos): boolean {
  return (
    seconds >= minTimestampSeconds &&
    seconds <= maxTimestampSeconds &&
    nanos >= 0 &&
    nanos <= maxNanos
  );
}

/** Whether a google.protobuf.Duration is of at most 10,000 years, its seconds and nanos of one sign. */
export function isDuration({ seconds, nanos }: SecondsAndNanos): boolean {
  return (
    seconds >= -maxDurationSeconds &&
    seconds <= maxDurationSeconds &&
    Math.abs(nanos) <= maxNanos &&
    (seconds === 0n || nanos === 0 || seconds > 0n === nanos > 0)
  );
}
