import assert from "node:assert/strict";
import { isUtf8 } from "node:buffer";
import { create, equals, fromBinary, toBinary } from "@bufbuild/protobuf";
import fc from "fast-check";
import { type Event, EventSchema } from "../../gen/runlog/v1/event_pb.js";
import { checkEvents } from "../../src/ingest/event-bytes.ts";
import { maxAppendEvents } from "../../src/limits.ts";
import { RefusedError } from "../../src/refusal.ts";
import { scanMessage } from "../../src/wire/message-scan.ts";

const limits = { maxEventBytes: 4_096, maxAppendBytes: 1_000_000 };

/** Whether an event is within the contract's limits; told by the message, not by its bytes. */
function isAllowed({ type, contentType, attributes, time }: Event): boolean {
  const bytes = (text: string) => Buffer.byteLength(text);
  const pairs = Object.entries(attributes);
  const isPair = ([key, value]: [string, string]) =>
    bytes(key) > 0 && bytes(key) <= 63 && bytes(value) <= 1_024;
  // biome-ignore lint/suspicious/noControlCharactersInRegex: those are what is looked for
  const isType = bytes(type) > 0 && bytes(type) <= 128 && !/[\x00-\x1f\x7f]/.test(type);
  const isText = ![contentType, ...pairs.flat()].some((one) => one.includes("\0"));
  const isTime =
    time === undefined ||
    (time.seconds >= BigInt(Date.parse("0001-01-01T00:00:00Z") / 1000) &&
      time.seconds <= BigInt(Date.parse("9999-12-31T23:59:59Z") / 1000) &&
      time.nanos >= 0 &&
      time.nanos <= 999_999_999);
  return (
    isType &&
    isText &&
    isTime &&
    bytes(contentType) <= 128 &&
    pairs.length <= 16 &&
    pairs.every(isPair)
  );
}

/** Texts of the usual kind, of any kind, and as long as may be or longer. */
function text(limit: number): fc.Arbitrary<string> {
  return fc.oneof(
    fc.constantFrom(
      "",
      "token",
      "a.b",
      "application/json",
      "tab\there",
      "ü",
      "\u{1f600}",
      "del\x7f",
      "nul\0",
    ),
    fc.string({ unit: "binary", maxLength: 8 }).filter((one) => one.isWellFormed()),
    fc.integer({ min: limit - 1, max: limit + 1 }).map((length) => "x".repeat(length)),
  );
}

const event: fc.Arbitrary<Event> = fc
  .record({
    type: text(128),
    data: fc.uint8Array({ maxLength: 300 }),
    contentType: text(128),
    time: fc.option(
      fc.record({
        seconds: fc.oneof(
          { weight: 4, arbitrary: fc.bigInt({ min: -5n, max: 4_000_000_000n }) },
          fc.bigInt({ min: -62_135_596_802n, max: -62_135_596_798n }),
          fc.bigInt({ min: 253_402_300_797n, max: 253_402_300_801n }),
          fc.bigInt({ min: -(2n ** 63n), max: 2n ** 63n - 1n }),
        ),
        nanos: fc.oneof(
          { weight: 4, arbitrary: fc.integer({ min: 0, max: 999_999_999 }) },
          fc.integer({ min: 999_999_998, max: 1_000_000_001 }),
          fc.integer({ min: -(2 ** 31), max: 0 }),
        ),
      }),
      { nil: undefined },
    ),
    attributes: fc.array(fc.tuple(text(63), text(1_024)), { maxLength: 18 }),
  })
  .map(({ time, attributes, ...rest }) =>
    create(EventSchema, {
      ...rest,
      attributes: Object.fromEntries(attributes.filter(([key]) => key !== "__proto__")),
      ...(time === undefined ? {} : { time }),
    }),
  );

