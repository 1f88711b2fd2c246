import assert from "node:assert/strict";
import { create, fromBinary } from "@bufbuild/protobuf";
import fc from "fast-check";
import type { SequencedEvent } from "../../gen/runlog/v1/record_pb.js";
import { RunSpecSchema } from "../../gen/runlog/v1/run_pb.js";
import { EventBatchSchema } from "../../gen/runlog/v1/subscribe_pb.js";
import type { Scope } from "../../src/delivery/filter.ts";
import { readEvents } from "../../src/delivery/read-events.ts";
import { TypeFilter } from "../../src/delivery/type-filter.ts";
import type { Producer } from "../../src/ingest/operation.ts";
import { Consumer, deliverySettings } from "../support/consumer.ts";
import { append, type Engine, engineOver, eventOf, openRun, readAll } from "../support/engine.ts";
import { assertHistories } from "../support/histories.ts";
import { describeJournal } from "../support/journals.ts";
import { typeChoices, typeOf } from "../support/wanted.ts";

const maxRuns = 7;

/** `run` and `from` count among the runs that exist by then. */
type Step =
  | { readonly kind: "start" }
  | { readonly kind: "fork"; readonly from: number; readonly share: number }
  | { readonly kind: "append"; readonly run: number; readonly count: number }
  | {
      readonly kind: "follow";
      readonly runs: readonly number[];
      readonly types: readonly string[];
    }
  | { readonly kind: "attach" | "read"; readonly consumer: number }
  | { readonly kind: "drop"; readonly consumer: number; readonly forget: number }
  | { readonly kind: "turns"; readonly count: number };

const run = fc.nat({ max: maxRuns - 1 });
const consumer = fc.nat({ max: 4 });
const step: fc.Arbitrary<Step> = fc.oneof(
  { weight: 1, arbitrary: fc.record({ kind: fc.constant("start" as const) }) },
  {
    weight: 3,
    arbitrary: fc.record({
      kind: fc.constant("fork" as const),
      from: run,
      share: fc.constantFrom(0, 0.3, 0.5, 0.9, 1),
    }),
  },
  {
    weight: 8,
    arbitrary: fc.record({
      kind: fc.constant("append" as const),
      run,
      count: fc.integer({ min: 1, max: 9 }),
    }),
  },
  {
    weight: 2,
    arbitrary: fc.record({
      kind: fc.constant("follow" as const),
      runs: fc.array(run, { minLength: 1, maxLength: 3 }),
      types: fc.constantFrom(...typeChoices),
    }),
  },
  {
    weight: 8,
    arbitrary: fc.record({ kind: fc.constantFrom("attach", "read", "read"), consumer }),
  },
  {
    weight: 1,
    arbitrary: fc.record({ kind: fc.constant("drop" as const), consumer, forget: fc.nat(5) }),
  },
  { weight: 2, arbitrary: fc.record({ kind: fc.constant("turns" as const), count: fc.nat(4) }) },
);

/** A run as the test made it. */
interface ModelRun {
  readonly runId: string;
  readonly fork: { readonly from: number; readonly runSeq: number } | undefined;
  readonly producer: Producer;
  appended: number;
}

/** How much of each run the history of these runs holds: whole ones, and others up to a run_seq. */
function historyOf(runs: readonly ModelRun[], chosen: readonly number[]) {
  const whole = new Set(chosen.map((index) => runs[index]!.runId));
  const through = new Map<string, number>();
  const follow = (index: number): void => {
    const { fork } = runs[index]!;
    if (fork === undefined || fork.runSeq === 0) return;
    const { runId } = runs[fork.from]!;
    through.set(runId, Math.max(through.get(runId) ?? 0, fork.runSeq));
    follow(fork.from);
  };
  chosen.forEach(follow);
  return { whole, through };
}

function isInHistory(
  { whole, through }: ReturnType<typeof historyOf>,
  types: TypeFilter | undefined,
  { runId, runSeq, record }: SequencedEvent,
): boolean {
  const isEvent = record.case === "event";
  if (isEvent && types?.wants(record.value.type) === false) return false;
  if (whole.has(runId)) return true;
  return isEvent && Number(runSeq) <= (through.get(runId) ?? 0);
}

