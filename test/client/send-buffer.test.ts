import assert from "node:assert/strict";
import fc from "fast-check";
import { ForeignEventsError, JournalWentBackError } from "../../src/client/errors.ts";
import { appendFramingBytes, eventFramingBytes } from "../../src/client/limits.ts";
import { type FrameLimits, type Mark, SendBuffer } from "../../src/client/send-buffer.ts";

const maxEvents = 12;
const maxBytes = 200;

interface Item {
  readonly event: Uint8Array;
  readonly bytes: number;
}

/** A place between two others, as a share of their distance in thousandths. */
const between = (low: number, high: number, share: number) =>
  low + Math.round(((high - low) * share) / 1000);

/** What the buffer should be, in the simplest words: all events ever taken, and three marks. */
class Model {
  /** Position 1 is items[0]. Nothing is ever taken out but what was never sent. */
  items: Item[] = [];
  base: number | undefined;
  acked = 0;
  sent = 0;
  everSent = 0;
  /** Where the frames end that are on their way. */
  frames: number[] = [];
  /** Places, and what came before them. */
  places: { readonly mark: Mark; readonly before: ReadonlySet<Item> }[] = [];

  /** How many items there are before a place. */
  positionOf(before: ReadonlySet<Item>): number {
    return this.items.filter((item) => before.has(item)).length;
  }

  get waiting(): readonly Item[] {
    return this.items.slice(this.acked);
  }

  get hasRoom(): boolean {
    const bytes = this.waiting.reduce((sum, item) => sum + item.bytes, 0);
    return this.waiting.length < maxEvents && bytes < maxBytes;
  }

  frame(limits: FrameLimits, upTo: number): readonly Item[] {
    const unsent = Math.max(0, upTo - this.sent);
    const unacked = this.sent - this.acked;
    const room = Math.min(limits.maxEvents, limits.maxUnackedEvents - unacked, unsent);
    const candidates = this.items.slice(this.sent, this.sent + Math.max(0, room));
    const fits = (items: readonly Item[]) => {
      const bytes = items.reduce((sum, item) => sum + item.bytes, 0);
      const wire = bytes + appendFramingBytes + items.length * eventFramingBytes;
      return items.length <= 1 || (bytes <= limits.maxBytes && wire <= limits.maxAppendBytes);
    };
    const bytes = this.waiting.reduce((sum, item) => sum + item.bytes, 0);
    const isFull = this.items.length - this.sent >= limits.maxEvents || bytes >= limits.maxBytes;
    if (this.frames.length >= 2 && !isFull) return [];
    let count = candidates.length;
    while (!fits(candidates.slice(0, count))) count--;
    return candidates.slice(0, count);
  }
}

type Step =
  | { readonly t: "push" | "drop_over"; readonly bytes: number }
  | { readonly t: "mark" }
  | { readonly t: "frame"; readonly limits: FrameLimits; readonly upTo?: number }
  | { readonly t: "ack"; readonly share: number }
  | { readonly t: "open"; readonly share: number; readonly ours: boolean };

const share = fc.integer({ min: 0, max: 1000 });
const step: fc.Arbitrary<Step> = fc.oneof(
  {
    weight: 5,
    arbitrary: fc.record({ t: fc.constant("push"), bytes: fc.integer({ min: 1, max: 60 }) }),
  },
  {
    weight: 1,
    arbitrary: fc.record({ t: fc.constant("drop_over"), bytes: fc.integer({ min: 20, max: 60 }) }),
  },
  {
    weight: 4,
    arbitrary: fc.record({
      t: fc.constant("frame"),
      limits: fc.record({
        maxEvents: fc.integer({ min: 1, max: 6 }),
        maxBytes: fc.integer({ min: 1, max: 150 }),
        maxAppendBytes: fc.integer({ min: 150, max: 400 }),
        maxUnackedEvents: fc.integer({ min: 1, max: 12 }),
      }),
      upTo: fc.option(fc.nat(), { nil: undefined }),
    }),
  },
  { weight: 2, arbitrary: fc.record({ t: fc.constant("mark") }) },
  { weight: 3, arbitrary: fc.record({ t: fc.constant("ack"), share }) },
  { weight: 2, arbitrary: fc.record({ t: fc.constant("open"), share, ours: fc.boolean() }) },
) as fc.Arbitrary<Step>;

