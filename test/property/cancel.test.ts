import assert from "node:assert/strict";
import { create } from "@bufbuild/protobuf";
import fc from "fast-check";
import { RunResultSchema, RunSpecSchema, RunState } from "../../gen/runlog/v1/run_pb.js";
import { Producer } from "../../src/ingest/operation.ts";
import { onlyNode } from "../../src/journal/nodes.ts";
import { Cancellations } from "../../src/maintenance/cancellations.ts";
import { type Engine, engineOver } from "../support/engine.ts";
import { assertHistories } from "../support/histories.ts";
import { describeJournal } from "../support/journals.ts";

const runCount = 8;

/** `run` counts among the runs that have started by then. */
type Step =
  | { readonly kind: "start" }
  | { readonly kind: "open" | "finish" | "leave"; readonly run: number }
  | { readonly kind: "cancel"; readonly run: number; readonly withFamily: boolean }
  | { readonly kind: "turns"; readonly count: number };

const run = fc.nat({ max: runCount - 1 });
const step: fc.Arbitrary<Step> = fc.oneof(
  { weight: 3, arbitrary: fc.record({ kind: fc.constant("start" as const) }) },
  {
    weight: 8,
    arbitrary: fc.record({ kind: fc.constantFrom("open", "open", "leave", "finish"), run }),
  },
  {
    weight: 4,
    arbitrary: fc.record({ kind: fc.constant("cancel" as const), run, withFamily: fc.boolean() }),
  },
  { weight: 2, arbitrary: fc.record({ kind: fc.constant("turns" as const), count: fc.nat(4) }) },
);

/** A run as it should be, one request after the other. */
interface ModelRun {
  readonly parent: number | undefined;
  isRunning: boolean;
  reason: string | undefined;
  /** All that it was ever asked, in order. */
  readonly asked: string[];
  /** What its family was asked, by a request to the run or to one of its ancestors. */
  passesOn: string | undefined;
  /** The producer that holds it, and what it should have been told. */
  holder: { readonly told: string[] } | undefined;
}

/** The answers of the real one beside the model's. */
interface Told {
  readonly real: string[];
  readonly expected: string[];
  /** What was ever asked of the run. */
  readonly asked: readonly string[];
  /** Whether the run has not ended under this producer, so that it has to learn of the newest request. */
  readonly isDue: () => boolean;
}

function isInFamily(runs: Map<number, ModelRun>, ancestor: number, member: number): boolean {
  for (let at: number | undefined = member; at !== undefined; at = runs.get(at)?.parent) {
    if (at === ancestor) return true;
  }
  return false;
}

