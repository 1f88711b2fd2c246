/** The client's own encoding gives what protobuf-es gives. */
import assert from "node:assert/strict";
import { create, fromBinary, toBinary } from "@bufbuild/protobuf";
import fc from "fast-check";
import { EventSchema } from "../../gen/runlog/v1/event_pb.js";
import {
  AppendAckSchema,
  IngestRequestSchema,
  IngestResponseSchema,
} from "../../gen/runlog/v1/ingest_pb.js";
import type { EventInit } from "../../src/client/index.ts";
import { decodeIngestResponse } from "../../src/wire/ack.ts";
import { appendMessage } from "../../src/wire/append.ts";
import { EnvelopeReader, envelopTogether } from "../../src/wire/envelope.ts";
import { encodeEvent, eventOf } from "../../src/wire/event.ts";

const texts = fc.oneof(
  fc.constantFrom("", "token", "token ä", "😀"),
  fc.string({ unit: "grapheme" }),
);
const events: fc.Arbitrary<EventInit> = fc.record(
  {
    type: texts,
    data: fc.uint8Array({ maxLength: 300 }),
    contentType: texts,
    time: fc.record({ seconds: fc.bigInt(-5n, 2n ** 40n), nanos: fc.integer({ min: 0, max: 9 }) }),
    attributes: fc.dictionary(fc.constantFrom("a", "b"), texts),
  },
  { requiredKeys: [] },
);
const times = fc.oneof(
  fc.integer({ min: -5, max: 5_000 }),
  fc.maxSafeNat(),
  fc.double({ min: 0, max: 1e15, noNaN: true }),
);

/** What comes of something; its error where it fails. */
function outcome(work: () => unknown): unknown {
  try {
    return work();
  } catch (error) {
    return (error as Error).message;
  }
}

describe("encoding of what producers send", () => {
  it("gives the bytes of protobuf-es for every event", () => {
    fc.assert(
      fc.property(events, times, (init, nowMs) => {
        assert.deepEqual(
          outcome(() => Buffer.from(encodeEvent(init, nowMs))),
          outcome(() => Buffer.from(toBinary(EventSchema, eventOf(init, nowMs)))),
        );
      }),
      { numRuns: 2_000 },
    );
  });

  it("keeps fields that it does not know", () => {
    const $unknown = [{ no: 99, wireType: 0, data: Uint8Array.of(7) }];
    const event = { ...create(EventSchema, { type: "e" }), $unknown };
    assert.deepEqual(fromBinary(EventSchema, encodeEvent(event, 1)).$unknown, $unknown);
  });

  it("puts Appends and other messages into envelopes that read back as they were", () => {
    const message = (runId: string) =>
      create(IngestRequestSchema, { frame: { case: "open", value: { runId, create: {} } } });
    const append = fc.record({
      runId: texts,
      firstRunSeq: fc.oneof(fc.integer({ min: 0, max: 300 }), fc.maxSafeNat()),
      events: fc.array(
        events.map((init) => encodeEvent({ ...init, type: `t${init.type ?? ""}` }, 1)),
        { maxLength: 5 },
      ),
      handledSignalSeq: fc.oneof(fc.constant(0), fc.maxSafeNat()),
    });
    fc.assert(
      fc.property(fc.array(fc.oneof(append, texts), { maxLength: 6 }), (frames) => {
        const bytes = envelopTogether(
          frames.map((frame) =>
            typeof frame === "string"
              ? toBinary(IngestRequestSchema, message(frame))
              : appendMessage(frame),
          ),
        );
        const found: Uint8Array[] = [];
        const reader = new EnvelopeReader(1_000_000);
        if (bytes.length > 0) reader.take(bytes, found);
        assert.equal(reader.isInside, false);
        assert.deepEqual(
          found.map((one) => fromBinary(IngestRequestSchema, one)),
          frames.map((frame) => {
            if (typeof frame === "string") return message(frame);
            const decoded = frame.events.map((event) => fromBinary(EventSchema, event));
            const firstRunSeq = BigInt(frame.firstRunSeq);
            const handledSignalSeq = BigInt(frame.handledSignalSeq);
            const value = { ...frame, firstRunSeq, handledSignalSeq, events: decoded };
            return create(IngestRequestSchema, { frame: { case: "append", value } });
          }),
        );
      }),
    );
  });
});

describe("decodeIngestResponse", () => {
  const seqs = fc.oneof(fc.bigInt(0n, 300n), fc.bigInt(0n, 2n ** 64n - 1n));
  const acks = fc.record({ runId: texts, runSeq: seqs, seq: seqs });

  function assertSame(bytes: Uint8Array): void {
    assert.deepEqual(
      outcome(() => decodeIngestResponse(bytes)),
      outcome(() => fromBinary(IngestResponseSchema, bytes)),
    );
  }

  it("decodes as protobuf-es does, whatever the message and whichever byte is another", () => {
    fc.assert(
      fc.property(acks, fc.nat(), fc.nat(255), (ack, at, byte) => {
        const value = create(AppendAckSchema, ack);
        const frame = { case: "ack" as const, value };
        const bytes = toBinary(IngestResponseSchema, create(IngestResponseSchema, { frame }));
        assertSame(bytes);
        assertSame(Buffer.concat([bytes, bytes]));
        assertSame(bytes.subarray(0, at % bytes.length));
        const changed = Uint8Array.from(bytes);
        changed[at % bytes.length] = byte;
        assertSame(changed);
      }),
      { numRuns: 2_000 },
    );
    assertSame(
      toBinary(
        IngestResponseSchema,
        create(IngestResponseSchema, { frame: { case: "goAway", value: { reason: "r" } } }),
      ),
    );
  });
});
