/**
 * Sizes and durations as people write them: "2MiB", "15s".
 *
 * Invariant: what `…Text` writes, `parse…` reads back to the same number.
 */

/** Largest first, as the text of a number takes the largest that divides it. */
const byteUnits: Units = [
  ["GiB", 1024 ** 3],
  ["MiB", 1024 ** 2],
  ["KiB", 1024],
  ["", 1],
];

const durationUnits: Units = [
  ["d", 86_400_000],
  ["h", 3_600_000],
  ["m", 60_000],
  ["s", 1_000],
  ["ms", 1],
];

type Units = readonly (readonly [unit: string, factor: number])[];

/** Reads bytes: "64KiB", "1.5GiB" or a plain number; undefined where it is none. */
export function parseBytes(text: string): number | undefined {
  return parse(text, byteUnits);
}

/** Reads a duration into milliseconds: "250ms", "15s", "30m", "12h", "7d"; undefined where it is none. */
export function parseDurationMs(text: string): number | undefined {
  return parse(text, durationUnits);
}

/** A number of bytes, exactly. */
export function bytesText(bytes: number): string {
  return textOf(bytes, byteUnits);
}

/** A duration of whole milliseconds, exactly, in one unit. */
export function exactDurationText(ms: number): string {
  return textOf(ms, durationUnits);
}

function parse(text: string, units: Units): number | undefined {
  const [, number, unit] = /^(\d{1,15}(?:\.\d{1,6})?)([A-Za-z]*)$/.exec(text) ?? [];
  const factor = units.find(([name]) => name.toLowerCase() === unit?.toLowerCase())?.[1];
  const value = factor === undefined ? Number.NaN : Number(number) * factor;
  return Number.isSafeInteger(value) ? value : undefined;
}

function textOf(value: number, units: Units): string {
  const smallest = units.at(-1);
  const [unit, factor] = units.find(
    ([, candidate]) => value >= candidate && value % candidate === 0,
  ) ??
    smallest ?? ["", 1];
  return `${value / factor}${unit}`;
}
