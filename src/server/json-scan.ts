/**
 * Walks a message in JSON before any of it is decoded: whether it is UTF-8,
 * and whether there are no more values in it, and no deeper, than a message may
 * hold. Whether it is JSON at all, its parser says.
 */
import { isUtf8 } from "node:buffer";
import { maxJsonDepth, maxJsonValues } from "../limits.ts";
import { MalformedMessage } from "../wire/message-scan.ts";

const quote = 0x22;
const backslash = 0x5c;
const comma = 0x2c;
const openBracket = 0x5b;
const closeBracket = 0x5d;
const openBrace = 0x7b;
const closeBrace = 0x7d;

/**
 * Checks the bytes of a message in JSON.
 *
 * @throws MalformedMessage where they are not UTF-8, or hold more than a message may
 */
export function scanJson(bytes: Uint8Array): void {
  if (!isUtf8(bytes)) throw new MalformedMessage("", "is not UTF-8");
  let values = 1;
  let depth = 0;
  for (let at = 0; at < bytes.length; at++) {
    switch (bytes[at]) {
      case quote:
        at = endOfText(bytes, at + 1);
        break;
      case openBracket:
      case openBrace:
        values++;
        if (++depth > maxJsonDepth) {
          const problem = `is nested more than ${maxJsonDepth} deep`;
          throw new MalformedMessage("", problem, maxJsonDepth);
        }
        break;
      case closeBracket:
      case closeBrace:
        depth--;
        break;
      case comma:
        values++;
        break;
      default:
    }
    if (values > maxJsonValues) {
      const problem = `has more than ${maxJsonValues} values`;
      throw new MalformedMessage("", problem, maxJsonValues);
    }
  }
}

/** Where the quote stands that ends a text. */
function endOfText(bytes: Uint8Array, start: number): number {
  let at = start;
  while (at < bytes.length && bytes[at] !== quote) at += bytes[at] === backslash ? 2 : 1;
  return at;
}
