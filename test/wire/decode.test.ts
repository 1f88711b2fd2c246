/** The client's own decoding gives what protobuf-es gives, whatever the bytes are. */
import assert from "node:assert/strict";
import { create, fromBinary, type MessageInitShape, toBinary } from "@bufbuild/protobuf";
import { BinaryWriter, WireType } from "@bufbuild/protobuf/wire";
import fc from "fast-check";
import type { EventSchema } from "../../gen/runlog/v1/event_pb.js";
import type { SequencedEventSchema } from "../../gen/runlog/v1/record_pb.js";
import { RunState } from "../../gen/runlog/v1/run_pb.js";
import { SubscribeResponseSchema } from "../../gen/runlog/v1/subscribe_pb.js";
import { decodeSubscribeResponse } from "../../src/client/index.ts";

type Item = MessageInitShape<typeof SequencedEventSchema>;
type EventInit = MessageInitShape<typeof EventSchema>;

const seqs = fc.oneof(fc.bigInt(0n, 300n), fc.bigInt(0n, 2n ** 64n - 1n));
const texts = fc.oneof(fc.constantFrom("", "token", "token ä", "0197c1d2-1111"), fc.string());
const times = fc.record({
  seconds: fc.oneof(fc.bigInt(0n, 2n ** 40n), fc.bigInt(-(2n ** 40n), 0n)),
  nanos: fc.integer({ min: 0, max: 999_999_999 }),
});
const optional = { requiredKeys: [] };

const events: fc.Arbitrary<EventInit> = fc.record(
  {
    type: texts,
    data: fc.uint8Array({ maxLength: 200 }),
    contentType: texts,
    time: times,
    attributes: fc.dictionary(fc.constantFrom("a", "b"), texts),
  },
  optional,
);

const records: fc.Arbitrary<NonNullable<Item["record"]>> = fc.oneof(
  { weight: 6, arbitrary: events.map((value) => ({ case: "event" as const, value })) },
  fc.constant({ case: "runStarted" as const, value: { spec: { agentId: "a" }, depth: 3 } }),
  fc.constant({
    case: "runFinished" as const,
    value: { result: { state: RunState.FAILED }, lastRunSeq: 7n },
  }),
  fc.constant({ case: "runResumed" as const, value: { lastRunSeq: 9n } }),
);

const items: fc.Arbitrary<Item> = fc.record(
  { seq: seqs, runId: texts, runSeq: seqs, recordTime: times, record: records },
  optional,
);

const frames = fc.oneof(
  {
    weight: 8,
    arbitrary: fc
      .array(items, { maxLength: 8 })
      .map((all) => ({ case: "events" as const, value: { events: all } })),
  },
  seqs.map((seq) => ({ case: "caughtUp" as const, value: { seq } })),
  seqs.map((seq) => ({ case: "progress" as const, value: { seq } })),
  texts.map((journalId) => ({ case: "subscribed" as const, value: { journalId } })),
);

const encoded = frames.map((frame) =>
  toBinary(SubscribeResponseSchema, create(SubscribeResponseSchema, { frame })),
);

/** What a decoder makes of bytes; its error where it refuses them. */
function outcome(decode: (bytes: Uint8Array) => unknown, bytes: Uint8Array): unknown {
  try {
    return decode(bytes);
  } catch (error) {
    return (error as Error).message;
  }
}

function assertSame(bytes: Uint8Array): void {
  const expected = outcome((all) => fromBinary(SubscribeResponseSchema, all), bytes);
  assert.deepStrictEqual(outcome(decodeSubscribeResponse, bytes), expected);
}

describe("decodeSubscribeResponse", () => {
  it("decodes every message as protobuf-es does", () => {
    fc.assert(fc.property(encoded, assertSame), { numRuns: 2_000 });
  });

  it("decodes broken, merged and unknown fields as protobuf-es does", () => {
    const changes = fc.array(fc.tuple(fc.nat(400), fc.nat(255)), { maxLength: 3 });
    const broken = fc
      .tuple(encoded, encoded, changes, fc.nat(400))
      .map(([first, second, bytes, cut]) => {
        const all = Uint8Array.from([...first, ...second]);
        for (const [at, byte] of bytes) if (at < all.length) all[at] = byte;
        return all.subarray(0, Math.max(0, all.length - (cut > 300 ? cut - 300 : 0)));
      });
    fc.assert(fc.property(broken, assertSame), { numRuns: 10_000 });
  });

  it("decodes a message of which any one byte is another as protobuf-es does", () => {
    const record = {
      case: "event" as const,
      value: {
        type: "a",
        data: Uint8Array.of(1, 2),
        contentType: "b",
        time: { seconds: 299n, nanos: 299 },
      },
    };
    const recordTime = { seconds: 300n, nanos: 300 };
    const item = { seq: 300n, runId: "run", runSeq: 7n, recordTime, record };
    const value = { events: [item, { ...item, seq: 301n }] };
    const frame = { case: "events" as const, value };
    const whole = toBinary(SubscribeResponseSchema, create(SubscribeResponseSchema, { frame }));
    for (let at = 0; at < whole.length; at++) {
      for (let byte = 0; byte < 256; byte++) assertSame(whole.with(at, byte));
    }
  });

  /** A message with one field that is put together by hand. */
  const field = (no: number, write: (writer: BinaryWriter) => void): Uint8Array => {
    const body = new BinaryWriter();
    write(body);
    return new BinaryWriter().tag(no, WireType.LengthDelimited).bytes(body.finish()).finish();
  };
  const inItem = (body: Uint8Array) =>
    field(2, (batch) => batch.raw(field(1, (item) => item.raw(body))));

  it("keeps fields that it does not know, on every level", () => {
    const unknown = new BinaryWriter().tag(100, WireType.Varint).uint32(7).finish();
    assertSame(field(2, (batch) => batch.raw(unknown)));
    assertSame(inItem(unknown));
    assertSame(inItem(field(5, (event) => event.raw(unknown))));
    assertSame(inItem(field(4, (time) => time.raw(unknown))));
    assertSame(inItem(field(5, (event) => event.raw(field(4, (time) => time.raw(unknown))))));
    assertSame(Uint8Array.from([...inItem(new Uint8Array(0)), ...unknown]));
  });

  it("merges messages that come in parts", () => {
    const parts = [
      field(4, (time) => time.tag(1, WireType.Varint).int64(5n)),
      field(4, (time) => time.tag(2, WireType.Varint).int32(6)),
      field(5, (event) => event.tag(1, WireType.LengthDelimited).string("a")),
      field(5, (event) => event.tag(2, WireType.LengthDelimited).bytes(Uint8Array.of(1))),
      field(5, (event) => event.raw(field(4, (time) => time.tag(1, WireType.Varint).int64(7n)))),
      field(5, (event) => event.raw(field(4, (time) => time.tag(2, WireType.Varint).int32(8)))),
      field(8, (resumed) => resumed.tag(1, WireType.Varint).uint64(1n)),
    ];
    fc.assert(
      fc.property(fc.array(fc.constantFrom(...parts), { maxLength: 5 }), (chosen) => {
        assertSame(inItem(Uint8Array.from(chosen.flatMap((part) => [...part]))));
      }),
    );
  });

  it("decodes text that is not UTF-8 as protobuf-es does", () => {
    assertSame(inItem(Uint8Array.of(0x12, 2, 0xff, 0xfe)));
  });
});
