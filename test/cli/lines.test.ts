import assert from "node:assert/strict";
import fc from "fast-check";
import { eventOfLine } from "../../src/cli/line-event.ts";
import { type Line, type LineEnd, LineSplitter } from "../../src/cli/lines.ts";
import { printable } from "../../src/cli/text.ts";

/** Many that end a line, or that decide whether one may be cut. */
const byte = fc.oneof(
  fc.constantFrom(0x0a, 0x0a, 0x0d, 0x0d, 0x7b, 0xef, 0xbb, 0xbf),
  fc.integer({ min: 0, max: 255 }),
);

/** The lines of a whole input, a byte at a time. */
function linesOf(input: Buffer, maxBytes: number, newlinesOnly: boolean): Line[] {
  const lines: Line[] = [];
  let current: number[] = [];
  const take = (end: LineEnd) => {
    const number = lines.length + 1;
    const isMarked = number === 1 && Buffer.from(current).indexOf("\ufeff") === 0;
    lines.push(
      current.length > maxBytes
        ? { t: "too_long", number, end, size: current.length }
        : { t: "line", number, end, bytes: Uint8Array.from(current.slice(isMarked ? 3 : 0)) },
    );
    current = [];
  };
  for (const [i, value] of input.entries()) {
    const isJson =
      current[0] === 0x7b || current[0] === 0x5b || (lines.length === 0 && current[0] === 0xef);
    if (value === 0x0a) {
      take("newline");
    } else if (value === 0x0d && input[i + 1] !== 0x0a && !isJson && !newlinesOnly) {
      if (current.length > 0) take("carriage-return");
    } else {
      current.push(value);
    }
  }
  if (current.length > 0) take("end-of-input");
  return lines;
}

describe("lines", () => {
  it("are the same however their bytes arrive", () => {
    const maxBytes = 5;
    const chunks = fc.array(fc.array(byte, { maxLength: 12 }).map((bytes) => Buffer.from(bytes)));
    fc.assert(
      fc.property(chunks, fc.boolean(), (parts, newlinesOnly) => {
        const splitter = new LineSplitter({ maxBytes, newlinesOnly });
        const lines = [...parts.flatMap((part) => splitter.push(part)), ...splitter.end()];
        assert.deepEqual(lines, linesOf(Buffer.concat(parts), maxBytes, newlinesOnly));
      }),
      { numRuns: 1_000 },
    );
  });

  it("are cut by a pause where they are no JSON", () => {
    const afterPause = (text: string) => {
      const splitter = new LineSplitter({ maxBytes: 100, newlinesOnly: false });
      splitter.push(Buffer.from(text));
      return splitter.pause().map((line) => [line.end, line.t === "line" ? `${line.bytes}` : ""]);
    };
    assert.deepEqual(afterPause("Password: "), [["pause", `${Buffer.from("Password: ").join()}`]]);
    assert.deepEqual(afterPause("50 %\r"), [["carriage-return", Buffer.from("50 %").join()]]);
    assert.deepEqual(afterPause('{"type":"half'), []);
    assert.deepEqual(afterPause(""), []);
  });

  it("hold no more than the longest line that is taken", () => {
    const splitter = new LineSplitter({ maxBytes: 10, newlinesOnly: false });
    const lines = Array.from({ length: 100 }, () => splitter.push(Buffer.alloc(1_000, "x"))).flat();
    assert.deepEqual(lines, []);
    assert.deepEqual(splitter.end(), [
      { t: "too_long", number: 1, end: "end-of-input", size: 100_000 },
    ]);
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
