import assert from "node:assert/strict";
import { create } from "@bufbuild/protobuf";
import fc from "fast-check";
import type { SequencedEvent } from "../../gen/runlog/v1/record_pb.js";
import { RunResultSchema, RunSpecSchema, RunState } from "../../gen/runlog/v1/run_pb.js";
import type { Scope } from "../../src/delivery/filter.ts";
import type { Producer } from "../../src/ingest/operation.ts";
import type { Journal } from "../../src/journal/journal.ts";
import { findNamespace } from "../../src/journal/namespaces.ts";
import { onlyNode } from "../../src/journal/nodes.ts";
import { findMarkedTrees } from "../../src/journal/trees.ts";
import { Deletions } from "../../src/maintenance/delete-tree.ts";
import { readNamespaces } from "../../src/maintenance/namespace-directory.ts";
import { RefusedError } from "../../src/refusal.ts";
import { Consumer, deliverySettings } from "../support/consumer.ts";
import { append, type Engine, engineOver, eventOf, openRun, readAll } from "../support/engine.ts";
import { assertHistories } from "../support/histories.ts";
import { describeJournal } from "../support/journals.ts";

const rootCount = 3;
const namespace = "default";

type Step =
  | { readonly kind: "start"; readonly tree: number }
  | { readonly kind: "append"; readonly tree: number; readonly count: number }
  | { readonly kind: "finish" | "delete"; readonly tree: number }
  | { readonly kind: "fork"; readonly tree: number; readonly from: number }
  | { readonly kind: "die"; readonly tree: number; readonly transactions: number }
  | { readonly kind: "attach" | "read"; readonly consumer: number }
  | { readonly kind: "drop" };

/** Of everything, and of some trees by both of the other scopes. */
const followed: readonly Scope[] = [
  { kind: "all" },
  { kind: "runs", runIds: ["0.0"] },
  { kind: "ancestor", ancestorId: "1.0", includeSelf: true, maxDepth: Number.POSITIVE_INFINITY },
  { kind: "runs", runIds: ["0.0", "2.0"] },
];

const tree = fc.nat({ max: rootCount - 1 });
/** Mostly the one that follows everything: its cursor may stand in any tree. */
const consumer = fc.constantFrom(0, 0, 0, 1, 2, 3);
const step: fc.Arbitrary<Step> = fc.oneof(
  { weight: 4, arbitrary: fc.record({ kind: fc.constant("start" as const), tree }) },
  {
    weight: 6,
    arbitrary: fc.record({ kind: fc.constant("append" as const), tree, count: fc.nat(7) }),
  },
  {
    weight: 5,
    arbitrary: fc.record({ kind: fc.constantFrom("finish", "finish", "delete"), tree }),
  },
  { weight: 1, arbitrary: fc.record({ kind: fc.constant("fork" as const), tree, from: tree }) },
  {
    weight: 1,
    arbitrary: fc.record({ kind: fc.constant("die" as const), tree, transactions: fc.nat(3) }),
  },
  {
    weight: 12,
    arbitrary: fc.record({ kind: fc.constantFrom("attach", "read", "read", "read"), consumer }),
  },
  { weight: 1, arbitrary: fc.record({ kind: fc.constant("drop" as const) }) },
);

/** A tree as it should be; the ids of deleted ones are used again. */
interface ModelTree {
  readonly runs: { readonly producer: Producer; appended: number; isRunning: boolean }[];
  /** Trees that one of this tree's runs was forked from. */
  readonly sources: Set<ModelTree>;
}

/** Trees are followed as a whole, or by their root alone. */
function isInScope(scope: Scope, runId: string): boolean {
  switch (scope.kind) {
    case "all":
      return true;
    case "runs":
      return scope.runIds.includes(runId);
    case "ancestor":
      return runId.startsWith(scope.ancestorId.slice(0, 2));
  }
}

class Dying extends Error {}

/** A journal whose process dies before its n-th transaction. */
function dyingAfter(journal: Journal, transactions: number): Journal {
  let left = transactions;
  return {
    ...journal,
    write(work) {
      if (left-- <= 0) return Promise.reject(new Dying());
      return journal.write(work);
    },
  };
}

function deletionsOver({ journal, committer, tails }: Engine, over: Journal = journal): Deletions {
  return new Deletions({
    journal: over,
    committer,
    node: onlyNode,
    onMarked: (name) => tails.forget(name),
  });
}

