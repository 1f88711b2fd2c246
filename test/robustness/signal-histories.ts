/** A history with signals, waits and their ends that keeps every promise, and ones that break them. */
import type { NewEntry, SeenRecord } from "../../robustness/history/entry.ts";
import type { PromiseName } from "../../robustness/history/violation.ts";
import { crcOf, expectedCrc, signalEvent, typeAt } from "../../robustness/load/event-bytes.ts";

const run = "agent-0.0";
const by = "agent-0";
const sender = "sender-0";
const idOf = (n: number) => `${sender}-${n}`;
const crcOfSignal = (n: number, variant = 0) => crcOf(signalEvent(run, idOf(n), variant));

function event(seq: number, runSeq: number, handled?: number): SeenRecord {
  const crc = expectedCrc(run, runSeq, by);
  const moved = handled === undefined ? {} : { handled };
  return { seq, run, runSeq, kind: "event", type: typeAt(runSeq), crc, by, ...moved };
}

function signal(seq: number, signalSeq: number): SeenRecord {
  const common = { seq, run, runSeq: 0, kind: "signal", type: "input" } as const;
  return { ...common, crc: crcOfSignal(signalSeq), id: idOf(signalSeq), signalSeq };
}

function fact(seq: number, rest: Partial<SeenRecord> & Pick<SeenRecord, "kind">): SeenRecord {
  return { seq, run, runSeq: 0, ...rest };
}

/** Answers a signal, waits until a deadline passes, comes back, waits again, and is stopped. */
const records: readonly SeenRecord[] = [
  fact(1, { kind: "started", parent: "" }),
  event(2, 1),
  signal(3, 1),
  event(4, 2, 1),
  fact(5, { kind: "waiting", lastRunSeq: 2, handled: 1, hasDeadline: true }),
  fact(6, {
    kind: "finished",
    state: "LOST",
    output: "",
    lastRunSeq: 2,
    handled: 1,
    failure: "wait_expired",
  }),
  signal(7, 2),
  fact(8, { kind: "resumed" }),
  signal(9, 3),
  event(10, 3, 2),
  event(11, 4, 3),
  fact(12, { kind: "waiting", lastRunSeq: 4, handled: 3, hasDeadline: false }),
  fact(13, { kind: "finished", state: "CANCELLED", output: "", lastRunSeq: 4, handled: 3 }),
];

function sent(n: number, seq: number): NewEntry[] {
  const common = { run, by: sender, id: idOf(n), crc: crcOfSignal(n) };
  return [
    { t: "signalling", node: "n", ...common },
    { t: "signalled", seq, signalSeq: n, ...common },
  ];
}

function received(attempt: number, n: number, seq: number): NewEntry {
  const crc = crcOfSignal(n);
  return { t: "inbox", run, by, attempt, seq, signalSeq: n, id: idOf(n), crc };
}

const filter = { scope: { t: "all" as const }, types: [], kinds: ["signal" as const] };

/** Keeps every promise. */
export const keptWithSignals: readonly NewEntry[] = [
  { t: "subscribing", by: "reader", node: "n", after: 0, filter, progressMs: 1_000 },
  { t: "subscribed", by: "reader", journalId: "j" },
  { t: "opening", run, by, node: "n", attempt: 1 },
  { t: "opened", run, by, attempt: 1, epoch: 1, lastRunSeq: 0, handled: 0 },
  { t: "sent", run, by, from: 1, to: 1 },
  ...sent(1, 3),
  received(1, 1, 3),
  { t: "sent", run, by, from: 2, to: 2, handled: 1 },
  { t: "acked", run, by, runSeq: 2, seq: 4, handled: 1 },
  { t: "waits", run, by, code: "first", handled: 1 },
  { t: "waiting", run, by, code: "first" },
  ...sent(2, 7),
  { t: "refused", run, by, reason: "RUN_NOT_OPEN", message: "lost" },
  { t: "opening", run, by, node: "m", attempt: 2 },
  { t: "opened", run, by, attempt: 2, epoch: 2, lastRunSeq: 2, handled: 1 },
  received(2, 2, 7),
  ...sent(3, 9),
  // A repeat is answered as the first was; another event under the same id is not taken.
  ...sent(3, 9),
  { t: "signalling", run, by: sender, node: "n", id: idOf(3), crc: crcOfSignal(3, 1) },
  { t: "refused", run, by: sender, reason: "SIGNAL_CONFLICT", message: "another" },
  received(2, 3, 9),
  { t: "sent", run, by, from: 3, to: 3, handled: 2 },
  { t: "sent", run, by, from: 4, to: 4, handled: 3 },
  { t: "acked", run, by, runSeq: 4, seq: 11, handled: 3 },
  { t: "waits", run, by, code: "second", handled: 3 },
  { t: "waiting", run, by, code: "second" },
  { t: "cancelling", run, by: sender },
  { t: "cancelled", run, by: sender },
  { t: "records", by: "reader", records: records.filter(({ kind }) => kind === "signal") },
  { t: "progress", by: "reader", seq: 13 },
  { t: "journal", reader: "Subscribe", node: "n", records },
  { t: "run", node: "n", run, state: "CANCELLED", lastRunSeq: 4, handled: 3 },
];

function withEntry(
  is: (entry: NewEntry) => boolean,
  to: (entry: NewEntry) => readonly NewEntry[],
): NewEntry[] {
  const at = keptWithSignals.findIndex(is);
  if (at < 0) throw new Error("no such entry");
  const all = [...keptWithSignals];
  all.splice(at, 1, ...to(all[at]!));
  return all;
}

