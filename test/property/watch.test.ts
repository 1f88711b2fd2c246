import assert from "node:assert/strict";
import fc from "fast-check";
import type { SequencedEvent } from "../../gen/runlog/v1/record_pb.js";
import { Watch, type WatchFrame } from "../../src/delivery/watch.ts";
import type { Producer } from "../../src/ingest/operation.ts";
import { deliverySettings } from "../support/consumer.ts";
import {
  append,
  type Engine,
  engineOver,
  eventOf,
  openRun,
  readAll,
  recordsIn,
  signal,
  subscriptionTo,
} from "../support/engine.ts";
import { assertHistories } from "../support/histories.ts";
import { describeJournal } from "../support/journals.ts";
import { quiet } from "../support/quiet.ts";
import {
  isWanted,
  kindChoices,
  runCount,
  scopes,
  toFilter,
  typeChoices,
  typeOf,
  type Wanted,
} from "../support/wanted.ts";

const idCount = 5;
/** The runs are there from the start, so that every filter can be asked for. */
const startedSeq = runCount;

type Step =
  | { readonly kind: "append"; readonly run: number; readonly count: number }
  | { readonly kind: "signal"; readonly run: number; readonly type: number }
  | {
      readonly kind: "start";
      readonly id: number;
      readonly wanted: Wanted;
      readonly credit: number;
    }
  | { readonly kind: "change"; readonly id: number; readonly wanted: Wanted }
  | { readonly kind: "grant"; readonly id: number; readonly count: number }
  | { readonly kind: "stop"; readonly id: number }
  | { readonly kind: "read"; readonly count: number }
  | { readonly kind: "turns"; readonly count: number };

const id = fc.integer({ min: 1, max: idCount });
const wanted: fc.Arbitrary<Wanted> = fc.record({
  scope: fc.constantFrom(...scopes),
  types: fc.constantFrom(...typeChoices),
  kinds: fc.constantFrom(...kindChoices),
});
const step: fc.Arbitrary<Step> = fc.oneof(
  {
    weight: 6,
    arbitrary: fc.record({
      kind: fc.constant("append" as const),
      run: fc.nat({ max: runCount - 1 }),
      count: fc.integer({ min: 1, max: 9 }),
    }),
  },
  {
    weight: 2,
    arbitrary: fc.record({
      kind: fc.constant("signal" as const),
      run: fc.nat({ max: runCount - 1 }),
      type: fc.nat(2),
    }),
  },
  {
    weight: 3,
    arbitrary: fc.record({
      kind: fc.constant("start" as const),
      id,
      wanted,
      credit: fc.constantFrom(0, 0, 1, 5, 40),
    }),
  },
  { weight: 3, arbitrary: fc.record({ kind: fc.constant("change" as const), id, wanted }) },
  {
    weight: 2,
    arbitrary: fc.record({
      kind: fc.constant("grant" as const),
      id,
      count: fc.integer({ min: 1, max: 20 }),
    }),
  },
  { weight: 1, arbitrary: fc.record({ kind: fc.constant("stop" as const), id }) },
  { weight: 8, arbitrary: fc.record({ kind: fc.constant("read" as const), count: fc.nat(4) }) },
  { weight: 2, arbitrary: fc.record({ kind: fc.constant("turns" as const), count: fc.nat(4) }) },
);

/** What one subscription was asked to do, and what it did. */
class Observed {
  /** The filters in the order in which they were asked for. */
  readonly filters: Wanted[];
  /** The last seq that each filter but the newest decided. */
  readonly boundaries: number[] = [];
  readonly received: SequencedEvent[] = [];
  credit: number;
  ended: "no" | "asked" | "yes" = "no";

  constructor(first: Wanted, credit: number) {
    this.filters = [first];
    this.credit = credit === 0 ? Number.POSITIVE_INFINITY : credit;
  }

  note(frame: WatchFrame): void {
    assert.notEqual(this.ended, "yes", "nothing comes after the end");
    if (frame.t === "ended") {
      assert.equal(frame.refusal, undefined);
      assert.equal(this.ended, "asked");
      this.ended = "yes";
      return;
    }
    const { frame: inner } = frame;
    if (inner.t === "filter_changed") {
      this.boundaries.push(inner.seq);
      const last = this.received.at(-1);
      assert.ok(Number(last?.seq ?? 0) <= inner.seq, "what was delivered was decided before");
      return;
    }
    const records = recordsIn(inner);
    this.credit -= records.length;
    assert.ok(this.credit >= 0, "no more than was granted");
    for (const { seq } of records) {
      assert.ok(Number(seq) > (this.boundaries.at(-1) ?? 0), "a new filter decides what follows");
    }
    this.received.push(...records);
  }

  /** What the filters that were in force select. */
  expected(everything: readonly SequencedEvent[], parents: readonly number[]): SequencedEvent[] {
    return everything.filter((record) => {
      const changes = this.boundaries.filter((seq) => seq < Number(record.seq)).length;
      return isWanted(this.filters[changes]!, record, parents);
    });
  }
}

