import assert from "node:assert/strict";
import { create } from "@bufbuild/protobuf";
import fc from "fast-check";
import {
  RunResultSchema,
  RunSpecSchema,
  RunState,
  SignalRunRequestSchema,
} from "../../gen/runlog/v1/run_pb.js";
import { listRuns, type RunListing } from "../../src/delivery/run-directory.ts";
import { Producer } from "../../src/ingest/operation.ts";
import { signalRun } from "../../src/ingest/signal-run.ts";
import { findNamespace } from "../../src/journal/namespaces.ts";
import { type RunQuery, stepThroughRuns } from "../../src/journal/run-lists.ts";
import { type Engine, engineOver, eventOf } from "../support/engine.ts";
import { describeJournal, type TestJournal } from "../support/journals.ts";

const namespace = "default";
const states = [RunState.RUNNING, RunState.SUCCEEDED, RunState.FAILED] as const;

/** A run as it is made; its number is its place among all. */
interface Made {
  /** Index of a run before it; undefined for a root. */
  readonly parent: number | undefined;
  readonly conversation: string;
  readonly labels: Readonly<Record<string, string>>;
  readonly state: RunState;
}

/** 60 runs, of which some conditions hold for most and some for hardly any. */
const made: readonly Made[] = Array.from({ length: 60 }, (_, n) => ({
  parent: n % 7 === 0 ? undefined : Math.floor(n / 2),
  conversation: n % 3 === 0 ? "few" : "many",
  labels: { all: "yes", ...(n % 2 === 0 && { half: "yes" }), ...(n % 20 === 5 && { rare: "yes" }) },
  state: states[n % 11 === 0 ? 2 : n % 2]!,
}));

function agentOf(n: number): string {
  return n % 2 === 0 ? "even" : "odd";
}

/** Whether somebody has sent a signal to it that nobody handles. */
function hasSignal(n: number): boolean {
  return n % 5 === 0;
}

async function make(engine: Engine): Promise<void> {
  const { committer } = engine;
  for (const [n, { parent, conversation, labels, state }] of made.entries()) {
    const runId = `run-${n}`;
    const producer = new Producer(runId);
    const spec = create(RunSpecSchema, {
      parentRunId: parent === undefined ? "" : `run-${parent}`,
      conversationId: conversation,
      labels,
      agentId: agentOf(n),
    });
    await committer.submit({ kind: "open", namespace, runId, producer, spec });
    if (hasSignal(n)) {
      const event = eventOf("signal");
      await signalRun(engine, create(SignalRunRequestSchema, { runId, event }), "");
    }
    if (state === RunState.RUNNING) continue;
    const result = create(RunResultSchema, { state });
    await committer.submit({ kind: "finish", namespace, runId, producer, lastRunSeq: 0, result });
  }
}

function isBelow(n: number, ancestor: number): boolean {
  for (let at = made[n]!.parent; at !== undefined; at = made[at]!.parent) {
    if (at === ancestor) return true;
  }
  return false;
}

const anyRun = fc.nat({ max: made.length - 1 });
const query = fc.record(
  {
    parent: anyRun,
    ancestor: anyRun,
    conversation: fc.constantFrom("few", "many", "none"),
    states: fc.array(fc.constantFrom(...states, RunState.LOST, 99 as RunState), { maxLength: 4 }),
    labels: fc.dictionary(fc.constantFrom("all", "half", "rare", "none"), fc.constant("yes")),
    prefix: fc.constantFrom("run-", "run-1", "run-5", "run-59", "none"),
    agent: fc.constantFrom("odd", "even", "none"),
    hasPending: fc.boolean(),
  },
  { requiredKeys: ["labels"] },
);

