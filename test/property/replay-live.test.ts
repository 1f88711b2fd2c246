import assert from "node:assert/strict";
import fc from "fast-check";
import type { SequencedEvent } from "../../gen/runlog/v1/event_pb.js";
import type { SubscriptionFrame } from "../../src/delivery/frames.ts";
import { subscribe } from "../../src/delivery/subscribe.ts";
import type { Producer } from "../../src/ingest/operation.ts";
import type { Limits } from "../../src/limits.ts";
import {
  append,
  type Domain,
  domainOver,
  eventOf,
  openRun,
  readAll,
  recordsIn,
  subscriptionTo,
} from "../support/domain.ts";
import { describeJournal } from "../support/journals.ts";
import { isWanted, runCount, scopes, typeChoices, typeOf, type Wanted } from "../support/wanted.ts";

type Step =
  | { readonly kind: "append"; readonly run: number; readonly count: number }
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

/** A consumer that stops, drops and resumes; its cursor moves as a client's does. */
class Consumer {
  readonly wanted: Wanted;
  readonly received: SequencedEvent[] = [];
  #cursor = 0;
  #frames: AsyncGenerator<SubscriptionFrame> | undefined;
  #stop = new AbortController();
  #pending: Promise<void> | undefined;

  constructor(wanted: Wanted) {
    this.wanted = wanted;
  }

  attach(domain: Domain, stop: "never" | "caught_up" = "never"): void {
    if (this.#frames !== undefined) return;
    this.#stop = new AbortController();
    const { scope, types } = this.wanted;
    const start = { afterSeq: this.#cursor };
    const subscription = subscriptionTo(scope, { start, stop }, types);
    this.#frames = subscribe(domain, subscription, this.#stop.signal);
  }

  /** Asks for one more frame without waiting for it, as a consumer does that may stop reading. */
  read(): void {
    const frames = this.#frames;
    if (frames === undefined || this.#pending !== undefined) return;
    this.#pending = this.#take(frames).then(() => {
      this.#pending = undefined;
    });
  }

  async #take(frames: AsyncGenerator<SubscriptionFrame>): Promise<boolean> {
    const { done, value: frame } = await frames.next();
    if (done === true) return false;
    const records = recordsIn(frame);
    this.received.push(...records);
    const last = records.at(-1);
    if (last !== undefined) this.#cursor = Number(last.seq);
    if (frame.t === "caught_up" || frame.t === "progress") this.#cursor = frame.seq;
    return true;
  }

  /** Drops the stream; the last records were received and not kept, so the cursor is before them. */
  async drop(forget = 0): Promise<void> {
    this.#stop.abort();
    await this.#pending;
    await this.#frames?.return(undefined);
    this.#frames = undefined;
    if (forget === 0) return;
    this.received.splice(-forget);
    this.#cursor = Number(this.received.at(-1)?.seq ?? 0);
  }

  /** Resumes and reads all that is durable. */
  async finish(domain: Domain): Promise<void> {
    await this.drop();
    this.attach(domain, "caught_up");
    while (await this.#take(this.#frames!)) {
      // Everything up to the end.
    }
    this.#frames = undefined;
  }
}

async function runSteps(
  domain: Domain,
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
    const opened = await openRun(domain, `run-${run}`, run === 0 ? "" : `run-${parent}`);
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
        commits.push(append(domain, producer, first, events));
        break;
      }
      case "attach":
        consumers[one.subscriber]!.attach(domain);
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
  for (const consumer of consumers) await consumer.finish(domain);
  return { consumers, sent };
}

const settings: Readonly<Record<string, Partial<Limits>>> = {
  "with the usual limits": {},
  "with a tail so small that every subscriber falls back to the journal": { tailBytes: 0 },
  "with a tail of a few records, and pages and frames of a few": {
    tailBytes: 1_500,
    pageRecords: 3,
    pageBytes: 600,
    frameBytes: 200,
  },
};

describeJournal("replay and live are one sequence", (open) => {
  for (const [name, limits] of Object.entries(settings)) {
    it(`delivers every matching seq once, ascending, to whoever attaches, stops, drops and resumes, ${name}`, async () => {
      await fc.assert(
        fc.asyncProperty(
          fc.tuple(
            ...Array.from({ length: runCount }, (_, i) => fc.nat({ max: Math.max(0, i - 1) })),
          ),
          fc.array(
            fc.record({
              scope: fc.constantFrom(...scopes),
              types: fc.constantFrom(...typeChoices),
            }),
            { minLength: scopeCount, maxLength: scopeCount },
          ),
          fc.array(step, { minLength: 20, maxLength: 150 }),
          async (parents, chosen, steps) => {
            const store = await open();
            try {
              const domain = domainOver(store.journal, limits);
              const { consumers, sent } = await runSteps(domain, parents, chosen, steps);
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
                const expected = everything.filter((record) =>
                  isWanted(consumer.wanted, record, parents),
                );
                assert.deepEqual(consumer.received, expected, JSON.stringify(consumer.wanted));
              }
            } finally {
              await store.remove();
            }
          },
        ),
        { numRuns: 150 },
      );
    });
  }
});
