/** What subscribers were promised: one sequence for a filter, however they resumed; Progress. */
import { isSame, type Journal, told } from "./check-journal.ts";
import type { Entry, SeenFilter, SeenRecord } from "./entry.ts";
import { type Family, familyOf, matches } from "./filter-model.ts";
import type { Violation } from "./violation.ts";

/** Milliseconds that a Progress may come late on a busy machine. */
const lateMs = 4_000;
/** Milliseconds after a fault's end in which nothing is asked of Progress. */
const settlingMs = 1_000;

interface Subscriber {
  filter: SeenFilter;
  /** The first cursor. */
  readonly after: number;
  cursor: number;
  seen: SeenRecord[];
  /** While a stream is open: since when nothing came. */
  silentSince: number | undefined;
  progressMs: number;
}

/** Checks what each subscriber received, over all its streams. */
export function checkSubscribers(entries: readonly Entry[], journal: Journal): Violation[] {
  const found: Violation[] = [];
  const longestQuietMs = quietTimes(entries);
  const subscribers = new Map<string, Subscriber>();
  const heard = (by: string, at: number): Subscriber | undefined => {
    const subscriber = subscribers.get(by);
    if (subscriber?.silentSince === undefined) return undefined;
    const silentMs = longestQuietMs(subscriber.silentSince, at);
    if (silentMs > subscriber.progressMs + lateMs) {
      const what = `${by} heard nothing for ${Math.round(silentMs / 1000)} s, asked for ${subscriber.progressMs} ms`;
      found.push({ promise: "Progress arrives", what });
    }
    subscriber.silentSince = at;
    return subscriber;
  };
  for (const entry of entries) {
    switch (entry.t) {
      case "subscribing": {
        const { by, filter, after, progressMs } = entry;
        const known = subscribers.get(by);
        if (known === undefined) {
          const fresh = {
            filter,
            after,
            cursor: after,
            seen: [],
            silentSince: undefined,
            progressMs,
          };
          subscribers.set(by, fresh);
        }
        break;
      }
      case "subscribed": {
        const subscriber = subscribers.get(entry.by);
        if (subscriber !== undefined) subscriber.silentSince = entry.at;
        break;
      }
      case "records": {
        const subscriber = heard(entry.by, entry.at);
        if (subscriber === undefined) break;
        subscriber.seen.push(...entry.records);
        subscriber.cursor = entry.records.at(-1)?.seq ?? subscriber.cursor;
        break;
      }
      case "progress": {
        const subscriber = heard(entry.by, entry.at);
        if (subscriber === undefined) break;
        if (entry.seq < subscriber.cursor) {
          const what = `${entry.by}: Progress ${entry.seq} behind its cursor ${subscriber.cursor}`;
          found.push({ promise: "one sequence for a filter", what });
        }
        subscriber.cursor = Math.max(subscriber.cursor, entry.seq);
        break;
      }
      case "unsubscribed": {
        const subscriber = heard(entry.by, entry.at);
        if (subscriber !== undefined) subscriber.silentSince = undefined;
        found.push(...checkEnd(entry));
        break;
      }
      default:
      // What others did.
    }
  }
  const family = familyOf(journal.records);
  for (const [by, subscriber] of subscribers) {
    found.push(...checkSequence(by, subscriber, journal, family));
  }
  return found;
}

function checkSequence(
  by: string,
  { filter, after, cursor, seen }: Subscriber,
  journal: Journal,
  family: Family,
): Violation[] {
  const last = journal.records.at(-1)?.seq ?? 0;
  const expected = journal.records.filter(
    (record) => record.seq > after && record.seq <= cursor && matches(filter, record, family),
  );
  for (let at = 0; at < Math.max(expected.length, seen.length); at++) {
    if (isSame(expected[at], seen[at])) continue;
    const what = `${by} (${JSON.stringify(filter)}) at place ${at}: ${told(seen[at])} instead of ${told(expected[at])}`;
    return [{ promise: "one sequence for a filter", what }];
  }
  if (cursor >= last) return [];
  return [{ promise: "a cursor comes to the end", what: `${by} stays at ${cursor} of ${last}` }];
}

/** Ends without a detail are a connection's; those with one have to be ones that a subscriber may get. */
function checkEnd({
  by,
  reason,
  code,
  message,
  isLocal,
}: Extract<Entry, { t: "unsubscribed" }>): Violation[] {
  if (isLocal || ["DRAINING", "JOURNAL_UNAVAILABLE", "OVERLOADED"].includes(reason)) return [];
  const isBroken = /RST_STREAM|Stream removed|stream closed|GOAWAY/i.test(message);
  if (reason === "" && ((code !== 13 && code !== 2 && code !== 15) || isBroken)) return [];
  return [{ promise: "refusals are expected", what: `${by}: ${reason} ${code} ${message}` }];
}

/** Tells how long a span of time was, at a stretch, free of faults and of what follows them. */
function quietTimes(entries: readonly Entry[]): (from: number, to: number) => number {
  const quiet: { from: number; to: number }[] = [];
  let isFault = false;
  let from = 0;
  for (const entry of entries) {
    if (entry.t !== "fault") continue;
    if (entry.phase === "begin" && !isFault) quiet.push({ from, to: entry.at });
    isFault = entry.phase === "begin";
    from = entry.at + settlingMs;
  }
  if (!isFault) quiet.push({ from, to: Number.POSITIVE_INFINITY });
  return (begin, end) =>
    Math.max(0, ...quiet.map((span) => Math.min(end, span.to) - Math.max(begin, span.from)));
}
