import assert from "node:assert/strict";
import fc from "fast-check";
import type { Producer } from "../../src/ingest/operation.ts";
import type { Notifications } from "../../src/journal/postgres/notifications.ts";
import type { Limits } from "../../src/limits.ts";
import { Consumer } from "../support/consumer.ts";
import { append, eventOf, openRun, readAll } from "../support/engine.ts";
import { assertHistories } from "../support/histories.ts";
import { deaf, lossy, startNodes, type TestNodes } from "../support/nodes.ts";
import { isWanted, runCount, scopes, typeChoices, typeOf, type Wanted } from "../support/wanted.ts";

type Step =
  | {
      readonly kind: "append";
      readonly node: number;
      readonly run: number;
      readonly count: number;
      /** Whether the producer comes back to a node with a stale epoch. */
      readonly stale: boolean;
    }
  | { readonly kind: "attach"; readonly consumer: number; readonly node: number }
  | { readonly kind: "read"; readonly consumer: number }
  | { readonly kind: "drop"; readonly consumer: number; readonly forget: number }
  | { readonly kind: "turns"; readonly count: number }
  | { readonly kind: "commit" };

const nodeCount = 3;
const consumerCount = 6;
const node = fc.nat({ max: nodeCount - 1 });
const consumer = fc.nat({ max: consumerCount - 1 });
const step: fc.Arbitrary<Step> = fc.oneof(
  {
    weight: 8,
    arbitrary: fc.record({
      kind: fc.constant("append" as const),
      node,
      run: fc.nat({ max: runCount - 1 }),
      count: fc.integer({ min: 1, max: 9 }),
      stale: fc.boolean(),
    }),
  },
  { weight: 3, arbitrary: fc.record({ kind: fc.constant("attach" as const), consumer, node }) },
  { weight: 4, arbitrary: fc.record({ kind: fc.constant("read" as const), consumer }) },
  {
    weight: 2,
    arbitrary: fc.record({ kind: fc.constant("drop" as const), consumer, forget: fc.nat(5) }),
  },
  { weight: 2, arbitrary: fc.record({ kind: fc.constant("turns" as const), count: fc.nat(8) }) },
  { weight: 2, arbitrary: fc.record({ kind: fc.constant("commit" as const) }) },
);

async function runSteps(
  { nodes }: TestNodes,
  parents: readonly number[],
  chosen: readonly Wanted[],
  steps: readonly Step[],
) {
  const consumers = chosen.map((wanted) => new Consumer(wanted));
  /** By run, then by node: who opened it there. */
  const producers = Array.from({ length: runCount }, () => new Map<number, Producer>());
  const holders: (number | undefined)[] = [];
  const sent = new Array<number>(runCount).fill(0);
  const commits: Promise<unknown>[] = [];
  for (let run = 0; run < runCount; run++) {
    const parent = run === 0 ? "" : `run-${parents[run]}`;
    producers[run]!.set(0, await openRun(nodes[0]!, `run-${run}`, parent));
    holders[run] = 0;
  }
  const events = (run: number, first: number, count: number) =>
    Array.from({ length: count }, (_, i) => eventOf(`${run}:${first + i}`, typeOf(first + i)));
  for (const one of steps) {
    switch (one.kind) {
      case "append": {
        const at = nodes[one.node]!;
        const known = producers[one.run]!.get(one.node);
        const first = sent[one.run]! + 1;
        if (one.stale && known !== undefined && holders[one.run] !== one.node) {
          // Fenced: another node opened the run since.
          const outcome = await append(at, known, first, events(one.run, first, one.count));
          assert.ok(outcome.t === "refused" || outcome.t === "discarded", outcome.t);
          break;
        }
        let producer = known;
        if (producer === undefined || holders[one.run] !== one.node) {
          // What the holder before has sent is decided first, as its acknowledgement was awaited.
          await Promise.all(commits.splice(0));
          const parent = one.run === 0 ? "" : `run-${parents[one.run]}`;
          producer = await openRun(at, `run-${one.run}`, parent);
          producers[one.run]!.set(one.node, producer);
          holders[one.run] = one.node;
        }
        sent[one.run]! += one.count;
        commits.push(
          append(at, producer, first, events(one.run, first, one.count)).then((outcome) => {
            assert.equal(outcome.t, "durable");
          }),
        );
        break;
      }
      case "attach":
        consumers[one.consumer]!.attach(nodes[one.node]!);
        break;
      case "read":
        consumers[one.consumer]!.read();
        break;
      case "drop":
        await consumers[one.consumer]!.drop(one.forget);
        break;
      case "turns":
        for (let i = 0; i < one.count; i++) await new Promise((resolve) => setImmediate(resolve));
        break;
      case "commit":
        await Promise.all(commits.splice(0));
    }
  }
  await Promise.all(commits);
  return { consumers, sent };
}

const settings: Readonly<
  Record<string, [Partial<Limits>, (notifications: Notifications) => Notifications]>
> = {
  "that wake each other": [{}, (same) => same],
  "of which every wake-up is lost": [{}, deaf],
  "of which each second wake-up is lost, with a tail of a few records": [
    { tailBytes: 1_500, pageRecords: 3, pageBytes: 600, frameBytes: 200 },
    lossy,
  ],
};

describe("nodes on one journal", () => {
  for (const [name, [limits, notifications]] of Object.entries(settings)) {
    describe(name, () => {
      it("append in one order, and deliver it to whoever attaches wherever", async () => {
        await assertHistories(
          25,
          [
            fc.tuple(
              ...Array.from({ length: runCount }, (_, i) => fc.nat({ max: Math.max(0, i - 1) })),
            ),
            fc.array(
              fc.record({
                scope: fc.constantFrom(...scopes),
                types: fc.constantFrom(...typeChoices),
              }),
              { minLength: consumerCount, maxLength: consumerCount },
            ),
            fc.array(step, { minLength: 60, maxLength: 120, size: "max" }),
          ],
          async (parents, chosen, steps) => {
            const running = await startNodes(nodeCount, { limits, notifications });
            try {
              const { consumers, sent } = await runSteps(running, parents, chosen, steps);
              const everything = await readAll(running.nodes[0]!.journal);
              assert.deepEqual(
                everything.map((record) => Number(record.seq)),
                everything.map((_, index) => index + 1),
                "seq is dense",
              );
              for (let run = 0; run < runCount; run++) {
                const runSeqs = everything.flatMap(({ runId, record, runSeq }) =>
                  runId === `run-${run}` && record.case === "event" ? [Number(runSeq)] : [],
                );
                assert.deepEqual(
                  runSeqs,
                  Array.from({ length: sent[run]! }, (_, index) => index + 1),
                  "run_seq is dense",
                );
              }
              for (const [index, one] of consumers.entries()) {
                const expected = everything.filter((record) =>
                  isWanted(one.wanted, record, parents),
                );
                // Who is attached gets all of it without resuming.
                one.attach(running.nodes[index % nodeCount]!);
                await one.readUntil(expected.length);
                assert.deepEqual(one.received, expected, JSON.stringify(one.wanted));
                await one.drop();
              }
              assert.deepEqual(running.failures, []);
            } finally {
              await running.remove();
            }
          },
        );
      });
    });
  }
});
