/** Reads quotas as they stand in the access file: `{"streams": 100, "bytes_per_second": 1048576}`. */
import { noQuotas, type QuotaLimits } from "../../quotas.ts";
import { MistakeError, parseObject } from "./parse-grants.ts";

/** What some of the quotas are; the others are as elsewhere in the file, or there are none. */
export type PartialQuotas = Partial<QuotaLimits>;

/** As the file names them. */
const names = {
  streams: "streams",
  subscriptions: "subscriptions",
  open_runs: "openRuns",
  runs_per_minute: "runsPerMinute",
  namespaces_per_hour: "namespacesPerHour",
  bytes_per_second: "bytesPerSecond",
} as const satisfies Record<string, keyof QuotaLimits>;

type Name = keyof typeof names;
const nameList = Object.keys(names) as Name[];

/** Below it a single event would keep an identity waiting for minutes. */
const minBytesPerSecond = 1_024;

/**
 * Reads quotas; null lifts one.
 *
 * @param at their place, for messages
 * @param value undefined: none
 * @throws MistakeError
 */
export function parseQuotas(at: string, value: unknown): PartialQuotas {
  if (value === undefined) return {};
  const quotas = parseObject(at, value, nameList);
  const given = nameList.filter((name) => quotas[name] !== undefined);
  return Object.fromEntries(
    given.map((name) => [names[name], parseQuota(`${at}.${name}`, name, quotas[name])]),
  );
}

function parseQuota(at: string, name: Name, value: unknown): number {
  if (value === null) return Number.POSITIVE_INFINITY;
  const least = name === "bytes_per_second" ? minBytesPerSecond : 0;
  if (typeof value === "number" && Number.isSafeInteger(value) && value >= least) return value;
  throw new MistakeError(at, `must be a whole number, ${least} or more, or null for no quota`);
}

/**
 * What an identity may use by a default and by all that is about it: of several, the largest.
 * Rights add up, and so do these.
 */
export function quotasOf(base: PartialQuotas, about: readonly PartialQuotas[]): QuotaLimits {
  const limits = { ...noQuotas, ...base };
  for (const key of Object.values(names)) {
    const values = about.map((one) => one[key]).filter((one) => one !== undefined);
    if (values.length > 0) limits[key] = Math.max(...values);
  }
  return limits;
}