/** Numbers of the runs that fulfil it, newest first. */
function expectedOf(wanted: typeof query extends fc.Arbitrary<infer T> ? T : never): number[] {
  const { parent, ancestor, conversation, states: some, labels } = wanted;
  const { prefix = "", agent, hasPending } = wanted;
  return made
    .map((_, n) => n)
    .filter((n) => {
      const run = made[n]!;
      return (
        (parent === undefined || run.parent === parent) &&
        (ancestor === undefined || isBelow(n, ancestor)) &&
        (conversation === undefined || run.conversation === conversation) &&
        (some === undefined || some.includes(run.state)) &&
        `run-${n}`.startsWith(prefix) &&
        (agent === undefined || agentOf(n) === agent) &&
        (hasPending !== true || hasSignal(n)) &&
        Object.keys(labels).every((key) => key in run.labels)
      );
    })
    .reverse();
}

describeJournal("listing runs", (open, backend) => {
  let store: TestJournal;

  before(async () => {
    store = await open();
    await make(engineOver(store.journal));
  });

  after(() => store.remove());

  it("finds the runs that fulfil all conditions, whichever are the selective ones and wherever a step ends", async () => {
    const { journal } = store;
    const { namespace_id: namespaceId } = (await findNamespace(journal.db, namespace))!;
    const rows = await journal.db.selectFrom("runs").select(["run_key", "run_id"]).execute();
    const keys = new Map(rows.map((row) => [row.run_id, row.run_key]));
    const keyOf = (n: number) => keys.get(`run-${n}`)!;
    await fc.assert(
      fc.asyncProperty(query, fc.integer({ min: 1, max: 70 }), async (wanted, stepRuns) => {
        const { parent, ancestor, conversation, states: some, labels } = wanted;
        const { prefix, agent, hasPending } = wanted;
        const asked: RunQuery = {
          ...(parent !== undefined && { parentKey: keyOf(parent) }),
          ...(ancestor !== undefined && { ancestorKey: keyOf(ancestor) }),
          ...(conversation !== undefined && { conversationId: conversation }),
          ...(some !== undefined && { states: some }),
          labels,
          ...(prefix !== undefined && { idPrefix: prefix }),
          ...(agent !== undefined && { agentId: agent }),
          ...(hasPending === true && { hasPendingSignals: true }),
        };
        const found: number[] = [];
        for (let beforeKey = Number.MAX_SAFE_INTEGER; beforeKey > 0; ) {
          const step = await stepThroughRuns(
            journal.scans,
            namespaceId,
            asked,
            beforeKey,
            stepRuns,
          );
          assert.ok(step.reachKey < beforeKey);
          found.push(...step.keys);
          beforeKey = step.reachKey;
        }
        assert.deepEqual(found, expectedOf(wanted).map(keyOf));
      }),
      { numRuns: backend.histories(100) },
    );
  });

  it("pages through them without losing or doubling one", async () => {
    const all = { parentRunId: undefined, ancestorRunId: undefined, conversationId: undefined };
    const listing = {
      ...all,
      states: undefined,
      labels: { half: "yes" },
      pageSize: 7,
      maxBytes: 3_000_000,
    };
    const found: string[] = [];
    for (let beforeKey: RunListing["beforeKey"], isLast = false; !isLast; ) {
      const page = await listRuns(store.journal, namespace, { ...listing, beforeKey });
      found.push(...page.runs.map((run) => run.run_id));
      beforeKey = page.nextBeforeKey;
      isLast = beforeKey === undefined;
    }
    assert.deepEqual(
      found,
      expectedOf({ labels: { half: "yes" } }).map((n) => `run-${n}`),
    );
  });

  it("takes any number of states and labels", async () => {
    const page = await listRuns(store.journal, namespace, {
      parentRunId: undefined,
      ancestorRunId: undefined,
      conversationId: undefined,
      states: Array.from({ length: 100_000 }, (_, n) => n as RunState),
      labels: Object.fromEntries(Array.from({ length: 50 }, (_, n) => [`label-${n}`, "no"])),
      pageSize: 1_000,
      maxBytes: 3_000_000,
      beforeKey: undefined,
    });
    assert.deepEqual([page.runs, page.nextBeforeKey], [[], undefined]);
  });
});