/** Submits the steps without waiting, in order, and applies each to the model at once. */
async function runSteps(
  engine: Engine,
  parents: readonly number[],
  steps: readonly Step[],
  stepRuns: number,
) {
  const { committer, journal } = engine;
  const cancellations = new Cancellations({ journal, committer, node: onlyNode, stepRuns });
  const namespace = "default";
  const runs = new Map<number, ModelRun>();
  const producers = new Map<number, Producer>();
  const told: Told[] = [];
  const answers: Promise<void>[] = [];
  for (const [index, one] of steps.entries()) {
    if (one.kind === "turns") {
      for (let i = 0; i < one.count; i++) await new Promise((resolve) => setImmediate(resolve));
      continue;
    }
    if (one.kind === "start") {
      const started = runs.size;
      if (started === runCount) continue;
      const runId = `run-${started}`;
      const parent = started === 0 ? undefined : parents[started]!;
      const above = parent === undefined ? undefined : runs.get(parent);
      const parentRunId = parent === undefined ? "" : `run-${parent}`;
      const spec = create(RunSpecSchema, { parentRunId });
      runs.set(started, {
        parent,
        isRunning: true,
        reason: above?.passesOn,
        passesOn: above?.passesOn,
        asked: above?.passesOn === undefined ? [] : [above.passesOn],
        holder: undefined,
      });
      answers.push(
        committer
          .submit({ kind: "create", namespace, runId, spec, fork: undefined })
          .then(({ t }) => assert.equal(t, "created")),
      );
      continue;
    }
    if (runs.size === 0) continue;
    const chosen = one.run % runs.size;
    const runId = `run-${chosen}`;
    const model = runs.get(chosen)!;
    switch (one.kind) {
      case "open": {
        const expected: string[] = [];
        const isDue = () => model.isRunning && model.holder?.told === expected;
        const pair: Told = { real: [], expected, asked: model.asked, isDue };
        told.push(pair);
        const producer = new Producer(runId, undefined, {
          onCancelRequested: (reason) => pair.real.push(reason),
        });
        producers.set(chosen, producer);
        model.holder = { told: pair.expected };
        if (model.isRunning && model.reason !== undefined) pair.expected.push(model.reason);
        const opening = Promise.withResolvers<void>();
        answers.push(opening.promise);
        // As a stream does: at once, before the next producer can fence this one.
        committer.enqueue(
          { kind: "open", namespace, runId, producer, spec: undefined },
          {
            onOutcome(outcome) {
              if (outcome.t === "opened" && outcome.cancelReason !== undefined) {
                producer.cancelRequested(outcome.cancelReason);
              }
              opening.resolve();
            },
            onFailure: opening.reject,
          },
        );
        break;
      }
      case "finish": {
        const producer = producers.get(chosen);
        if (producer === undefined || model.holder === undefined) continue;
        const result = create(RunResultSchema, { state: RunState.CANCELLED });
        model.isRunning = false;
        answers.push(
          committer
            .submit({ kind: "finish", namespace, runId, producer, lastRunSeq: 0, result })
            .then(({ t }) => assert.equal(t, "ended")),
        );
        break;
      }
      case "leave": {
        // After the open, which may be under way.
        await Promise.all(answers);
        const producer = producers.get(chosen);
        if (producer !== undefined) committer.release(namespace, producer);
        model.holder = undefined;
        break;
      }
      case "cancel": {
        const reason = `reason ${index}`;
        let reached = 0;
        for (const [member, target] of runs) {
          const isAsked = one.withFamily ? isInFamily(runs, chosen, member) : member === chosen;
          if (!isAsked) continue;
          if (one.withFamily) target.passesOn = reason;
          if (!target.isRunning) continue;
          target.reason = reason;
          target.asked.push(reason);
          reached++;
          target.holder?.told.push(reason);
        }
        const { withFamily: includeDescendants } = one;
        answers.push(
          cancellations.cancel({ namespace, runId, includeDescendants, reason }).then((count) => {
            // Where a family is asked in steps, some of it ends before it is asked.
            assert.ok(count <= reached);
            if (stepRuns >= runCount) assert.equal(count, reached, `runs that ${reason} reached`);
          }),
        );
      }
    }
  }
  await Promise.all(answers);
  await committer.idle();
  return told;
}

/** Whether `some` are among `all`, in their order. */
function isAmong(some: readonly string[], all: readonly string[]): boolean {
  let at = 0;
  for (const one of all) if (one === some[at]) at++;
  return at === some.length;
}

describeJournal("asking to stop", (open, backend) => {
  const parents = fc.tuple(
    ...Array.from({ length: runCount }, (_, i) => fc.nat({ max: Math.max(0, i - 1) })),
  );
  const steps = fc.array(step, { minLength: 10, maxLength: 100 });

  it("reaches each producer of the run or family once, those that come later too, whatever starts meanwhile", async () => {
    await assertHistories(backend.histories(200), [parents, steps], async (tree, some) => {
      const store = await open();
      try {
        const told = await runSteps(engineOver(store.journal), tree, some, runCount);
        for (const { real, expected } of told) assert.deepEqual(real, expected);
      } finally {
        await store.remove();
      }
    });
  });

  it("reaches them too where a family is asked in steps: none twice, none by an older request after a newer one", async () => {
    const stepRuns = fc.integer({ min: 1, max: 3 });
    await assertHistories(
      backend.histories(200),
      [parents, steps, stepRuns],
      async (tree, some, runs) => {
        const store = await open();
        try {
          for (const one of await runSteps(engineOver(store.journal), tree, some, runs)) {
            const { real, expected, asked } = one;
            assert.ok(isAmong(real, asked), `${real.join()} of ${asked.join()}`);
            if (one.isDue()) assert.equal(real.at(-1), expected.at(-1));
          }
        } finally {
          await store.remove();
        }
      },
    );
  });
});