/** With another journal, which the subscriber saw too. */
function withRecord(seq: number, to: Partial<SeenRecord>): NewEntry[] {
  return keptWithSignals.map((entry): NewEntry => {
    if (entry.t !== "records" && entry.t !== "journal") return entry;
    const changed = entry.records.map((one) => (one.seq === seq ? { ...one, ...to } : one));
    return { ...entry, records: changed };
  });
}

const once = "an acknowledged signal is there once";
const position = "the handled position does not go back";
const inbox = "a producer receives what is not handled";
const passedOver = "no end or wait passes over a signal";
const stopped = "a cancelled run does not wait";

/** A promise, what breaks it, and the history. */
export const signalCases: readonly (readonly [PromiseName, string, readonly NewEntry[]])[] = [
  [once, "an acknowledged signal that is not there", withRecord(9, { id: "sender-0-4" })],
  [once, "a signal with another event than was acknowledged", withRecord(9, { crc: 1 })],
  [
    once,
    "a repeat that is answered with another place",
    [...keptWithSignals, { ...sent(3, 10)[1]!, signalSeq: 4 } as NewEntry],
  ],
  [
    once,
    "an id that two signals have",
    withRecord(9, { id: idOf(2), crc: crcOfSignal(2) }).filter(
      (one) => !(one.t === "signalled" && one.id === idOf(3)),
    ),
  ],
  [
    once,
    "another event under an id that is there",
    [
      ...keptWithSignals,
      {
        t: "signalled",
        run,
        by: sender,
        id: idOf(3),
        crc: crcOfSignal(3, 1),
        seq: 9,
        signalSeq: 3,
      },
    ],
  ],
  [
    "bytes are kept",
    "a signal that nobody sent",
    withEntry(
      (one) => one.t === "signalling" && one.id === idOf(2),
      () => [],
    ),
  ],
  ["signal_seq is dense", "a number that is left out", withRecord(9, { signalSeq: 4 })],
  ["signal_seq is dense", "a number that comes twice", withRecord(9, { signalSeq: 2 })],
  [
    "refusals are expected",
    "SIGNAL_CONFLICT for an id with one event",
    withEntry(
      (one) => one.t === "signalling" && one.crc === crcOfSignal(3, 1),
      () => [],
    ),
  ],
  [position, "an event that goes back", withRecord(11, { handled: 1 })],
  [position, "an event that handles what is not there yet", withRecord(4, { handled: 2 })],
  [
    position,
    "a position that stands on another event than it was sent with",
    withRecord(2, { handled: 1 }),
  ],
  [
    position,
    "an answer that goes back",
    withEntry(
      (one) => one.t === "acked" && one.runSeq === 4,
      (one) => [one, { t: "acked", run, by, runSeq: 4, seq: 11, handled: 2 }],
    ),
  ],
  [
    position,
    "an open that knows less than was acknowledged",
    withEntry(
      (one) => one.t === "opened" && one.attempt === 2,
      (one) => [{ ...one, handled: 0 } as NewEntry],
    ),
  ],
  [
    position,
    "a run that says less in the end than was acknowledged",
    withEntry(
      (one) => one.t === "run",
      (one) => [{ ...one, handled: 2 } as NewEntry],
    ),
  ],
  [
    inbox,
    "a signal that is left out",
    withEntry(
      (one) => one.t === "inbox" && one.signalSeq === 2,
      () => [],
    ),
  ],
  [
    inbox,
    "a signal that is handled already, after a reopening",
    withEntry(
      (one) => one.t === "inbox" && one.signalSeq === 2,
      (one) => [received(2, 1, 3), one],
    ),
  ],
  [
    inbox,
    "a signal with another event than the journal's",
    withEntry(
      (one) => one.t === "inbox" && one.signalSeq === 2,
      (one) => [{ ...one, crc: 1 } as NewEntry],
    ),
  ],
  [passedOver, "a wait with a durable signal unhandled", withRecord(12, { handled: 2 })],
  [
    passedOver,
    "a conditional end with a durable signal unhandled",
    [
      ...withRecord(13, { state: "SUCCEEDED", handled: 2 }),
      {
        t: "finishing",
        run,
        by,
        lastRunSeq: 4,
        state: "SUCCEEDED",
        output: "",
        isConditional: true,
        handled: 2,
      },
    ],
  ],
  [
    "a wait has no lease",
    "a wait without a deadline that is lost",
    withRecord(13, { state: "LOST", failure: "wait_expired" }),
  ],
  ["a wait has no lease", "a wait that is lost by the lease", withRecord(6, { failure: "" })],
  [
    stopped,
    "a run that waits in the end though it was asked to stop",
    withRecord(13, { kind: "waiting", handled: 3 }),
  ],
  [
    stopped,
    "a wait that is answered after the run was asked to stop",
    [
      ...keptWithSignals,
      { t: "waits", run, by, code: "third", handled: 3 },
      { t: "waiting", run, by, code: "third" },
    ],
  ],
  [
    stopped,
    "a wait that ends CANCELLED though nobody asked",
    keptWithSignals.filter(({ t }) => t !== "cancelling" && t !== "cancelled"),
  ],
  [
    "one sequence for a filter",
    "a signal that its subscriber never got",
    withEntry(
      ({ t }) => t === "records",
      () => [{ t: "records", by: "reader", records: [records[2]!, records[8]!] }],
    ),
  ],
  [
    "nothing after the end",
    "a wait that goes on without a record of it",
    withRecord(8, { kind: "waiting", handled: 2 }),
  ],
];
