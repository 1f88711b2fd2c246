/** The tags that are written by hand are those of the contract. */
import assert from "node:assert/strict";
import type { DescField, DescMessage } from "@bufbuild/protobuf";
import { ScalarType } from "@bufbuild/protobuf";
import { WireType } from "@bufbuild/protobuf/wire";
import { file_google_protobuf_timestamp } from "@bufbuild/protobuf/wkt";
import { file_runlog_v1_event } from "../../gen/runlog/v1/event_pb.js";
import { file_runlog_v1_ingest } from "../../gen/runlog/v1/ingest_pb.js";
import { file_runlog_v1_record } from "../../gen/runlog/v1/record_pb.js";
import { file_runlog_v1_subscribe } from "../../gen/runlog/v1/subscribe_pb.js";
import * as tags from "../../src/wire/tags.ts";

const files = [
  file_google_protobuf_timestamp,
  file_runlog_v1_event,
  file_runlog_v1_ingest,
  file_runlog_v1_record,
  file_runlog_v1_subscribe,
];

function wireTypeOf({ fieldKind, scalar }: DescField): WireType {
  if (fieldKind === "map" || fieldKind === "message" || scalar === undefined) {
    return fieldKind === "enum" ? WireType.Varint : WireType.LengthDelimited;
  }
  switch (scalar) {
    case ScalarType.STRING:
    case ScalarType.BYTES:
      return WireType.LengthDelimited;
    case ScalarType.DOUBLE:
    case ScalarType.FIXED64:
    case ScalarType.SFIXED64:
      return WireType.Bit64;
    case ScalarType.FLOAT:
    case ScalarType.FIXED32:
    case ScalarType.SFIXED32:
      return WireType.Bit32;
    default:
      return WireType.Varint;
  }
}

/** appendRunId for Append.run_id. */
function nameOf(message: DescMessage, field: DescField): string {
  const upper = field.localName.charAt(0).toUpperCase() + field.localName.slice(1);
  return message.name.charAt(0).toLowerCase() + message.name.slice(1) + upper;
}

/** Every tag of the contract, by its name here. */
const expected = new Map<string, number>();
for (const { messages } of files) {
  for (const message of messages) {
    for (const field of message.fields) {
      const name = nameOf(message, field);
      assert.ok(!expected.has(name), `${name} is two tags`);
      expected.set(name, (field.number << 3) | wireTypeOf(field));
      if (field.fieldKind !== "map") continue;
      // A map is a list of messages with a key, 1, and a value, 2; all of runlog's are of texts.
      expected.set(`${name}Key`, (1 << 3) | WireType.LengthDelimited);
      expected.set(`${name}Value`, (2 << 3) | WireType.LengthDelimited);
    }
  }
}

describe("tags", () => {
  for (const [name, tag] of Object.entries(tags)) {
    it(`has ${name} as the contract has it`, () => {
      assert.equal(tag, expected.get(name));
      assert.ok(tag < 0x80, "a tag is one byte here");
    });
  }
});
