import { fromBinary } from "@bufbuild/protobuf";
import { EventSchema } from "../../gen/runlog/v1/event_pb.js";
import { type EventInit, eventOf } from "../wire/event.ts";
import { encodeValid } from "./event-bytes.ts";
import {
  appendFramingBytes,
  defaultMaxAppendBytes,
  defaultMaxEventBytes,
  eventFramingBytes,
} from "./limits.ts";
import type { SendBuffer } from "./send-buffer.ts";
import type { Drop } from "./sender-types.ts";
import { warnOfDrop } from "./warning.ts";

/** What events are taken with. */
export interface IntakeOptions {
  readonly runId: string;
  readonly buffer: SendBuffer;
  /** Milliseconds since 1970. */
  readonly now: () => number;
  /** Told of every event that is dropped. Unset: the first one is a process warning. */
  readonly onDrop: ((drop: Drop) => void) | undefined;
}

/**
 * Takes events into a sender's buffer, and drops those that cannot be sent.
 *
 * Invariant: an event is taken or told of as a drop, never both.
 */
export class Intake {
  readonly #options: IntakeOptions;
  #maxEventBytes = defaultMaxEventBytes;
  #taken = 0;
  #dropped = 0;

  constructor(options: IntakeOptions) {
    this.#options = options;
  }

  /** Bytes of the largest event that the server takes, if the server has said so. */
  get maxEventBytes(): number {
    return this.#maxEventBytes;
  }

  /** Events that were taken, without those that were dropped since. */
  get taken(): number {
    return this.#taken;
  }

  /** Events that were dropped. */
  get dropped(): number {
    return this.#dropped;
  }

  /**
   * Takes an event; false where it was dropped.
   *
   * @param handledSignalSeq the last of the run's signals that it answers; 0: none
   */
  take(init: EventInit, handledSignalSeq: number): boolean {
    const { buffer, now } = this.#options;
    const nowMs = now();
    const encoded = encodeValid(init, nowMs);
    if (typeof encoded === "string") {
      const event = eventOf(init, nowMs);
      return this.#drop({ reason: "invalid", problem: encoded, event, bytes: 0, limit: 0 });
    }
    const bytes = encoded.length;
    if (bytes > this.#maxEventBytes) {
      const limit = this.#maxEventBytes;
      return this.#drop({ reason: "too_large", event: eventOf(init, nowMs), bytes, limit });
    }
    if (!buffer.hasRoom) {
      return this.#drop({ reason: "overflow", event: eventOf(init, nowMs), bytes, limit: 0 });
    }
    buffer.push(encoded, handledSignalSeq);
    this.#taken++;
    return true;
  }

  /** The server has these limits: drops what is over them and was never sent. */
  limit(limits: {
    readonly maxEventBytes: number | undefined;
    readonly maxAppendBytes: number | undefined;
  }): void {
    const { maxEventBytes = defaultMaxEventBytes, maxAppendBytes = defaultMaxAppendBytes } = limits;
    const limit = Math.min(maxEventBytes, maxAppendBytes - appendFramingBytes - eventFramingBytes);
    this.#maxEventBytes = limit;
    for (const encoded of this.#options.buffer.dropUnsentOver(limit)) {
      this.#taken--;
      const event = fromBinary(EventSchema, encoded);
      this.#drop({ reason: "too_large", event, bytes: encoded.length, limit });
    }
  }

  #drop(drop: Drop): false {
    const { onDrop, runId } = this.#options;
    if (onDrop !== undefined) onDrop(drop);
    else if (this.#dropped === 0) warnOfDrop(runId, { ...drop, type: drop.event.type });
    this.#dropped++;
    return false;
  }
}