async function runSteps(engine: Engine, steps: readonly Step[]) {
  const runs: ModelRun[] = [];
  const consumers: { readonly consumer: Consumer; readonly runs: readonly number[] }[] = [];
  const commits: Promise<unknown>[] = [];
  const add = (runId: string, fork: ModelRun["fork"], producer: Producer) =>
    runs.push({ runId, fork, producer, appended: 0 });
  for (const one of steps) {
    const runId = `run-${runs.length}`;
    switch (one.kind) {
      case "start":
        if (runs.length < maxRuns) add(runId, undefined, await openRun(engine, runId));
        break;
      case "fork": {
        if (runs.length === 0 || runs.length === maxRuns) break;
        const from = one.from % runs.length;
        const source = runs[from]!;
        const fork = { sourceRunId: source.runId, runSeq: Math.floor(source.appended * one.share) };
        const namespace = "default";
        const spec = create(RunSpecSchema);
        // Not waited for: what was appended before may go into the same commit.
        const forking = engine.committer.submit({ kind: "create", namespace, runId, spec, fork });
        const producer = await openRun(engine, runId);
        assert.equal((await forking).t, "created");
        add(runId, { from, runSeq: fork.runSeq }, producer);
        break;
      }
      case "append": {
        const target = runs[one.run % Math.max(1, runs.length)];
        if (target === undefined) break;
        const first = target.appended + 1;
        target.appended += one.count;
        const events = Array.from({ length: one.count }, (_, i) =>
          eventOf(`${target.runId}:${first + i}`, typeOf(first + i)),
        );
        commits.push(append(engine, target.producer, first, events));
        break;
      }
      case "follow": {
        if (runs.length === 0 || consumers.length === 5) break;
        const chosen = [...new Set(one.runs.map((index) => index % runs.length))];
        const runIds = chosen.map((index) => runs[index]!.runId);
        const scope: Scope = { kind: "runs", runIds, inherited: [] };
        const wanted = { scope, types: one.types };
        consumers.push({ consumer: new Consumer(wanted, false), runs: chosen });
        break;
      }
      case "attach":
        consumers[one.consumer]?.consumer.attach(engine);
        break;
      case "read":
        consumers[one.consumer]?.consumer.read();
        break;
      case "drop":
        await consumers[one.consumer]?.consumer.drop(one.forget);
        break;
      case "turns":
        for (let i = 0; i < one.count; i++) await new Promise((resolve) => setImmediate(resolve));
    }
  }
  await Promise.all(commits);
  // And each run once more, for those that began when most consumers had.
  for (const [index, { runId }] of runs.entries()) {
    const scope: Scope = { kind: "runs", runIds: [runId], inherited: [] };
    consumers.push({ consumer: new Consumer({ scope, types: [] }, false), runs: [index] });
  }
  for (const { consumer: last } of consumers) await last.finish(engine);
  return { runs, consumers };
}

describeJournal("a fork with what it inherits", (open, backend) => {
  for (const [name, limits] of Object.entries(deliverySettings)) {
    it(`is one sequence, without doubling at the fork point, over forks of forks, live and paged both ways, ${name}`, async () => {
      await assertHistories(
        backend.histories(100),
        [fc.array(step, { minLength: 20, maxLength: 120 })],
        async (steps) => {
          const store = await open();
          try {
            const engine = engineOver(store.journal, limits);
            const { runs, consumers } = await runSteps(engine, steps);
            const everything = await readAll(store.journal);
            for (const { consumer: last, runs: chosen } of consumers) {
              assert.equal(last.failure, undefined);
              const { scope, types: patterns } = last.wanted;
              const types = TypeFilter.parse("event_types", patterns);
              const history = historyOf(runs, chosen);
              const expected = everything.filter((record) => isInHistory(history, types, record));
              assert.deepEqual(last.received, expected, `${chosen.join()} of ${patterns.join()}`);
              for (const direction of ["forward", "backward"] as const) {
                const seqs: number[] = [];
                for (let seq = 0, end = false; !end; ) {
                  const page = await readEvents(engine, {
                    namespace: "default",
                    filter: { scope, types, kinds: undefined },
                    direction,
                    seq,
                    maxEvents: 4,
                  });
                  const batch = fromBinary(EventBatchSchema, Buffer.concat(page.items));
                  seqs.push(...batch.events.map((record) => Number(record.seq)));
                  seq = page.nextSeq;
                  end = page.end;
                }
                const inOrder = expected.map((record) => Number(record.seq));
                assert.deepEqual(
                  seqs,
                  direction === "forward" ? inOrder : inOrder.toReversed(),
                  direction,
                );
              }
            }
          } finally {
            await store.remove();
          }
        },
      );
    });
  }
});
