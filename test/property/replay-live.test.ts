import assert from "node:assert/strict";
import fc from "fast-check";
import type { Producer } from "../../src/ingest/operation.ts";
import { Consumer, deliverySettings } from "../support/consumer.ts";
import {
  append,
  type Engine,
  engineOver,
  eventOf,
  openRun,
  readAll,
  signal,
} from "../support/engine.ts";
import { assertHistories } from "../support/histories.ts";
import { describeJournal } from "../support/journals.ts";
import {
  isWanted,
  kindChoices,
  runCount,
  scopes,
  typeChoices,
  typeOf,
  type Wanted,
} from "../support/wanted.ts";

type Step =
  | { readonly kind: "append"; readonly run: number; readonly count: number }
  | { readonly kind: "signal"; readonly run: number; readonly type: number }
  | { readonly kind: "attach" | "read"; readonly subscriber: number }
  | { readonly kind: "drop"; readonly subscriber: number; readonly forget: number }
  | { readonly kind: "turns"; readonly count: number }
  | { readonly kind: "commit" };

/** Three scopes at a time, with two subscribers each, so that they can be compared. */
const scopeCount = 3;
const subscriberCount = 2 * scopeCount;
const subscriber = fc.nat({ max: subscriberCount - 1 });
const step: fc.Arbitrary<Step> = fc.oneof(
  {
    weight: 4,
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
    weight: 6,
    arbitrary: fc.record({ kind: fc.constantFrom("attach", "read", "read"), subscriber }),
  },
  {
    weight: 2,
    arbitrary: fc.record({ kind: fc.constant("drop" as const), subscriber, forget: fc.nat(5) }),
  },
  { weight: 2, arbitrary: fc.record({ kind: fc.constant("turns" as const), count: fc.nat(4) }) },
  { weight: 1, arbitrary: fc.record({ kind: fc.constant("commit" as const) }) },
);

async function runSteps(
  engine: Engine,
  parents: readonly number[],
  chosen: readonly Wanted[],
  steps: readonly Step[],
) {
  const consumers = Array.from(
    { length: subscriberCount },
    (_, index) => new Consumer(chosen[index % scopeCount]!),
  );
  const producers: (Producer | undefined)[] = [];
  const sent: number[] = new Array<number>(runCount).fill(0);
  const commits: Promise<unknown>[] = [];
  const producerOf = async (run: number): Promise<Producer> => {
    const known = producers[run];
    if (known !== undefined) return known;
    const parent = parents[run]!;
    if (run > 0) await producerOf(parent);
    const opened = await openRun(engine, `run-${run}`, run === 0 ? "" : `run-${parent}`);
    producers[run] = opened;
    return opened;
  };
  for (const one of steps) {
    switch (one.kind) {
      case "append": {
        const producer = await producerOf(one.run);
        const first = sent[one.run]! + 1;
        sent[one.run]! += one.count;
        const events = Array.from({ length: one.count }, (_, i) =>
          eventOf(`${one.run}:${first + i}`, typeOf(first + i)),
        );
        commits.push(append(engine, producer, first, events));
        break;
      }
      case "signal":
        await producerOf(one.run);
        commits.push(signal(engine, `run-${one.run}`, eventOf("signal", typeOf(one.type))));
        break;
      case "attach":
        consumers[one.subscriber]!.attach(engine);
        break;
      case "read":
        consumers[one.subscriber]!.read();
        break;
      case "drop":
        await consumers[one.subscriber]!.drop(one.forget);
        break;
      case "turns":
        for (let i = 0; i < one.count; i++) await new Promise((resolve) => setImmediate(resolve));
        break;
      case "commit":
        await Promise.all(commits.splice(0));
    }
  }
  await Promise.all(commits);
  for (const consumer of consumers) await consumer.finish(engine);
  return { consumers, sent };
}

describeJournal("replay and live are one sequence", (open, backend) => {
  for (const [name, limits] of Object.entries(deliverySettings)) {
    it(`delivers every matching seq once, ascending, to whoever attaches, stops, drops and resumes, ${name}`, async () => {
      await assertHistories(
        backend.histories(150),
        [
          fc.tuple(
            ...Array.from({ length: runCount }, (_, i) => fc.nat({ max: Math.max(0, i - 1) })),
          ),
          fc.array(
            fc.record({
              scope: fc.constantFrom(...scopes),
              types: fc.constantFrom(...typeChoices),
              kinds: fc.constantFrom(...kindChoices),
            }),
            { minLength: scopeCount, maxLength: scopeCount },
          ),
          fc.array(step, { minLength: 20, maxLength: 150 }),
        ],
        async (parents, chosen, steps) => {
          const store = await open();
          try {
            const engine = engineOver(store.journal, limits);
            const { consumers, sent } = await runSteps(engine, parents, chosen, steps);
            const everything = await readAll(store.journal);
            assert.deepEqual(
              everything.map((record) => Number(record.seq)),
              everything.map((_, index) => index + 1),
              "seq is dense",
            );
            assert.equal(
              everything.filter((record) => record.record.case === "event").length,
              sent.reduce((sum, count) => sum + count, 0),
              "everything that was appended is durable",
            );
            for (const consumer of consumers) {
              assert.equal(consumer.failure, undefined);
              const expected = everything.filter((record) =>
                isWanted(consumer.wanted, record, parents),
              );
              assert.deepEqual(consumer.received, expected, JSON.stringify(consumer.wanted));
            }
          } finally {
            await store.remove();
          }
        },
      );
    });
  }
});
