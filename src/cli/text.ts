/**
 * Text of unknown origin on a terminal.
 *
 * Invariant: nothing that a producer wrote can move the cursor, change
 * colours or begin a new line.
 */
import { stripVTControlCharacters } from "node:util";

/** Makes text safe to print on one line: no escape sequences, control characters spelled out. */
export function printable(text: string): string {
  return stripVTControlCharacters(text).replace(
    // biome-ignore lint/suspicious/noControlCharactersInRegex: these are what it is about
    /[\u0000-\u001f\u007f-\u009f\u2028\u2029\u202a-\u202e\u2066-\u2069]/g,
    (character) =>
      named.get(character) ?? `\\u${character.charCodeAt(0).toString(16).padStart(4, "0")}`,
  );
}

const named = new Map([
  ["\n", "\\n"],
  ["\r", "\\r"],
  ["\t", "  "],
]);

/** Cuts to at most `width` characters, with an ellipsis where something is left out. */
export function cut(text: string, width: number): string {
  if (text.length <= width) {
    return text;
  }
  return width < 1 ? "" : `${text.slice(0, width - 1)}…`;
}

/** The same, at the front: of a path the end says most. */
export function cutFront(text: string, width: number): string {
  return text.length <= width ? text : `…${text.slice(text.length - width + 1)}`;
}

/** A duration for people: "340ms", "12.4s", "3m07s", "2h05m". */
export function durationText(ms: number): string {
  if (ms < 1000) {
    return `${Math.max(0, Math.round(ms))}ms`;
  }
  const seconds = ms / 1000;
  if (seconds < 60) {
    return `${seconds.toFixed(1)}s`;
  }
  const minutes = Math.floor(seconds / 60);
  return minutes < 60
    ? `${minutes}m${pad(Math.floor(seconds % 60))}s`
    : `${Math.floor(minutes / 60)}h${pad(minutes % 60)}m`;
}

/** A number of bytes for people: "312 B", "4.5 KiB", "1.2 GiB". */
export function sizeText(bytes: number): string {
  const units = ["B", "KiB", "MiB", "GiB", "TiB"];
  let value = bytes;
  let unit = 0;
  // What would be written as 1024.0 is 1.0 of the next.
  while (value >= (unit === 0 ? 1024 : 1023.95) && unit < units.length - 1) {
    value /= 1024;
    unit++;
  }
  return `${unit === 0 ? value : value.toFixed(1)} ${units[unit]}`;
}

/** "1 run", "2 runs" */
export function countText(count: number | bigint, noun: string): string {
  return `${count} ${noun}${Number(count) === 1 ? "" : "s"}`;
}

function pad(value: number): string {
  return String(value).padStart(2, "0");
}
