import assert from "node:assert/strict";
import { fromBinary } from "@bufbuild/protobuf";
import fc from "fast-check";
import type { SequencedEvent } from "../../gen/runlog/v1/record_pb.js";
import { EventBatchSchema } from "../../gen/runlog/v1/subscribe_pb.js";
import { type EventsPage, readEvents } from "../../src/delivery/read-events.ts";
import type { Producer } from "../../src/ingest/operation.ts";
import type { Direction } from "../../src/journal/pages/keys.ts";
import type { Limits } from "../../src/limits.ts";
import { append, type Engine, engineOver, eventOf, openRun, readAll } from "../support/engine.ts";
import { assertHistories } from "../support/histories.ts";
import { describeJournal } from "../support/journals.ts";
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

/** A batch of a run; batches of one commit are submitted at once. */
interface Batch {
  readonly run: number;
  readonly count: number;
}
type Commit = readonly Batch[];

const parentsOf = fc.tuple(
  ...Array.from({ length: runCount }, (_, i) => fc.nat({ max: Math.max(0, i - 1) })),
);
const batch = fc.record({
  run: fc.nat({ max: runCount - 1 }),
  count: fc.integer({ min: 1, max: 9 }),
});
const commits = fc.array(fc.array(batch, { minLength: 1, maxLength: 5 }), {
  minLength: 1,
  maxLength: 12,
});
const wanted = fc.record({
  scope: fc.constantFrom(...scopes),
  types: fc.constantFrom(...typeChoices),
  kinds: fc.constantFrom(...kindChoices),
});
/** Limits so small that each of them ends pages. */
const someLimits = fc.record({
  tailBytes: fc.constantFrom(0, 1_000_000),
  pageRecords: fc.constantFrom(2, 3, 256),
  readBytes: fc.constantFrom(1, 300, 1_000_000),
  readPages: fc.constantFrom(1, 2, 16),
});
const maxEvents = fc.constantFrom(1, 2, 7, 1_000);

/** Writes to a tree of runs, which begin with their first events. */
class Writer {
  readonly #engine: Engine;
  readonly #parents: readonly number[];
  readonly #producers: (Promise<Producer> | undefined)[] = [];
  readonly #sent = new Array<number>(runCount).fill(0);

  constructor(engine: Engine, parents: readonly number[]) {
    this.#engine = engine;
    this.#parents = parents;
  }

  #producerOf(run: number): Promise<Producer> {
    this.#producers[run] ??= (async () => {
      const parent = this.#parents[run]!;
      if (run > 0) await this.#producerOf(parent);
      return openRun(this.#engine, `run-${run}`, run === 0 ? "" : `run-${parent}`);
    })();
    return this.#producers[run];
  }

  /** Opens all runs, so that every filter names runs that exist. */
  async open(): Promise<void> {
    for (let run = 0; run < runCount; run++) await this.#producerOf(run);
  }

  async write(commit: Commit): Promise<void> {
    await Promise.all(
      commit.map(async ({ run, count }) => {
        const first = this.#sent[run]! + 1;
        this.#sent[run]! += count;
        const events = Array.from({ length: count }, (_, i) =>
          eventOf(`${run}:${first + i}`, typeOf(first + i)),
        );
        const outcome = await append(this.#engine, await this.#producerOf(run), first, events);
        assert.equal(outcome.t, "durable");
      }),
    );
  }
}

const eventsIn = (page: EventsPage) =>
  fromBinary(EventBatchSchema, Buffer.concat(page.items)).events;

/** Pages in one direction, chained by nextSeq. */
class Reader {
  readonly received: SequencedEvent[] = [];
  readonly #engine: Engine;
  readonly #wanted: Wanted;
  readonly #direction: Direction;
  readonly #maxEvents: number;
  #seq: number;

  constructor(
    engine: Engine,
    from: { wanted: Wanted; direction: Direction; seq: number; maxEvents: number },
  ) {
    this.#engine = engine;
    this.#wanted = from.wanted;
    this.#direction = from.direction;
    this.#seq = from.seq;
    this.#maxEvents = from.maxEvents;
  }

