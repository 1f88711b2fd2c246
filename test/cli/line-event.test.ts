import assert from "node:assert/strict";
import { eventOfLine } from "../../src/cli/line-event.ts";

/** What a line is to JSON.parse. */
function isJson(line: string): boolean {
  try {
    JSON.parse(line);
    return true;
  } catch {
    return false;
  }
}

describe("a line as an event", () => {
  const texts = [
    "{}",
    "[]",
    '""',
    "0",
    "-1",
    "1.5e-3",
    "1E9",
    "true",
    "false",
    "null",
    '{"a":[1]}',
  ];
  const others = [
    "",
    " ",
    "{",
    "}",
    '"',
    "-",
    "tree",
    "null!",
    "0x1",
    "[}",
    "name",
    "1e",
    "\u00a00",
  ];
  const spaces = ["", " ", "\t", "\r", " \r\t"];

  it("is JSON wherever it parses as JSON, with spaces around it, and nowhere else", () => {
    for (const text of [...texts, ...others]) {
      for (const before of spaces) {
        for (const after of spaces) {
          const line = before + text + after;
          const { contentType } = eventOfLine(new TextEncoder().encode(line), {});
          const expected = isJson(line) ? "application/json" : "text/plain";
          assert.equal(contentType, expected, JSON.stringify(line));
        }
      }
    }
  });

  it("is not parsed where it cannot be JSON: an error for each line of text would take long", () => {
    const { parse } = JSON;
    let parsed = 0;
    JSON.parse = (text: string) => {
      parsed++;
      return parse(text) as unknown;
    };
    try {
      for (const line of ["looking around", "2026-11-27 started", "[info] started", "testing"]) {
        eventOfLine(new TextEncoder().encode(line), {});
      }
    } finally {
      JSON.parse = parse;
    }
    assert.equal(parsed, 0);
  });
});
