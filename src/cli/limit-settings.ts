/**
 * Limits as an operator sets them: `name=value`, on the command line or in the
 * environment.
 *
 * Invariant: what passes here is within every range and fits together; all
 * that is wrong is reported at once.
 */
import {
  appendRoomBytes,
  defaultLimits,
  type LimitName,
  type LimitRange,
  type LimitSpec,
  type Limits,
  type LimitUnit,
  limitSpecs,
} from "../limits.ts";
import { bytesText, exactDurationText, parseBytes, parseDurationMs } from "./quantities.ts";
import { printable } from "./text.ts";

/** A limit that has a name outside the code. */
export interface OfferedLimit {
  readonly key: LimitName;
  /** In kebab-case, without the unit of a duration: its value has one. */
  readonly name: string;
  readonly spec: LimitSpec & { readonly range: LimitRange };
}

/** Where a setting stands, and what it says. */
export interface LimitSetting {
  /** For messages: "--limit" or "RUNLOG_LIMITS". */
  readonly source: string;
  readonly text: string;
}

/** What the settings come to. */
export type ParsedLimits =
  | { readonly t: "limits"; readonly limits: Limits }
  /** One line each. */
  | { readonly t: "mistakes"; readonly mistakes: readonly string[] };

/** The limits that an operator may set, in the order of the table. */
export const offeredLimits: readonly OfferedLimit[] = Object.entries<LimitSpec>(limitSpecs).flatMap(
  ([key, spec]) =>
    spec.range === undefined
      ? []
      : [{ key: key as LimitName, name: nameOf(key), spec: { ...spec, range: spec.range } }],
);

const byName = new Map(offeredLimits.map((limit) => [limit.name, limit]));

/** Reads settings; a later one overrides an earlier one of the same name. */
export function parseLimits(settings: readonly LimitSetting[]): ParsedLimits {
  const given: { [Name in LimitName]?: number } = {};
  const mistakes: string[] = [];
  let anyUnknown = false;
  for (const { source, text } of settings) {
    const wrong = (problem: string) => mistakes.push(`${source} ${printable(text)}: ${problem}`);
    const [, name, value] = /^([^=]+)=(.*)$/s.exec(text) ?? [];
    const limit = byName.get(name ?? "");
    if (name === undefined || value === undefined) {
      wrong("use name=value");
    } else if (limit === undefined) {
      anyUnknown = true;
      wrong("no such limit");
    } else {
      const number = parseValue(value, limit.spec.unit);
      const { min, max } = limit.spec.range;
      if (number === undefined) wrong(`use ${forms[limit.spec.unit]}`);
      else if (number < min || number > max) wrong(`must be ${rangeText(limit)}`);
      else given[limit.key] = number;
    }
  }
  if (anyUnknown) mistakes.push(`the limits are ${[...byName.keys()].join(", ")}`);
  const limits = { ...defaultLimits, ...given };
  mistakes.push(...contradictions(limits));
  return mistakes.length > 0 ? { t: "mistakes", mistakes } : { t: "limits", limits };
}

/** A limit's value as it is written in a setting. */
export function limitText(value: number, unit: LimitUnit): string {
  switch (unit) {
    case "bytes":
      return bytesText(value);
    case "milliseconds":
      return exactDurationText(value);
    case "count":
      return String(value);
  }
}

/** "1KiB to 16MiB" */
export function rangeText({ spec }: OfferedLimit): string {
  const { min, max } = spec.range;
  return `${limitText(min, spec.unit)} to ${limitText(max, spec.unit)}`;
}

/** One line for each limit, for `--help`. */
export function limitLines(): string[] {
  const names = Math.max(...offeredLimits.map(({ name }) => name.length));
  return offeredLimits.map(({ name, spec }) => {
    const value = limitText(spec.default, spec.unit);
    return `  ${name.padEnd(names)}  ${value.padEnd(7)} ${spec.what}`;
  });
}

const forms: Readonly<Record<LimitUnit, string>> = {
  bytes: "bytes: a number, or one with KiB, MiB or GiB",
  milliseconds: "a duration: a number with ms, s, m, h or d",
  count: "a whole number",
};

function parseValue(text: string, unit: LimitUnit): number | undefined {
  switch (unit) {
    case "bytes":
      return parseBytes(text);
    case "milliseconds":
      return parseDurationMs(text);
    case "count":
      return /^\d{1,15}$/.test(text) ? Number(text) : undefined;
  }
}

const memoryUses = { tailBytes: "the tail", maxMessageBytes: "messages" } as const;

/** What each limit alone allows and all together do not. */
function contradictions(limits: Limits): string[] {
  const told = (key: LimitName) =>
    `${nameOf(key)} (${limitText(limits[key], limitSpecs[key].unit)})`;
  const problems: string[] = [];
  if (limits.maxEventBytes + appendRoomBytes > limits.maxAppendBytes) {
    problems.push(
      `${told("maxAppendBytes")} must be at least ${bytesText(appendRoomBytes)} above ` +
        `${told("maxEventBytes")}: an append has at least one event`,
    );
  }
  if (2 * limits.maxAppendBytes > limits.maxMessageBytes) {
    problems.push(
      `${told("maxMessageBytes")} must be at least twice ${told("maxAppendBytes")}: ` +
        "an append must fit into one message with its framing",
    );
  }
  for (const key of ["tailBytes", "maxMessageBytes"] as const) {
    if (4 * limits[key] <= limits.memoryBytes) continue;
    problems.push(
      `${told("memoryBytes")} must be at least four times ${told(key)}: ${memoryUses[key]} may use a quarter of it`,
    );
  }
  return problems;
}

function nameOf(key: string): string {
  return key.replace(/Ms$/, "").replace(/[A-Z]/g, (letter) => `-${letter.toLowerCase()}`);
}
