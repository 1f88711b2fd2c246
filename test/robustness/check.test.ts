/**
 * The checker of histories: a small history that keeps every promise, and for each promise
 * one that breaks it, which has to be found under that promise's name.
 */
import assert from "node:assert/strict";
import { checkHistory } from "../../robustness/history/check.ts";
import type { CheckBounds } from "../../robustness/history/check-surroundings.ts";
import type { Entry, NewEntry, SeenRecord } from "../../robustness/history/entry.ts";
import type { PromiseName } from "../../robustness/history/violation.ts";
import { expectedCrc, typeAt } from "../../robustness/load/event-bytes.ts";
import { keptWithSignals, signalCases } from "./signal-histories.ts";

const bounds: CheckBounds = { recoveryMs: 10_000 };
const by = "producer";

function eventRecord(seq: number, run: string, runSeq: number, writer = by): SeenRecord {
  const crc = expectedCrc(run, runSeq, writer);
  return { seq, run, runSeq, kind: "event", type: typeAt(runSeq), crc, by: writer, timeMs: seq };
}

/** Two runs, a child of the first, one of them taken over by another producer. */
const records: readonly SeenRecord[] = [
  { seq: 1, run: "a", runSeq: 0, kind: "started", parent: "", timeMs: 1 },
  eventRecord(2, "a", 1),
  eventRecord(3, "a", 2),
  { seq: 4, run: "b", runSeq: 0, kind: "started", parent: "a", timeMs: 4 },
  eventRecord(5, "b", 1, "other"),
  eventRecord(6, "b", 2),
  {
    seq: 7,
    run: "a",
    runSeq: 0,
    kind: "finished",
    state: "SUCCEEDED",
    output: "x",
    lastRunSeq: 2,
    timeMs: 7,
  },
  {
    seq: 8,
    run: "b",
    runSeq: 0,
    kind: "finished",
    state: "LOST",
    output: "",
    lastRunSeq: 2,
    timeMs: 8,
  },
  { seq: 9, run: "b", runSeq: 0, kind: "resumed", timeMs: 9 },
];

const all = { scope: { t: "all" as const }, types: [] };
const family = {
  scope: { t: "ancestor" as const, run: "a", includesSelf: false, maxDepth: 0 },
  types: ["step.*"],
};
const ofFamily = records.filter(({ seq }) => [4, 5, 8, 9].includes(seq));

/** In the order in which it happened; a test changes a copy. */
const kept: readonly NewEntry[] = [
  { t: "begin", seed: 1, nemeses: ["kill"], journal: "sqlite" },
  { t: "opening", run: "a", by, node: "n", attempt: 1 },
  { t: "opened", run: "a", by, attempt: 1, epoch: 1, lastRunSeq: 0 },
  { t: "subscribing", by: "reader", node: "n", after: 0, filter: all, progressMs: 1_000 },
  { t: "subscribed", by: "reader", journalId: "j" },
  { t: "subscribing", by: "relative", node: "n", after: 0, filter: family, progressMs: 1_000 },
  { t: "subscribed", by: "relative", journalId: "j" },
  { t: "sent", run: "a", by, from: 1, to: 2 },
  { t: "fault", name: "kill", phase: "begin" },
  { t: "acked", run: "a", by, runSeq: 2, seq: 3 },
  { t: "records", by: "reader", records: records.slice(0, 3) },
  { t: "opening", run: "b", by: "other", node: "n", attempt: 1 },
  { t: "opened", run: "b", by: "other", attempt: 1, epoch: 1, lastRunSeq: 0 },
  { t: "sent", run: "b", by: "other", from: 1, to: 2 },
  { t: "acked", run: "b", by: "other", runSeq: 1, seq: 5 },
  { t: "opening", run: "b", by, node: "n", attempt: 1 },
  { t: "opened", run: "b", by, attempt: 1, epoch: 2, lastRunSeq: 1 },
  { t: "refused", run: "b", by: "other", reason: "FENCED", message: "fenced" },
  { t: "sent", run: "b", by, from: 2, to: 2 },
  { t: "acked", run: "b", by, runSeq: 2, seq: 6 },
  { t: "unsubscribed", by: "reader", reason: "", code: 14, message: "gone", isLocal: false },
  { t: "recovered", fault: "kill", node: "n", tookMs: 2_000 },
  { t: "fault", name: "kill", phase: "end" },
  { t: "subscribing", by: "reader", node: "n", after: 3, filter: all, progressMs: 1_000 },
  { t: "subscribed", by: "reader", journalId: "j" },
  { t: "records", by: "reader", records: records.slice(3) },
  { t: "records", by: "relative", records: ofFamily },
  { t: "progress", by: "relative", seq: 9 },
  { t: "finishing", run: "a", by, lastRunSeq: 2, state: "SUCCEEDED", output: "x" },
  { t: "ended", run: "a", by, state: "SUCCEEDED", output: "x" },
  { t: "memory", node: "n", rssBytes: 100, maxBytes: 200 },
  { t: "exit", node: "n", status: "SIGKILL", isWanted: true },
  { t: "log", node: "n", line: '{"level":40,"msg":"the database does not answer"}' },
  {
    t: "log",
    node: "n",
    line: '{"err":{"stack":"SqliteError: full\\n    at f (x.ts:1)","code":"SQLITE_FULL"},"msg":"make room"}',
  },
  { t: "journal", reader: "Subscribe", node: "n", records },
  { t: "journal", reader: "ReadEvents", node: "m", records },
  { t: "run", node: "n", run: "a", state: "SUCCEEDED", lastRunSeq: 2 },
  { t: "run", node: "n", run: "b", state: "RUNNING", lastRunSeq: 2 },
];

