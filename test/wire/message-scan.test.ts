/** What is passed by the scan is decoded, and bounded; what no message is never is. */
import assert from "node:assert/strict";
import { isUtf8 } from "node:buffer";
import { create, type DescMessage, fromBinary, toBinary } from "@bufbuild/protobuf";
import { BinaryWriter, WireType } from "@bufbuild/protobuf/wire";
import fc from "fast-check";
import { EventSchema } from "../../gen/runlog/v1/event_pb.js";
import { EventFilterSchema } from "../../gen/runlog/v1/record_pb.js";
import {
  ListRunsRequestSchema,
  RunResultSchema,
  RunSpecSchema,
} from "../../gen/runlog/v1/run_pb.js";
import {
  NamedSubscriptionSchema,
  SubscribeManyRequestSchema,
  SubscribeRequestSchema,
} from "../../gen/runlog/v1/subscribe_pb.js";
import {
  maxJsonDepth,
  maxJsonValues,
  maxListItems,
  maxMessageItems,
  maxPlainFields,
} from "../../src/limits.ts";
import { IngestBytesService } from "../../src/server/ingest-bytes.ts";
import { scanJson } from "../../src/server/json-scan.ts";
import { MalformedMessage, scanMessage } from "../../src/wire/message-scan.ts";
import { messageOf, methods } from "../support/any-message.ts";

/** What the scan says of a message; undefined where it passes. */
function faultOf(
  desc: DescMessage,
  bytes: Uint8Array,
): { field: string; limit?: number } | undefined {
  try {
    scanMessage(desc, bytes, isUtf8);
    return undefined;
  } catch (error) {
    assert.ok(error instanceof MalformedMessage, String(error));
    const { field, limit } = error;
    return limit === undefined ? { field } : { field, limit };
  }
}

function isDecoded(desc: DescMessage, bytes: Uint8Array): boolean {
  try {
    fromBinary(desc, bytes);
    return true;
  } catch {
    return false;
  }
}

/** The same field again and again. */
function repeated(field: number, times: number, body: Uint8Array = new Uint8Array(0)): Uint8Array {
  const writer = new BinaryWriter();
  for (let i = 0; i < times; i++) writer.tag(field, WireType.LengthDelimited).bytes(body);
  return writer.finish();
}

function inside(field: number, body: Uint8Array): Uint8Array {
  return repeated(field, 1, body);
}