/** What becomes of the bytes: the event that is kept, or why it is refused. */
function check(bytes: Uint8Array): { type: string; bytes: Uint8Array } | string {
  try {
    return checkEvents("events", [bytes], limits).events[0]!;
  } catch (error) {
    assert.ok(error instanceof RefusedError, String(error));
    return error.refusal.reason;
  }
}

/** What the bytes mean; protobuf-es reads some where a part ends behind the whole, which is no message. */
function decoded(bytes: Uint8Array): Event | undefined {
  try {
    scanMessage(EventSchema, bytes, isUtf8);
    return fromBinary(EventSchema, bytes);
  } catch {
    return undefined;
  }
}

/** Whatever the bytes are, what is kept means the same and is within the limits. */
function assertChecked(bytes: Uint8Array): void {
  const meant = decoded(bytes);
  const kept = check(bytes);
  if (bytes.length > limits.maxEventBytes) {
    assert.equal(kept, "too_large");
    return;
  }
  if (meant === undefined || !isAllowed(meant)) {
    assert.equal(kept, "invalid_field");
    return;
  }
  assert.ok(typeof kept === "object", `${String(kept)}: ${JSON.stringify(meant.type)}`);
  assert.equal(kept.type, meant.type);
  assert.ok(equals(EventSchema, fromBinary(EventSchema, kept.bytes), meant));
}

describe("events as bytes", () => {
  it("are kept as they were sent, or refused, as their messages are", () => {
    fc.assert(
      fc.property(event, (one) => {
        assertChecked(toBinary(EventSchema, one));
      }),
      { numRuns: 3_000 },
    );
  });

  it("are decoded to be checked where a client encodes them in another way", () => {
    // Fields in any order, again and again, and some that nobody knows.
    const strange = fc
      .array(
        fc.tuple(event, fc.constantFrom("type", "data", "contentType", "time", "attributes")),
        {
          minLength: 1,
          maxLength: 6,
        },
      )
      .map((fields) =>
        Buffer.concat([
          ...fields.map(([one, name]) =>
            toBinary(EventSchema, create(EventSchema, { [name]: one[name as keyof Event] })),
          ),
          Buffer.from([0x3a, 0x01, 0x00]),
        ]).subarray(0, -3 * (fields.length % 2)),
      );
    fc.assert(fc.property(strange, assertChecked), { numRuns: 3_000 });
  });

  it("never break the check, whatever the bytes are", () => {
    const broken = fc
      .tuple(event, fc.nat(400), fc.array(fc.tuple(fc.nat(400), fc.nat(255)), { maxLength: 3 }))
      .map(([one, length, changes]) => {
        const bytes = Buffer.from(toBinary(EventSchema, one)).subarray(0, length);
        for (const [at, byte] of changes) if (at < bytes.length) bytes[at] = byte;
        return bytes;
      });
    fc.assert(fc.property(broken, assertChecked), { numRuns: 5_000 });
    fc.assert(fc.property(fc.uint8Array({ maxLength: 30 }), assertChecked), { numRuns: 5_000 });
  });

  it("are refused where there are more of them than an append takes", () => {
    const events = new Array<Uint8Array>(maxAppendEvents + 1).fill(Uint8Array.of(0x0a, 1, 0x61));
    const { length } = checkEvents("events", events.slice(1), limits).events;
    assert.equal(length, maxAppendEvents);
    assert.throws(
      () => checkEvents("events", events, limits),
      ({ refusal }: RefusedError) =>
        refusal.reason === "invalid_field" && refusal.limit === maxAppendEvents,
    );
  });

  it("are not copied where they are as usual", () => {
    const usual = create(EventSchema, {
      type: "tool.called",
      data: Buffer.from("{}"),
      contentType: "application/json",
      time: { seconds: 1_700_000_000n, nanos: 5 },
      attributes: { traceparent: "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01" },
    });
    const bytes = toBinary(EventSchema, usual);
    const kept = check(bytes);
    assert.ok(typeof kept === "object");
    assert.equal(kept.bytes, bytes);
  });
});