async function runSteps(engine: Engine, steps: readonly Step[]): Promise<SequencedEvent[]> {
  const { committer, journal } = engine;
  const trees = new Map<number, ModelTree>();
  /** The records of each tree that was deleted. */
  const deletedTrees: SequencedEvent[][] = [];
  const consumers = followed.map((scope) => new Consumer({ scope, types: [] }));
  const deleteOne = async (index: number, deletions: Deletions): Promise<void> => {
    const model = trees.get(index);
    const isRunning = model?.runs.some((one) => one.isRunning) ?? false;
    const isForked = [...trees.values()].some(
      (other) => other !== model && model !== undefined && other.sources.has(model),
    );
    const before = (await readAll(journal)).filter(({ runId }) => runId.startsWith(`${index}.`));
    const deleting = deletions.delete(namespace, `${index}.0`);
    if (model === undefined || isRunning || isForked) {
      const expected = model === undefined ? "run_not_found" : "tree_in_use";
      await assert.rejects(deleting, (error) => {
        assert.ok(error instanceof RefusedError);
        assert.equal(error.refusal.reason, expected);
        return true;
      });
      return;
    }
    trees.delete(index);
    deletedTrees.push(before);
    const deleted = await deleting;
    assert.deepEqual(deleted, { runCount: model.runs.length, recordCount: before.length });
  };
  for (const one of steps) {
    const model = "tree" in one ? trees.get(one.tree) : undefined;
    switch (one.kind) {
      case "start": {
        const known = model ?? { runs: [], sources: new Set() };
        trees.set(one.tree, known);
        const index = known.runs.length;
        // Each run is a child of the one in the middle, so that trees have some depth.
        const parent = index === 0 ? "" : `${one.tree}.${Math.floor(index / 2)}`;
        const producer = await openRun(engine, `${one.tree}.${index}`, parent);
        known.runs.push({ producer, appended: 0, isRunning: true });
        break;
      }
      case "append": {
        const run = model?.runs.at(-1);
        if (run === undefined || !run.isRunning || one.count === 0) break;
        const events = Array.from({ length: one.count }, (_, i) => eventOf(`${i}`));
        await append(engine, run.producer, run.appended + 1, events);
        run.appended += one.count;
        break;
      }
      case "finish":
        for (const run of model?.runs ?? []) {
          const { runId } = run.producer;
          const result = create(RunResultSchema, { state: RunState.SUCCEEDED });
          const { producer } = run;
          const lastRunSeq = undefined;
          if (!run.isRunning) continue;
          await committer.submit({
            kind: "finish",
            namespace,
            runId,
            producer,
            lastRunSeq,
            result,
          });
          run.isRunning = false;
        }
        break;
      case "fork": {
        const source = trees.get(one.from);
        const last = source?.runs.at(-1);
        if (source === undefined || last === undefined || trees.has(one.tree)) break;
        const runId = `${one.tree}.0`;
        const fork = { sourceRunId: last.producer.runId, runSeq: last.appended };
        const spec = create(RunSpecSchema);
        await committer.submit({ kind: "create", namespace, runId, spec, fork });
        const producer = await openRun(engine, runId);
        const run = { producer, appended: 0, isRunning: true };
        trees.set(one.tree, { runs: [run], sources: new Set([source]) });
        break;
      }
      case "attach":
        consumers[one.consumer]!.attach(engine);
        break;
      case "read":
        consumers[one.consumer]!.read();
        break;
      case "drop":
        // A run that was deleted and made anew is announced only while it is followed:
        // who resumes has no way to say which of the two it was.
        await consumers[0]!.drop();
        break;
      case "delete":
        await deleteOne(one.tree, deletionsOver(engine));
        break;
      case "die": {
        const dying = deletionsOver(engine, dyingAfter(journal, one.transactions));
        await deleteOne(one.tree, dying).catch((error: unknown) => {
          assert.ok(error instanceof Dying);
        });
        // The next start goes on.
        for (const marked of await findMarkedTrees(journal.db, 0, true, [0, 0], 100)) {
          await deletionsOver(engine).resume(marked);
        }
      }
    }
  }
  const left = await readAll(journal);
  const gone = new Set(deletedTrees.flat().map((record) => String(record.seq)));
  for (const last of consumers) {
    if (last.wanted.scope.kind === "all") await last.finish(engine);
    else await last.readOn();
    await last.drop();
    if (last.failure !== undefined) {
      const reasons = ["cursor_trimmed", "run_not_found"];
      assert.ok(reasons.includes(last.failure.refusal.reason));
      assert.ok(gone.size > 0, "nobody is refused for nothing");
      continue;
    }
    // A reader that was not refused has every tree whole, or not at all.
    const received = new Set(last.received.map((record) => record.seq));
    const { scope } = last.wanted;
    const isAttached = last.received.length > 0;
    for (const records of isAttached ? [left, ...deletedTrees] : []) {
      const wanted = records.filter(({ runId }) => isInScope(scope, runId));
      const seen = wanted.filter((record) => received.has(record.seq)).length;
      const isWhole = seen === wanted.length || (records !== left && seen === 0);
      assert.ok(isWhole, `${scope.kind}: ${seen} of ${wanted.length}, and no error`);
    }
  }
  const runsLeft = [...trees.values()].flatMap((known) => known.runs);
  const [view] = (await readNamespaces(journal, "", 1)).namespaces;
  if (view === undefined) return left;
  assert.deepEqual(
    left.map((record) => Number(record.seq)),
    Array.from({ length: view.row.last_seq }, (_, i) => i + 1).filter(
      (seq) => !gone.has(String(seq)),
    ),
    "what is left is all that was not deleted",
  );
  assert.equal(view.earliestSeq, Number(left[0]?.seq ?? view.row.last_seq + 1));
  assert.equal(view.row.run_count, runsLeft.length);
  assert.equal(view.row.running_count, runsLeft.filter((run) => run.isRunning).length);
  const runs = await journal.db.selectFrom("runs").selectAll().execute();
  assert.equal(runs.length, runsLeft.length, "no rows of deleted runs are left");
  assert.equal(
    view.row.event_bytes,
    runs.reduce((sum, run) => sum + run.event_bytes, 0),
  );
  for (const table of ["run_ancestors", "records", "deletions"] as const) {
    const { count } = await journal.db
      .selectFrom(table)
      .select((eb) => eb.fn.countAll<number>().as("count"))
      .where(table === "run_ancestors" ? "run_key" : "root_key", "not in", [
        0,
        ...runs.map((run) => (table === "run_ancestors" ? run.run_key : run.root_key)),
      ])
      .executeTakeFirstOrThrow();
    assert.equal(count, 0, `nothing of deleted trees is left in ${table}`);
  }
  return left;
}