describe("the scan of a message", () => {
  it("passes whatever is encoded as usual, of every method", () => {
    for (const { input } of methods) {
      fc.assert(
        fc.property(messageOf(input), (message) => {
          assert.equal(faultOf(input, toBinary(input, message)), undefined);
        }),
        { numRuns: 100 },
      );
    }
  });

  it("passes nothing that cannot be decoded, whatever the bytes are", () => {
    let passed = 0;
    for (const { input } of [...methods, IngestBytesService.method.ingest]) {
      const mutated = fc
        .tuple(
          messageOf(input),
          fc.array(fc.tuple(fc.nat(), fc.nat(255)), { maxLength: 3 }),
          fc.nat(8),
        )
        .map(([message, changes, cut]) => {
          const bytes = Uint8Array.from(toBinary(input, message));
          for (const [at, byte] of changes) if (bytes.length > 0) bytes[at % bytes.length] = byte;
          return bytes.subarray(0, bytes.length - (cut > 6 ? cut : 0));
        });
      fc.assert(
        fc.property(fc.oneof(mutated, fc.uint8Array({ maxLength: 40 })), (bytes) => {
          if (faultOf(input, bytes) !== undefined) return;
          passed++;
          assert.ok(isDecoded(input, bytes), Buffer.from(bytes).toString("hex"));
        }),
        { numRuns: 400 },
      );
    }
    assert.ok(passed > 500, `${passed} passed`);
  });

  it("bounds lists, maps and whatever stands in them", () => {
    const labels = RunSpecSchema.field.labels.number;
    assert.equal(faultOf(RunSpecSchema, repeated(labels, maxListItems)), undefined);
    assert.deepEqual(faultOf(RunSpecSchema, repeated(labels, maxListItems + 1)), {
      field: "labels",
      limit: maxListItems,
    });
    const suppressed = RunResultSchema.field.suppressed.number;
    assert.deepEqual(faultOf(RunResultSchema, repeated(suppressed, 1_000_000)), {
      field: "suppressed",
      limit: maxListItems,
    });
  });

  it("bounds lists that stand in the items of a list, together", () => {
    const { number } = NamedSubscriptionSchema.field.request;
    const { filter } = SubscribeRequestSchema.field;
    const { eventTypes } = EventFilterSchema.field;
    const listOf = (subscriptions: number, types: number) => {
      const body = inside(number, inside(filter.number, repeated(eventTypes.number, types)));
      const list = SubscribeManyRequestSchema.field.subscriptions.number;
      return faultOf(SubscribeManyRequestSchema, repeated(list, subscriptions, body));
    };
    const most = maxMessageItems / 256;
    assert.equal(listOf(256, most - 1), undefined);
    assert.deepEqual(listOf(256, most), {
      field: `subscriptions[255].request.filter.event_types`,
      limit: maxMessageItems,
    });
  });

  it("bounds lists of numbers, packed or not", () => {
    const { number } = ListRunsRequestSchema.field.states;
    const packed = inside(number, new Uint8Array(1_000_000).fill(1));
    const unpacked = new BinaryWriter();
    for (let i = 0; i <= maxListItems; i++) unpacked.tag(number, WireType.Varint).uint32(1);
    for (const bytes of [packed, unpacked.finish()]) {
      assert.deepEqual(faultOf(ListRunsRequestSchema, bytes), {
        field: "states",
        limit: maxListItems,
      });
    }
  });

  it("bounds a list that comes in parts, which are merged", () => {
    const { ingest } = IngestBytesService.method;
    const part = inside(2, repeated(3, 30_000));
    assert.equal(faultOf(ingest.input, Buffer.concat([part, part])), undefined);
    const { field } = faultOf(ingest.input, Buffer.concat([part, part, part]))!;
    assert.equal(field, "append.events");
  });

  it("bounds the fields that are repeated without being lists, and the unknown ones", () => {
    const type = EventSchema.field.type.number;
    for (const field of [type, 99, 1_000]) {
      assert.equal(faultOf(EventSchema, repeated(field, maxPlainFields)), undefined);
      assert.equal(
        faultOf(EventSchema, repeated(field, maxPlainFields + 1))?.limit,
        maxPlainFields,
      );
    }
  });

  it("names where the fault is", () => {
    const result = toBinary(
      RunResultSchema,
      create(RunResultSchema, { suppressed: [{ code: "a" }, { code: "b", detail: "c" }] }),
    );
    const broken = Uint8Array.from(result);
    broken[broken.length - 1] = 0xff;
    assert.deepEqual(faultOf(RunResultSchema, broken), { field: "suppressed[1].detail" });
  });

  it("refuses groups, other types, and what ends too early or never", () => {
    const group = Uint8Array.of(0x53, 0x54);
    const otherType = Uint8Array.of(0x08, 0x01);
    const tooLong = Uint8Array.of(...new Array<number>(11).fill(0xff), 1);
    for (const bytes of [group, otherType, tooLong, Uint8Array.of(0), Uint8Array.of(0x0a, 5, 1)]) {
      assert.notEqual(faultOf(EventSchema, bytes), undefined, Buffer.from(bytes).toString("hex"));
    }
  });
});

describe("the scan of JSON", () => {
  const faultIn = (text: string | Uint8Array): number | "fault" | undefined => {
    try {
      scanJson(typeof text === "string" ? Buffer.from(text) : text);
      return undefined;
    } catch (error) {
      assert.ok(error instanceof MalformedMessage, String(error));
      return error.limit ?? "fault";
    }
  };

  it("passes whatever JSON there is within the bounds", () => {
    fc.assert(
      fc.property(fc.json({ maxDepth: 5 }), (text) => {
        assert.equal(faultIn(text), undefined);
      }),
    );
  });

  it("bounds the number of values and the depth, and takes no text for structure", () => {
    assert.equal(faultIn(`[${"0,".repeat(maxJsonValues)}0]`), maxJsonValues);
    assert.equal(faultIn(`${"[".repeat(maxJsonDepth + 1)}`), maxJsonDepth);
    assert.equal(faultIn(`${'{"a":'.repeat(1_000_000)}`), maxJsonDepth);
    assert.equal(faultIn(JSON.stringify(`\\"${"[{,".repeat(maxJsonValues)}`)), undefined);
    assert.equal(faultIn(`"${"\\".repeat(1_000_001)}`), undefined);
  });

  it("refuses bytes that are not UTF-8", () => {
    assert.equal(faultIn(Uint8Array.of(0x22, 0xff, 0x22)), "fault");
  });
});