/** Gives entries their times, 100 ms apart; `at` of one that has its own moves on those after it. */
function timed(entries: readonly (NewEntry & { readonly at?: number })[]): Entry[] {
  let at = 0;
  return entries.map((entry) => {
    at = entry.at ?? at + 100;
    return { ...entry, at } as Entry;
  });
}

/** The promises that a history breaks. */
function broken(entries: readonly (NewEntry & { readonly at?: number })[]): Set<PromiseName> {
  const { violations } = checkHistory(timed(entries), bounds);
  return new Set(violations.map(({ promise }) => promise));
}

/** The entries, with what one of them becomes. */
function changed(
  index: number | ((entry: NewEntry) => boolean),
  to: (entry: never) => readonly (NewEntry & { readonly at?: number })[],
) {
  const at = typeof index === "number" ? index : kept.findIndex(index);
  assert.ok(at >= 0, "no such entry");
  return [...kept.slice(0, at), ...to(kept[at] as never), ...kept.slice(at + 1)];
}

/** The entries with another journal, which all readers and subscribers saw. */
function withJournal(to: (record: SeenRecord) => readonly SeenRecord[]): NewEntry[] {
  return kept.map((entry): NewEntry => {
    if (entry.t !== "records" && entry.t !== "journal") return entry;
    return { ...entry, records: entry.records.flatMap(to) } as NewEntry;
  });
}

const is =
  <T extends Entry["t"]>(t: T, of: Partial<Extract<NewEntry, { t: T }>> = {}) =>
  (entry: NewEntry): boolean =>
    entry.t === t &&
    Object.entries(of).every(([name, value]) => (entry as Record<string, unknown>)[name] === value);

