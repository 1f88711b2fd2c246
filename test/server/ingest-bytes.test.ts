/** What is read and written by hand on an Ingest stream is what protobuf-es reads and writes. */
import assert from "node:assert/strict";
import { create, fromBinary, toBinary } from "@bufbuild/protobuf";
import fc from "fast-check";
import { IngestRequestSchema, IngestResponseSchema } from "../../gen/runlog/v1/ingest_pb.js";
import type { IngestFrame } from "../../src/ingest/frames.ts";
import { defaultLimits } from "../../src/limits.ts";
import { IngestBytesService, parseIngestBytes } from "../../src/server/ingest-bytes.ts";
import { encodeFrames } from "../../src/server/ingest-frames.ts";
import { toIngestResponse } from "../../src/server/messages.ts";
import { scanAppend } from "../../src/wire/append.ts";
import { EnvelopeReader } from "../../src/wire/envelope.ts";

const texts = fc.oneof(fc.constantFrom("", "r", "run-ä"), fc.string({ maxLength: 20 }));
const seqs = fc.oneof(fc.integer({ min: 0, max: 300 }), fc.maxSafeNat());
const appends = fc.record({
  runId: texts,
  firstRunSeq: seqs.map(BigInt),
  handledSignalSeq: seqs.map(BigInt),
  events: fc.array(
    fc.record({ type: texts, data: fc.uint8Array({ maxLength: 200 }), contentType: texts }),
    { maxLength: 4 },
  ),
});
const encoded = appends.map((value) =>
  toBinary(IngestRequestSchema, create(IngestRequestSchema, { frame: { case: "append", value } })),
);

/** An Append as protobuf-es reads it; undefined for what is none, and for what is no message. */
function decoded(bytes: Uint8Array) {
  try {
    const { frame } = fromBinary(IngestBytesService.method.ingest.input, bytes);
    if (frame.case !== "append") return undefined;
    const { runId, firstRunSeq, handledSignalSeq } = frame.value;
    const events = frame.value.events as unknown as Uint8Array[];
    return {
      runId,
      firstRunSeq,
      handledSignalSeq,
      events: events.map((event) => Buffer.from(event)),
    };
  } catch {
    return undefined;
  }
}

describe("an Ingest stream as bytes", () => {
  it("takes an Append apart as protobuf-es does, or leaves it to that", () => {
    let scanned = 0;
    fc.assert(
      fc.property(encoded, fc.nat(), fc.nat(255), (bytes, at, byte) => {
        const changed = Uint8Array.from(bytes);
        changed[at % bytes.length] = byte;
        const cut = bytes.subarray(0, at % bytes.length);
        for (const one of [bytes, changed, cut, Buffer.concat([bytes, bytes])]) {
          const append = scanAppend(one);
          if (append === undefined) continue;
          scanned++;
          const events = append.events.map((event) => Buffer.from(event));
          assert.deepEqual({ ...append, events }, decoded(one));
        }
      }),
      { numRuns: 3_000 },
    );
    assert.ok(scanned > 1_000, `${scanned} were scanned`);
  });

  it("leaves frames that are no plain Append to protobuf-es", () => {
    const open = create(IngestRequestSchema, { frame: { case: "open", value: { runId: "r" } } });
    assert.equal(parseIngestBytes(toBinary(IngestRequestSchema, open)).frame.case, "open");
    const append = create(IngestRequestSchema, {
      frame: { case: "append", value: { runId: "ä" } },
    });
    const { frame } = parseIngestBytes(toBinary(IngestRequestSchema, append));
    assert.ok(frame.case === "append" && frame.value.runId === "ä");
  });

  it("tells a producer in envelopes what protobuf-es would", () => {
    const frames: fc.Arbitrary<IngestFrame> = fc.oneof(
      {
        weight: 4,
        arbitrary: fc.record({
          t: fc.constant("ack"),
          runId: texts,
          runSeq: seqs,
          seq: seqs,
          handledSignalSeq: seqs,
        }),
      },
      { weight: 1, arbitrary: fc.record({ t: fc.constant("go_away"), reason: texts }) },
      { weight: 1, arbitrary: fc.record({ t: fc.constant("released"), runId: texts }) },
    ) as fc.Arbitrary<IngestFrame>;
    fc.assert(
      fc.property(fc.array(frames, { minLength: 1, maxLength: 8 }), (some) => {
        const messages: Uint8Array[] = [];
        new EnvelopeReader(10_000).take(encodeFrames(some, defaultLimits), messages);
        assert.deepEqual(
          messages.map((bytes) => fromBinary(IngestResponseSchema, bytes)),
          some.map((frame) => toIngestResponse(frame, defaultLimits)),
        );
      }),
    );
  });
});
