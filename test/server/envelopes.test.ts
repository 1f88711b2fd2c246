import assert from "node:assert/strict";
import fc from "fast-check";
import {
  EnvelopeError,
  EnvelopeReader,
  envelop,
  type MessageParts,
} from "../../src/wire/envelope.ts";

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

  it("are the same messages and the same refusal for any bytes, however they are cut, and copied about once", () => {
    const bytes = fc.oneof(
      fc.uint8Array({ maxLength: 3_000 }),
      fc
        .tuple(fc.array(fc.uint8Array({ maxLength: maxBytes })), fc.uint8Array({ maxLength: 8 }))
        .map(([messages, rest]) => Buffer.concat([enveloped(messages.map((one) => [one])), rest])),
    );
    const read = (chunks: readonly Uint8Array[]) => {
      const reader = new EnvelopeReader(maxBytes);
      const messages: Uint8Array[] = [];
      try {
        for (const chunk of chunks) reader.take(chunk, messages);
      } catch (error) {
        return {
          messages: messages.map((one) => [...one]),
          refused: (error as EnvelopeError).message,
        };
      }
      return { messages: messages.map((one) => [...one]), isInside: reader.isInside };
    };
    fc.assert(
      fc.property(bytes, fc.array(fc.nat(), { maxLength: 20 }), (sent, places) => {
        const expected = read([sent]);
        assert.deepEqual(read(cut(sent, places)), expected);
        assert.deepEqual(read(cut(sent, [...sent.keys()])), expected);
      }),
    );
  });

  it("cost what their bytes do, in pieces of one byte", () => {
    const length = 1024 * 1024;
    const sent = enveloped([[new Uint8Array(length)]]);
    const { set } = Uint8Array.prototype;
    const { copy } = Buffer.prototype;
    let copied = 0;
    const reader = new EnvelopeReader(length);
    const received: Uint8Array[] = [];
    try {
      Uint8Array.prototype.set = function (from, at) {
        copied += from.length;
        set.call(this, from, at);
      };
      Buffer.prototype.copy = function (...args: Parameters<typeof copy>) {
        const bytes = copy.apply(this, args);
        copied += bytes;
        return bytes;
      };
      for (let at = 0; at < sent.length; at++) reader.take(sent.subarray(at, at + 1), received);
    } finally {
      Uint8Array.prototype.set = set;
      Buffer.prototype.copy = copy;
    }
    assert.equal(received[0]?.length, length);
    assert.ok(copied <= 3 * sent.length, `${copied} bytes copied`);
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

  for (const [name, bytes, problem] of [
    ["a message over the limit", enveloped([[new Uint8Array(maxBytes + 1)]]), "too_large"],
    ["4 GiB that are only announced", Uint8Array.of(0, 255, 255, 255, 255), "too_large"],
    ["a compressed message", Uint8Array.of(1, 0, 0, 0, 0), "compressed"],
  ] as const) {
    it(`refuse ${name}, after the messages before it`, () => {
      const received: Uint8Array[] = [];
      const before = enveloped([[Uint8Array.of(7)]]);
      assert.throws(
        () => new EnvelopeReader(maxBytes).take(Buffer.concat([before, bytes]), received),
        (error) => error instanceof EnvelopeError && error.problem === problem,
      );
      assert.deepEqual(
        received.map((one) => [...one]),
        [[7]],
      );
    });
  }
});