describe("the checker of histories", () => {
  it("finds nothing in a history that keeps every promise, and counts what it checked", () => {
    const verdict = checkHistory(timed(kept), bounds);
    assert.deepEqual(verdict.violations, []);
    assert.equal(verdict.ackedEvents, 4);
    assert.equal(verdict.seenRecords, records.length + ofFamily.length);
    assert.deepEqual([...verdict.faults], [["kill", { times: 1, worstStallMs: 500 }]]);
  });

  it("finds nothing where signals are handled, and waits end, as they should", () => {
    const verdict = checkHistory(timed(keptWithSignals), bounds);
    assert.deepEqual(verdict.violations, []);
    assert.equal(verdict.ackedSignals, 3);
  });

  const cases: [PromiseName, string, readonly (NewEntry & { readonly at?: number })[]][] = [
    [
      "acknowledged is durable",
      "an acknowledged event that is not there",
      withJournal((record) => (record.seq === 3 ? [] : [record])),
    ],
    [
      "acknowledged is durable",
      "an event at another seq than it was acknowledged with",
      changed(is("acked", { run: "a" }), (entry: object) => [{ ...entry, seq: 2 } as NewEntry]),
    ],
    [
      "acknowledged is durable",
      "an acknowledged end that is not there",
      withJournal((record) => (record.seq === 7 ? [] : [record])),
    ],
    [
      "acknowledged is durable",
      "an open that knows less than the one before",
      changed(is("opened", { run: "b", by }), (entry: object) => [
        { ...entry, epoch: 2, lastRunSeq: 1 } as NewEntry,
        { t: "opening", run: "b", by, node: "n", attempt: 2 },
        { t: "opened", run: "b", by, attempt: 2, epoch: 3, lastRunSeq: 0 },
      ]),
    ],
    [
      "bytes are kept",
      "an event with other bytes",
      withJournal((record) => [record.seq === 2 ? { ...record, crc: 1 } : record]),
    ],
    [
      "bytes are kept",
      "an event that nobody sent",
      changed(is("sent", { run: "a" }), (entry: object) => [{ ...entry, to: 1 } as NewEntry]),
    ],
    [
      "seq is dense",
      "a seq that is left out",
      withJournal((record) => [record.seq > 5 ? { ...record, seq: record.seq + 1 } : record]),
    ],
    [
      "run_seq is dense",
      "an event that is there twice",
      withJournal((record) => [record.seq === 6 ? { ...eventRecord(6, "b", 1, "other") } : record]),
    ],
    [
      "record_time does not go back",
      "a record that is older than the one before",
      withJournal((record) => [record.seq === 6 ? { ...record, timeMs: 1 } : record]),
    ],
    [
      "nothing after the end",
      "an event behind its run's end",
      withJournal((record) =>
        record.seq === 3
          ? [{ ...records[6]!, seq: 3, lastRunSeq: 1 }]
          : [record.seq === 7 ? { ...eventRecord(7, "a", 2) } : record],
      ),
    ],
    [
      "the first result stands",
      "an end that was answered as another one",
      changed(is("ended"), (entry: object) => [{ ...entry, output: "y" } as NewEntry]),
    ],
    [
      "epochs grow",
      "an epoch that comes twice",
      changed(is("opened", { run: "b", by }), (entry: object) => [
        { ...entry, epoch: 1 } as NewEntry,
      ]),
    ],
    [
      "producers do not interleave",
      "an event of a producer that no longer had the run",
      withJournal((record) => [record.seq === 6 ? eventRecord(6, "b", 2, "other") : record]),
    ],
    [
      "FENCED takes two owners",
      "FENCED on a run that one producer opened",
      [...kept, { t: "refused", run: "a", by, reason: "FENCED", message: "fenced" }],
    ],
    [
      "refusals are expected",
      "CONFLICT for a producer that keeps to the protocol",
      [...kept, { t: "refused", run: "b", by, reason: "CONFLICT", message: "differs" }],
    ],
    [
      "refusals are expected",
      "INTERNAL from a server",
      [...kept, { t: "refused", by, reason: "", code: 13, message: "internal error" }],
    ],
    [
      "refusals are expected",
      "a subscription that is refused",
      [
        ...kept,
        {
          t: "unsubscribed",
          by: "reader",
          reason: "CURSOR_AHEAD",
          code: 11,
          message: "",
          isLocal: false,
        },
      ],
    ],
    [
      "one sequence for a filter",
      "a record that a subscriber never got",
      changed(is("records", { by: "relative" }), () => [
        { t: "records", by: "relative", records: ofFamily.slice(1) },
      ]),
    ],
    [
      "one sequence for a filter",
      "a record that came twice, over a reconnection",
      changed(is("records", { by: "relative" }), () => [
        { t: "records", by: "relative", records: [ofFamily[0]!, ...ofFamily] },
      ]),
    ],
    [
      "one sequence for a filter",
      "a record that is not in the journal",
      changed(is("records", { by: "relative" }), () => [
        { t: "records", by: "relative", records: [...ofFamily, eventRecord(10, "b", 3)] },
      ]),
    ],
    [
      "one sequence for a filter",
      "a record that the filter does not let pass",
      changed(is("records", { by: "relative" }), () => [
        { t: "records", by: "relative", records: records.slice(3) },
      ]),
    ],
    [
      "a cursor comes to the end",
      "a subscriber that stays behind",
      changed(is("progress"), () => []).map((entry) =>
        entry.t === "records" && entry.by === "relative"
          ? { ...entry, records: ofFamily.slice(0, 2) }
          : entry,
      ),
    ],
    [
      "Progress arrives",
      "a stream on which nothing comes",
      changed(is("progress"), (entry: NewEntry) => [{ ...entry, at: 60_000 }]),
    ],
    [
      "every reader sees one journal",
      "a node with another journal",
      changed(is("journal", { node: "m" }), () => [
        { t: "journal", reader: "ReadEvents", node: "m", records: records.slice(0, 5) },
      ]),
    ],
    [
      "every reader sees one journal",
      "a state that is not what the records say",
      changed(is("run", { run: "a" }), (entry: object) => [
        { ...entry, state: "RUNNING" } as NewEntry,
      ]),
    ],
    [
      "every reader sees one journal",
      "a history whose journal nobody read",
      kept.filter(({ t }) => t !== "journal"),
    ],
    [
      "nothing fails unexpectedly",
      "a stack in a log",
      [...kept, { t: "log", node: "n", line: '{"err":{"stack":"Error\\n    at f (x.ts:1)"}}' }],
    ],
    [
      "a server ends when it is told to",
      "a server that ended by itself",
      [...kept, { t: "exit", node: "n", status: "SIGSEGV", isWanted: false }],
    ],
    [
      "serving again",
      "a node that took too long",
      [...kept, { t: "recovered", fault: "kill", node: "n", tookMs: 11_000 }],
    ],
    [
      "memory is bounded",
      "a server with too much memory",
      [...kept, { t: "memory", node: "n", rssBytes: 201, maxBytes: 200 }],
    ],
    [
      "found by the nemesis",
      "what a nemesis found",
      [...kept, { t: "found", promise: "x", what: "y" }],
    ],
  ];
  for (const [promise, what, entries] of [...cases, ...signalCases]) {
    it(`finds ${what}: ${promise}`, () => {
      assert.ok(broken(entries).has(promise), [...broken(entries)].join(", ") || "nothing");
    });
  }

  it("has a case for every promise", async () => {
    const { readFile } = await import("node:fs/promises");
    const source = await readFile(
      new URL("../../robustness/history/violation.ts", import.meta.url),
      "utf8",
    );
    const names = [...source.matchAll(/^ {2}\| "([^"]+)"/gm)].map(([, name]) => name!);
    assert.ok(names.length > 15);
    const covered = new Set<string>([...cases, ...signalCases].map(([promise]) => promise));
    assert.deepEqual(
      names.filter((name) => !covered.has(name)),
      [],
    );
  });
});