/** Takes a step on both and compares what they answer. */
function take(buffer: SendBuffer, model: Model, action: Step): void {
  switch (action.t) {
    case "push":
      if (model.hasRoom) {
        const event = new Uint8Array(action.bytes).fill(model.items.length);
        model.items.push({ event, bytes: action.bytes });
        buffer.push(event);
      }
      return;
    case "mark":
      model.places.push({ mark: buffer.mark(), before: new Set(model.items) });
      return;
    case "drop_over": {
      const unsent = model.items.slice(model.everSent);
      const over = unsent.filter((item) => item.bytes > action.bytes);
      const rest = unsent.filter((item) => item.bytes <= action.bytes);
      model.items = [...model.items.slice(0, model.everSent), ...rest];
      assert.deepEqual(
        buffer.dropUnsentOver(action.bytes),
        over.map((item) => item.event),
      );
      return;
    }
    case "frame": {
      // The sender sends nothing before the first opening.
      if (model.base === undefined) return;
      // One of the places, or none.
      const place = model.places[(action.upTo ?? 0) % (model.places.length + 1)];
      const upTo = place === undefined ? model.items.length : model.positionOf(place.before);
      const expected = model.frame(action.limits, upTo);
      const frame = buffer.nextFrame(action.limits, place?.mark);
      assert.equal(
        frame?.firstRunSeq,
        expected.length > 0 ? model.base + model.sent + 1 : undefined,
      );
      assert.deepEqual(
        frame?.events ?? [],
        expected.map((item) => item.event),
      );
      assert.equal(
        frame?.bytes ?? 0,
        expected.reduce((sum, item) => sum + item.bytes, 0),
      );
      const resent = Math.min(expected.length, model.everSent - model.sent);
      assert.equal(frame?.resent ?? 0, resent);
      model.sent += expected.length;
      if (expected.length > 0) model.frames.push(model.sent);
      model.everSent = Math.max(model.everSent, model.sent);
      return;
    }
    case "ack": {
      if (model.base === undefined) return;
      const position = between(0, model.everSent, action.share);
      const freed = Math.max(0, Math.min(position, model.sent) - model.acked);
      assert.equal(buffer.ack(model.base + position), freed);
      model.acked += freed;
      model.frames = model.frames.filter((end) => end > position);
      return;
    }
    case "open": {
      if (model.base === undefined) {
        model.base = action.share;
        buffer.opened(action.share, action.ours);
        return;
      }
      const position = between(model.acked, model.everSent, action.share);
      buffer.opened(model.base + position, action.ours);
      if (action.ours) model.acked = position;
      model.sent = model.acked;
      model.frames = [];
      return;
    }
  }
}

describe("the send buffer", () => {
  it("numbers, bounds, frees and sends again as the model says, whatever happens", () => {
    fc.assert(
      fc.property(fc.array(step, { maxLength: 120 }), (steps) => {
        const buffer = new SendBuffer(maxEvents, maxBytes);
        const model = new Model();
        for (const action of steps) {
          take(buffer, model, action);
          assert.equal(buffer.hasRoom, model.hasRoom);
          assert.equal(buffer.unacked, model.waiting.length);
          assert.equal(buffer.inFlight, model.sent - model.acked);
          assert.equal(buffer.durable, model.acked);
          for (const { mark, before } of model.places) {
            const position = model.positionOf(before);
            assert.equal(buffer.isSent(mark), model.sent >= position);
            assert.equal(buffer.isDurable(mark), model.acked >= position);
          }
          if (model.base !== undefined) {
            assert.equal(buffer.sentRunSeq, model.base + model.sent);
          }
        }
      }),
      { numRuns: 500 },
    );
  });

  it("keeps its order while it drops acknowledged events", () => {
    const buffer = new SendBuffer(10_000, 1_000_000);
    const limits = { maxEvents: 700, maxBytes: 1e6, maxAppendBytes: 1e6, maxUnackedEvents: 1e6 };
    buffer.opened(0, true);
    const texts: string[] = [];
    for (let round = 0; round < 12; round++) {
      for (let i = 0; i < 500; i++) buffer.push(Buffer.from(`${round * 500 + i}`));
      const frame = buffer.nextFrame(limits);
      texts.push(...(frame?.events ?? []).map((event) => Buffer.from(event).toString()));
      buffer.ack(texts.length);
    }
    assert.deepEqual(
      texts,
      Array.from({ length: 6_000 }, (_, i) => `${i}`),
    );
    assert.deepEqual([buffer.unacked, buffer.hasRoom], [0, true]);
  });

  it("keeps a frame that is not full while two are on their way, and no other", () => {
    const buffer = new SendBuffer(maxEvents, maxBytes);
    const limits = { maxEvents: 3, maxBytes: 100, maxAppendBytes: 400, maxUnackedEvents: 10 };
    buffer.opened(0, true);
    const sent = (count: number) => {
      for (let i = 0; i < count; i++) buffer.push(Buffer.from("e"));
      return buffer.nextFrame(limits)?.events.length ?? 0;
    };
    assert.deepEqual([sent(1), sent(1), sent(1), sent(1), sent(1)], [1, 1, 0, 0, 3]);
    assert.equal(sent(1), 0);
    buffer.ack(1);
    assert.equal(sent(0), 0, "still two");
    buffer.ack(2);
    assert.equal(sent(0), 1);
  });

  it("refuses a journal that went back, and events that it never sent", () => {
    const buffer = new SendBuffer(maxEvents, maxBytes);
    const limits = { maxEvents: 2, maxBytes: 100, maxAppendBytes: 400, maxUnackedEvents: 10 };
    assert.throws(() => buffer.sentRunSeq, /not been opened/);
    buffer.opened(100, true);
    for (let i = 0; i < 3; i++) buffer.push(Buffer.from("e"));
    buffer.nextFrame(limits);
    assert.throws(
      () => buffer.ack(103),
      (error) => error instanceof ForeignEventsError && error.sentRunSeq === 102,
    );
    assert.equal(buffer.ack(101), 1);
    assert.throws(
      () => buffer.opened(100, true),
      (error) =>
        error instanceof JournalWentBackError &&
        error.acknowledgedRunSeq === 101 &&
        error.lastRunSeq === 100,
    );
    assert.throws(
      () => buffer.opened(103, true),
      (error) => error instanceof ForeignEventsError && error.lastRunSeq === 103,
    );
  });
});
