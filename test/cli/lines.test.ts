import assert from "node:assert/strict";
import fc from "fast-check";
import { eventOfLine } from "../../src/cli/line-event.ts";
import { type Line, LineSplitter } from "../../src/cli/lines.ts";
import { printable } from "../../src/cli/text.ts";

/** Many newlines, or no line would ever end. */
const byte = fc.oneof(fc.constant(0x0a), fc.integer({ min: 0, max: 255 }));

describe("lines", () => {
  it("are the same however their bytes arrive", () => {
    const maxBytes = 5;
    const chunks = fc.array(fc.array(byte, { maxLength: 12 }).map((bytes) => Buffer.from(bytes)));
    fc.assert(
      fc.property(chunks, (parts) => {
        const splitter = new LineSplitter(maxBytes);
        const lines = [...parts.flatMap((part) => splitter.push(part)), ...splitter.end()];
        const texts = Buffer.concat(parts).toString("latin1").split("\n");
        // Input that ends with a newline has no line behind it.
        if (texts.at(-1) === "") texts.pop();
        const expected: Line[] = texts.map((text, i) =>
          text.length > maxBytes
            ? { t: "too_long", number: i + 1, size: text.length }
            : { t: "line", number: i + 1, bytes: Uint8Array.from(Buffer.from(text, "latin1")) },
        );
        assert.deepEqual(lines, expected);
      }),
    );
  });

  it("name their type themselves where it can be one", () => {
    const typeOf = (line: string | Buffer) => {
      const { type, contentType } = eventOfLine(Buffer.from(line), {});
      return [type, contentType];
    };
    const json = "application/json";
    const expected: readonly (readonly [string | Buffer, string, string])[] = [
      ['{"type":"a.b"}', "a.b", json],
      [`{"type":"${"x".repeat(128)}"}`, "x".repeat(128), json],
      [`{"type":"${"x".repeat(129)}"}`, "line", json],
      [`{"type":"${"ä".repeat(65)}"}`, "line", json],
      ['{"type":"\\ud800"}', "line", json],
      ['{"type":""}', "line", json],
      ['{"type":"a\\nb"}', "line", json],
      ['{"type":"\\u001b[31m"}', "line", json],
      ['{"type":7}', "line", json],
      ['{"__proto__":{"type":"p"}}', "line", json],
      ['["type"]', "line", json],
      ["null", "line", json],
      ["42", "line", json],
      ["", "line", "text/plain"],
      ['{"type":', "line", "text/plain"],
      ["plain", "line", "text/plain"],
      [Buffer.from([0x22, 0xff, 0x22]), "line", "text/plain"],
    ];
    for (const [line, type, contentType] of expected) {
      assert.deepEqual(typeOf(line), [type, contentType], String(line).slice(0, 40));
    }
  });

  it("stay on one line of a terminal, whatever a producer wrote", () => {
    const text = fc.string({
      unit: fc.integer({ min: 0, max: 0x2100 }).map((c) => String.fromCharCode(c)),
    });
    // biome-ignore lint/suspicious/noControlCharactersInRegex: these are what it is about
    const steering = /[\u0000-\u001f\u007f-\u009f\u2028\u2029\u202a-\u202e]/;
    fc.assert(fc.property(text, (written) => assert.doesNotMatch(printable(written), steering)));
    assert.equal(printable("a\u001b[31mb\nc\u0007"), "ab\\nc\\u0007");
  });
});