describeJournal("deleting trees", (open, backend) => {
  for (const [name, limits] of Object.entries(deliverySettings)) {
    it(`deletes whole trees of ended runs and nothing else, whenever a process dies, and tells those who were reading, ${name}`, async () => {
      await assertHistories(
        backend.histories(100),
        [fc.array(step, { minLength: 40, maxLength: 120, size: "max" })],
        async (steps) => {
          const store = await open();
          try {
            await runSteps(engineOver(store.journal, limits), steps);
          } finally {
            await store.remove();
          }
        },
      );
    });
  }

  it("tells readers also where it is unknown whether the deletion has begun", async () => {
    const store = await open();
    try {
      let isLosing = false;
      const journal: Journal = {
        ...store.journal,
        async write(work) {
          const result = await store.journal.write(work);
          if (isLosing) throw new RefusedError({ reason: "journal_unavailable" });
          return result;
        },
      };
      const engine = engineOver(journal);
      const producer = await openRun(engine, "0.0");
      const result = create(RunResultSchema, { state: RunState.SUCCEEDED });
      await engine.committer.submit({
        kind: "finish",
        namespace,
        runId: "0.0",
        producer,
        lastRunSeq: 0,
        result,
      });
      const reading = new Consumer({ scope: { kind: "runs", runIds: ["0.0"] }, types: [] });
      reading.attach(engine);
      await reading.readOn();
      assert.equal(reading.received.length, 2);
      isLosing = true;
      await assert.rejects(deletionsOver(engine).delete(namespace, "0.0"), RefusedError);
      await reading.readOn();
      assert.equal(reading.failure?.refusal.reason, "run_not_found");
    } finally {
      await store.remove();
    }
  });

  // PostgreSQL does both by itself: rows of other trees are not locked, and it vacuums.
  if (backend.name !== "SQLite") return;

  it("lets appends through between its steps, and gives the space back", async () => {
    const store = await open();
    try {
      const engine = engineOver(store.journal);
      const large = await openRun(engine, "large");
      const payload = "x".repeat(200_000);
      for (let at = 1; at <= 200; at++) await append(engine, large, at, [eventOf(payload)]);
      const result = create(RunResultSchema, { state: RunState.SUCCEEDED });
      await engine.committer.submit({
        kind: "finish",
        namespace,
        runId: "large",
        producer: large,
        lastRunSeq: 200,
        result,
      });
      const small = await openRun(engine, "small");
      const before = await store.sizeBytes();
      let isDeleted = false;
      const deleting = deletionsOver(engine)
        .delete(namespace, "large")
        .then(() => {
          isDeleted = true;
        });
      let appended = 0;
      while (!isDeleted) await append(engine, small, ++appended, [eventOf("small")]);
      await deleting;
      // 40 MB in steps of 2: each let the append through that waited for it.
      assert.ok(appended >= 10, `${appended} appends went on meanwhile`);
      const left = await readAll(store.journal);
      assert.equal(left.length, appended + 1);
      const after = await store.sizeBytes();
      assert.ok(after < before / 4, `${before} bytes before, ${after} after`);
      const row = await findNamespace(store.journal.db, namespace);
      assert.equal(row?.trimmed_seq, 202);
    } finally {
      await store.remove();
    }
  });
});
