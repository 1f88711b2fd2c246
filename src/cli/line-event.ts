/**
 * A line of text as an event: the line is the payload, whatever it holds; its
 * own string field `type` becomes the event's type where it is one.
 */

import { isValidType } from "../client/event-bytes.ts";
import type { EventInit } from "../client/index.ts";

/** The type of a line that names none of its own. */
const defaultLineType = "line";

// fatal: bytes that are not UTF-8 are not JSON. ignoreBOM: neither is a BOM.
const strictUtf8 = new TextDecoder("utf-8", { fatal: true, ignoreBOM: true });

/** The type of the event that stands for a line, or an event, that could not be recorded. */
export const droppedType = "runlog.dropped";

/** The attribute that says what ended a line other than a newline. */
export const lineEndAttribute = "line-end";

/** Stands in the log for a missing line: its type where it had one, its size, and the limit. */
export function droppedEvent(
  what: { readonly type?: string; readonly bytes: number; readonly limit: number },
  attributes: Readonly<Record<string, string>>,
): EventInit {
  return {
    type: droppedType,
    data: new TextEncoder().encode(JSON.stringify(what)),
    attributes: { ...attributes },
  };
}

/** Builds the event of one line. */
export function eventOfLine(
  bytes: Uint8Array,
  attributes: Readonly<Record<string, string>>,
): EventInit {
  const json = parseJson(bytes);
  return {
    type: json === undefined ? defaultLineType : typeOf(json.value),
    data: bytes,
    contentType: json === undefined ? "text/plain" : "application/json",
    attributes: { ...attributes },
  };
}

/** By the byte that JSON begins with, what it may end with, but for spaces. */
const jsonEnds: ReadonlyMap<string, string> = new Map([
  ...([
    ["{", "}"],
    ["[", "]"],
    ['"', '"'],
    ["t", "e"],
    ["f", "e"],
    ["n", "l"],
  ] as const),
  ...[..."-0123456789"].map((first) => [first, "0123456789"] as const),
]);
/** What JSON may have around it: space, tab, carriage return, newline. */
const jsonSpaces: ReadonlySet<number> = new Set([0x20, 0x09, 0x0d, 0x0a]);

/** Whether it begins and ends as JSON does: most lines are text, and to learn that by an error takes long. */
function maybeJson(bytes: Uint8Array): boolean {
  const first = bytes.find((byte) => !jsonSpaces.has(byte));
  const last = bytes.findLast((byte) => !jsonSpaces.has(byte));
  if (first === undefined || last === undefined) return false;
  const ends = jsonEnds.get(String.fromCharCode(first));
  return ends?.includes(String.fromCharCode(last)) ?? false;
}

function parseJson(bytes: Uint8Array): { readonly value: unknown } | undefined {
  if (!maybeJson(bytes)) return undefined;
  try {
    return { value: JSON.parse(strictUtf8.decode(bytes)) as unknown };
  } catch {
    return undefined;
  }
}

/** The object's own `type`, where it can be an event's. */
function typeOf(value: unknown): string {
  if (typeof value !== "object" || value === null || !Object.hasOwn(value, "type")) {
    return defaultLineType;
  }
  const { type } = value as { readonly type: unknown };
  return typeof type === "string" && isValidType(type) ? type : defaultLineType;
}