/** Reads frames one by one; one that does not come is left under way. */
class Reader {
  readonly #frames: AsyncGenerator<WatchFrame>;
  readonly #note: (frame: WatchFrame) => void;
  #pending: Promise<void> | undefined;

  constructor(frames: AsyncGenerator<WatchFrame>, note: (frame: WatchFrame) => void) {
    this.#frames = frames;
    this.#note = note;
  }

  /** Asks for a frame; whether one came, before nothing more comes by itself. */
  async read(): Promise<boolean> {
    this.#pending ??= this.#frames.next().then(({ done, value }) => {
      this.#pending = undefined;
      if (done !== true) this.#note(value);
    });
    await quiet(() => this.#pending === undefined);
    return this.#pending === undefined;
  }

  async close(stop: AbortController): Promise<void> {
    stop.abort();
    await this.#pending;
    await this.#frames.return(undefined);
  }
}

async function runSteps(engine: Engine, parents: readonly number[], steps: readonly Step[]) {
  const producers: Producer[] = [];
  for (let run = 0; run < runCount; run++) {
    producers.push(await openRun(engine, `run-${run}`, run === 0 ? "" : `run-${parents[run]}`));
  }
  const watch = new Watch(engine);
  const current = new Map<number, Observed>();
  const all: Observed[] = [];
  const commits: Promise<unknown>[] = [];
  const sent = new Array<number>(runCount).fill(0);
  const stop = new AbortController();
  const reader = new Reader(watch.run(stop.signal), (frame) => current.get(frame.id)!.note(frame));
  for (const one of steps) {
    switch (one.kind) {
      case "append": {
        const first = sent[one.run]! + 1;
        sent[one.run]! += one.count;
        const events = Array.from({ length: one.count }, (_, i) =>
          eventOf(`${one.run}:${first + i}`, typeOf(first + i)),
        );
        commits.push(append(engine, producers[one.run]!, first, events));
        break;
      }
      case "signal":
        commits.push(signal(engine, `run-${one.run}`, eventOf("signal", typeOf(one.type))));
        break;
      case "start": {
        const before = current.get(one.id);
        if (before !== undefined && before.ended !== "yes") break;
        const observed = new Observed(one.wanted, one.credit);
        current.set(one.id, observed);
        all.push(observed);
        const start = { t: "after", seq: startedSeq } as const;
        const rest = { start, allowMissing: false, filter: toFilter(one.wanted) };
        const credit = one.credit === 0 ? Number.POSITIVE_INFINITY : one.credit;
        watch.start(one.id, () => subscriptionTo(one.wanted.scope, rest), credit);
        break;
      }
      case "change": {
        const observed = current.get(one.id);
        if (observed?.ended !== "no") break;
        observed.filters.push(one.wanted);
        watch.changeFilter(one.id, () => toFilter(one.wanted));
        break;
      }
      case "grant": {
        const observed = current.get(one.id);
        if (observed === undefined) break;
        observed.credit += one.count;
        watch.grant(one.id, one.count);
        break;
      }
      case "stop": {
        const observed = current.get(one.id);
        if (observed?.ended !== "no") break;
        observed.ended = "asked";
        watch.stop(one.id);
        break;
      }
      case "read":
        for (let i = 0; i < one.count; i++) if (!(await reader.read())) break;
        break;
      case "turns":
        for (let i = 0; i < one.count; i++) await new Promise((resolve) => setImmediate(resolve));
    }
  }
  await Promise.all(commits);
  for (const [key, observed] of current) {
    // The others must have been woken by what was appended.
    if (observed.credit === Number.POSITIVE_INFINITY) continue;
    observed.credit += 1_000_000;
    watch.grant(key, 1_000_000);
  }
  while (await reader.read()) {
    // Everything that is durable.
  }
  await reader.close(stop);
  return all;
}

describeJournal("many subscriptions on one call", (open, backend) => {
  for (const [name, limits] of Object.entries(deliverySettings)) {
    it(`each deliver what their filters select, up to the seq of each change, within their credit, ${name}`, async () => {
      await assertHistories(
        backend.histories(100),
        [
          fc.tuple(
            ...Array.from({ length: runCount }, (_, i) => fc.nat({ max: Math.max(0, i - 1) })),
          ),
          fc.array(step, { minLength: 20, maxLength: 120 }),
        ],
        async (parents, steps) => {
          const store = await open();
          try {
            const all = await runSteps(engineOver(store.journal, limits), parents, steps);
            const everything = await readAll(store.journal, { kind: "all" }, startedSeq);
            for (const observed of all) {
              const expected = observed.expected(everything, parents);
              if (observed.ended !== "no") {
                assert.deepEqual(
                  observed.received,
                  expected.slice(0, observed.received.length),
                  "one that was stopped missed nothing before",
                );
                continue;
              }
              assert.equal(observed.boundaries.length, observed.filters.length - 1);
              assert.deepEqual(observed.received, expected);
            }
          } finally {
            await store.remove();
          }
        },
      );
    });
  }
});
