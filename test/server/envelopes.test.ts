import assert from "node:assert/strict";
import { Code, ConnectError } from "@connectrpc/connect";
import fc from "fast-check";
import { EnvelopeReader, envelop, type MessageParts } from "../../src/envelopes.ts";

const maxBytes = 1_000;

function enveloped(messages: readonly MessageParts[]): Uint8Array {
  return Buffer.concat(envelop(messages));
}

/** Cuts bytes at some places. */
function cut(bytes: Uint8Array, places: readonly number[]): Uint8Array[] {
  const ends = [...new Set(places.map((place) => place % (bytes.length + 1)))].toSorted(
    (a, b) => a - b,
  );
  return [...ends, bytes.length].map((end, index, all) =>
    bytes.subarray(index === 0 ? 0 : all[index - 1], end),
  );
}

describe("envelopes", () => {
  it("come out as they went in, however they are cut on their way", () => {
    const message = fc.uint8Array({ maxLength: maxBytes });
    fc.assert(
      fc.property(fc.array(message), fc.array(fc.nat(), { maxLength: 20 }), (messages, places) => {
        const reader = new EnvelopeReader(maxBytes);
        const received: Uint8Array[] = [];
        const sent = enveloped(messages.map((one) => [one.subarray(0, 3), one.subarray(3)]));
        for (const chunk of cut(sent, places)) reader.take(chunk, received);
        assert.deepEqual(
          received.map((one) => Buffer.from(one)),
          messages.map((one) => Buffer.from(one)),
        );
        assert.equal(reader.isInside, false);
      }),
    );
  });

  it("hold large parts as they are, and the rest in one piece between them", () => {
    const large = [new Uint8Array(4_096), new Uint8Array(5_000)] as const;
    const small = [Uint8Array.of(1), Uint8Array.of(2), Uint8Array.of(3)] as const;
    const messages = [[small[0], large[0], small[1], small[2]], [large[1]], [small[0]]];
    const pieces = envelop(messages);
    assert.equal(pieces.length, 5);
    assert.equal(pieces[1], large[0]);
    assert.equal(pieces[3], large[1]);
    const received: Uint8Array[] = [];
    const reader = new EnvelopeReader(10_000);
    for (const piece of pieces) reader.take(piece, received);
    assert.deepEqual(
      received.map((one) => Buffer.from(one)),
      messages.map((parts) => Buffer.concat(parts)),
    );
  });

  it("are known to be incomplete from their first byte to their last", () => {
    const sent = enveloped([[Uint8Array.of(1, 2, 3)]]);
    const reader = new EnvelopeReader(maxBytes);
    const received: Uint8Array[] = [];
    for (const byte of sent.subarray(0, -1)) {
      reader.take(Uint8Array.of(byte), received);
      assert.equal(reader.isInside, true);
    }
    assert.deepEqual(received, []);
    reader.take(sent.subarray(-1), received);
    assert.equal(reader.isInside, false);
    assert.deepEqual(
      received.map((one) => [...one]),
      [[1, 2, 3]],
    );
  });

  for (const [name, bytes, code] of [
    [
      "a message over the limit",
      enveloped([[new Uint8Array(maxBytes + 1)]]),
      Code.ResourceExhausted,
    ],
    ["4 GiB that are only announced", Uint8Array.of(0, 255, 255, 255, 255), Code.ResourceExhausted],
    ["a compressed message", Uint8Array.of(1, 0, 0, 0, 0), Code.Internal],
  ] as const) {
    it(`refuse ${name}, after the messages before it`, () => {
      const received: Uint8Array[] = [];
      const before = enveloped([[Uint8Array.of(7)]]);
      assert.throws(
        () => new EnvelopeReader(maxBytes).take(Buffer.concat([before, bytes]), received),
        (error) => error instanceof ConnectError && error.code === code,
      );
      assert.deepEqual(
        received.map((one) => [...one]),
        [[7]],
      );
    });
  }
});
