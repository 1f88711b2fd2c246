import assert from "node:assert/strict";
import { timestampMs } from "@bufbuild/protobuf/wkt";
import fc from "fast-check";
import type { SequencedEvent } from "../../gen/runlog/v1/record_pb.js";
import type { Start } from "../../src/delivery/subscription-spec.ts";
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

/** The clock of a history begins at 0 and goes on by a millisecond with each look at it. */
const start: fc.Arbitrary<Start> = fc.oneof(
  { weight: 3, arbitrary: fc.constant({ t: "after" as const, seq: 0 }) },
  { weight: 1, arbitrary: fc.constant({ t: "now" as const }) },
  { weight: 2, arbitrary: fc.record({ t: fc.constant("last" as const), count: fc.nat(30) }) },
  { weight: 2, arbitrary: fc.record({ t: fc.constant("from" as const), timeMs: fc.nat(100) }) },
);

/** Checks that the seq in Subscribed is what the consumer's start means. */
function checkStart(
  start: Start,
  { started, wanted }: Consumer,
  everything: readonly SequencedEvent[],
  parents: readonly number[],
): void {
  const { afterSeq, latestSeq } = started!;
  const before = everything.filter(({ seq }) => Number(seq) <= latestSeq);
  const matching = before.filter((record) => isWanted(wanted, record, parents));
  const following = matching.filter(({ seq }) => Number(seq) > afterSeq);
  switch (start.t) {
    case "after":
      assert.equal(afterSeq, start.seq);
      break;
    case "now":
      assert.equal(afterSeq, latestSeq);
      break;
    case "last":
      assert.equal(following.length, Math.min(start.count, matching.length));
      // Not before the first of them: that would be looked through again.
      assert.equal(afterSeq, Number(following[0]?.seq ?? latestSeq + 1) - 1);
      break;
    case "from":
      for (const { seq, recordTime } of before) {
        assert.equal(timestampMs(recordTime!) >= start.timeMs, Number(seq) > afterSeq);
      }
  }
}

async function runSteps(
  engine: Engine,
  parents: readonly number[],
  chosen: readonly Wanted[],
  starts: readonly Start[],
  steps: readonly Step[],
) {
  const consumers = Array.from(
    { length: subscriberCount },
    (_, index) => new Consumer(chosen[index % scopeCount]!, true, starts[index]!),
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
          fc.array(start, { minLength: subscriberCount, maxLength: subscriberCount }),
          fc.array(step, { minLength: 20, maxLength: 150 }),
        ],
        async (parents, chosen, starts, steps) => {
          const store = await open();
          try {
            let clock = 0;
            const engine = engineOver(store.journal, limits, () => clock++);
            const { consumers, sent } = await runSteps(engine, parents, chosen, starts, steps);
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
            for (const [index, consumer] of consumers.entries()) {
              assert.equal(consumer.failure, undefined);
              checkStart(starts[index]!, consumer, everything, parents);
              const expected = everything.filter(
                (record) =>
                  Number(record.seq) > consumer.started!.afterSeq &&
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
