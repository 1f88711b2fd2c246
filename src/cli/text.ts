/**
 * Text of unknown origin on a terminal.
 *
 * Invariants: nothing that a producer wrote can move the cursor, change colours, begin a
 * new line, reorder what stands beside it, or hide; and what is laid out in columns is
 * measured in columns, not in code units.
 */
import { stripVTControlCharacters } from "node:util";
import stringWidth from "string-width";

/**
 * Code points that steer a terminal or cannot be seen: controls, formats (bidi, zero width,
 * soft hyphen, tags), halves of surrogate pairs, separators of lines, and the letters and
 * marks that are drawn as nothing. Spaces are seen; so are private ones, by a box.
 */
const unseen =
  /\p{Cc}|\p{Cf}|\p{Cs}|\p{Zl}|\p{Zp}|\p{Variation_Selector}|\p{Default_Ignorable_Code_Point}/u;
const everyUnseen = new RegExp(unseen, "gu");
/** What joins the parts of one emoji, or chooses its form: seen, where it follows one. */
const emojiJoiner = /^(?:\u200d|\ufe0f)$/u;
const emojiAtEnd = /(?:\p{Extended_Pictographic}|\p{Emoji_Modifier}|[#*0-9]|\ufe0f)$/u;

/** Makes text safe to print on one line: no escape sequences, what cannot be seen spelled out. */
export function printable(text: string): string {
  if (!unseen.test(text)) return text;
  return stripVTControlCharacters(text).replace(
    everyUnseen,
    (character, at: number, all: string) =>
      emojiJoiner.test(character) && emojiAtEnd.test(all.slice(0, at))
        ? character
        : (named.get(character) ?? escaped(character)),
  );
}

/** JSON that means the same, with what steers a terminal or cannot be seen as `\uXXXX`. */
export function printableJson(json: string): string {
  return json.replace(everyUnseen, (character) =>
    Array.from({ length: character.length }, (_, i) => hex(character.charCodeAt(i))).join(""),
  );
}

const named = new Map([
  ["\n", "\\n"],
  ["\r", "\\r"],
  ["\t", "  "],
]);

function escaped(character: string): string {
  const codePoint = character.codePointAt(0)!;
  return codePoint > 0xffff ? `\\u{${codePoint.toString(16)}}` : hex(codePoint);
}

function hex(codeUnit: number): string {
  return `\\u${codeUnit.toString(16).padStart(4, "0")}`;
}

/** Printable ASCII takes a column a character, and most output is that. */
const asciiOnly = /^[\u0020-\u007e]*$/;
const graphemes = new Intl.Segmenter(undefined, { granularity: "grapheme" });

/** Columns that a printable text takes on a terminal. */
export function widthOf(text: string): number {
  return asciiOnly.test(text) ? text.length : stringWidth(text);
}

/** Cuts a printable text to at most `columns`, with an ellipsis where something is left out. */
export function cut(text: string, columns: number): string {
  if (widthOf(text) <= columns) return text;
  return columns < 1 ? "" : `${take(segmentsOf(text, columns), columns - 1).join("")}…`;
}

/** The same, at the front: of a path the end says most. */
export function cutFront(text: string, columns: number): string {
  if (widthOf(text) <= columns) return text;
  const backward = [...graphemes.segment(text)].map(({ segment }) => segment).reverse();
  return `…${take(backward, columns - 1)
    .reverse()
    .join("")}`;
}

/** Fills a printable text up to a column with spaces. */
export function fill(text: string, columns: number): string {
  return text + " ".repeat(Math.max(0, columns - widthOf(text)));
}

/** The graphemes at the beginning, as many as can matter for so many columns. */
function* segmentsOf(text: string, columns: number): Generator<string> {
  // A grapheme of no width has a bound of its own: 64 code units for each column.
  for (const { segment } of graphemes.segment(text.slice(0, (columns + 1) * 64))) yield segment;
}

function take(segments: Iterable<string>, columns: number): string[] {
  const taken: string[] = [];
  let left = columns;
  for (const segment of segments) {
    left -= widthOf(segment);
    if (left < 0) break;
    taken.push(segment);
  }
  return taken;
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