  /** Reads a page, and checks its bounds and that it moves on; whether it was the end. */
  async read(): Promise<boolean> {
    const page = await readEvents(this.#engine, {
      namespace: "default",
      filter: toFilter(this.#wanted),
      direction: this.#direction,
      seq: this.#seq,
      maxEvents: this.#maxEvents,
    });
    const { items, nextSeq, end } = page;
    const bytes = items.reduce((sum, item) => sum + item.length, 0);
    assert.ok(items.length <= this.#maxEvents);
    assert.ok(items.length <= 1 || bytes <= this.#engine.limits.readBytes);
    if (this.#direction === "forward") {
      assert.ok(end ? nextSeq >= this.#seq : nextSeq > this.#seq, `${this.#seq}, ${nextSeq}`);
    } else {
      assert.ok(nextSeq >= 1, "0 would be the end of the journal again");
      const isOn = this.#seq === 0 || (end ? nextSeq <= this.#seq : nextSeq < this.#seq);
      assert.ok(isOn, `${this.#seq}, ${nextSeq}`);
    }
    this.received.push(...eventsIn(page));
    this.#seq = nextSeq;
    return end;
  }

  async readToEnd(): Promise<void> {
    while (!(await this.read())) {
      // Every page moves on, as read has checked.
    }
  }
}

const directions: readonly Direction[] = ["forward", "backward"];

describeJournal("pages chained by next_seq", (open, backend) => {
  const over = async (
    limits: Partial<Limits>,
    parents: readonly number[],
    test: (engine: Engine, writer: Writer) => Promise<void>,
  ) => {
    const store = await open();
    try {
      const engine = engineOver(store.journal, limits);
      await test(engine, new Writer(engine, parents));
    } finally {
      await store.remove();
    }
  };

  it("hold every matching event once and in order, from any seq, in both directions", async () => {
    await assertHistories(
      backend.histories(60),
      [
        parentsOf,
        commits,
        fc.array(fc.tuple(wanted, someLimits, maxEvents, fc.nat()), {
          minLength: 6,
          maxLength: 6,
        }),
      ],
      async (parents, written, readers) => {
        await over({}, parents, async (engine, writer) => {
          await writer.open();
          for (const commit of written) await writer.write(commit);
          const everything = await readAll(engine.journal);
          const endSeq = everything.length;
          for (const [asked, limits, most, place] of readers) {
            const limited = { ...engine, limits: { ...engine.limits, ...limits } };
            for (const direction of directions) {
              const seq = place % (direction === "forward" ? endSeq + 1 : endSeq + 2);
              const from = { wanted: asked, direction, seq, maxEvents: most };
              const reader = new Reader(limited, from);
              await reader.readToEnd();
              const expected = everything.filter(
                (event) =>
                  isWanted(asked, event, parents) &&
                  (direction === "forward" || seq === 0 ? event.seq > seq : event.seq < seq),
              );
              if (direction === "backward") expected.reverse();
              assert.deepEqual(reader.received, expected, JSON.stringify({ ...from, limits }));
              assert.ok(await reader.read(), "the end stays the end");
              assert.equal(reader.received.length, expected.length);
            }
          }
        });
      },
    );
  });

  it("lose and double nothing while others append", async () => {
    await assertHistories(
      backend.histories(80),
      [parentsOf, commits, commits, wanted, someLimits, maxEvents],
      async (parents, before, meanwhile, asked, limits, most) => {
        await over(limits, parents, async (engine, writer) => {
          await writer.open();
          for (const commit of before) await writer.write(commit);
          const durable = await readAll(engine.journal);
          const [ahead, back] = directions.map(
            (direction) =>
              new Reader(engine, { wanted: asked, direction, seq: 0, maxEvents: most }),
          ) as [Reader, Reader];
          let isBack = false;
          for (const commit of meanwhile) {
            // Neither waits for the other: the commit falls anywhere into the pages.
            await Promise.all([
              writer.write(commit),
              ahead.read(),
              isBack ||
                back.read().then((end) => {
                  isBack = end;
                }),
            ]);
          }
          if (!isBack) await back.readToEnd();
          await ahead.readToEnd();
          const matching = (await readAll(engine.journal)).filter((event) =>
            isWanted(asked, event, parents),
          );
          assert.deepEqual(ahead.received, matching);
          // What was durable at the first page's time: at least what was so before it.
          const newest = back.received[0]?.seq ?? 0n;
          const expected = matching.filter((event) => event.seq <= newest).reverse();
          assert.deepEqual(back.received, expected);
          const known = durable.filter((event) => isWanted(asked, event, parents));
          assert.ok(newest >= (known.at(-1)?.seq ?? 0n));
        });
      },
    );
  });
});
