import assert from "node:assert/strict";
import { create } from "@bufbuild/protobuf";
import { RunResultSchema, RunState } from "../../gen/runlog/v1/run_pb.js";
import { Producer } from "../../src/ingest/operation.ts";
import { findUnfinishedCancellations } from "../../src/journal/cancellations.ts";
import type { Journal } from "../../src/journal/journal.ts";
import { findNamespace } from "../../src/journal/namespaces.ts";
import { onlyNode } from "../../src/journal/nodes.ts";
import { Cancellations } from "../../src/maintenance/cancellations.ts";
import { RefusedError } from "../../src/refusal.ts";
import { engineOver, openRun } from "../support/engine.ts";
import { describeJournal } from "../support/journals.ts";

const namespace = "default";
const request = { namespace, runId: "root", includeDescendants: true, reason: "enough" };

describeJournal("a request to stop a large family", (open) => {
  it("is gone on with by whoever finds it, where the database failed in the middle", async () => {
    const store = await open();
    try {
      let left = Number.POSITIVE_INFINITY;
      const journal: Journal = {
        ...store.journal,
        write(work) {
          if (left-- > 0) return store.journal.write(work);
          return Promise.reject(new RefusedError({ reason: "journal_unavailable" }));
        },
      };
      const engine = engineOver(journal);
      const { committer } = engine;
      const told: string[] = [];
      for (let n = 0; n < 10; n++) {
        const runId = n === 0 ? "root" : `run-${n}`;
        await openRun(engine, runId, n === 0 ? "" : "root");
        // As its stream does, to be told.
        const producer = new Producer(runId, undefined, {
          onCancelRequested: () => told.push(runId),
        });
        await committer.submit({ kind: "open", namespace, runId, producer, spec: undefined });
      }
      const cancellations = () =>
        new Cancellations({ journal, committer, node: onlyNode, stepRuns: 2 });
      left = 3;
      await assert.rejects(cancellations().cancel(request), RefusedError);
      left = Number.POSITIVE_INFINITY;
      assert.equal(told.length, 6);
      const found = await findUnfinishedCancellations(journal.db, 0, true, [0, 0], 10);
      assert.deepEqual(
        found.map((one) => [one.namespace, one.reason]),
        [[namespace, "enough"]],
      );
      await cancellations().resume(namespace, found[0]!);
      assert.equal(new Set(told).size, 10);
      assert.equal(told.length, 10);
      assert.deepEqual(await findUnfinishedCancellations(journal.db, 0, true, [0, 0], 10), []);
    } finally {
      await store.remove();
    }
  });

  it("leaves runs alone that have ended", async () => {
    const store = await open();
    try {
      const engine = engineOver(store.journal);
      const { committer, journal } = engine;
      await openRun(engine, "root");
      const result = create(RunResultSchema, { state: RunState.SUCCEEDED });
      for (let n = 1; n < 10; n++) {
        const runId = `run-${n}`;
        const producer = await openRun(engine, runId, "root");
        const on = { namespace, runId, producer, lastRunSeq: 0, result };
        if (n < 9) await committer.submit({ kind: "finish", ...on });
      }
      const cancellations = new Cancellations({ journal, committer, node: onlyNode, stepRuns: 3 });
      assert.equal(await cancellations.cancel(request), 2);
      const { namespace_id: id } = (await findNamespace(journal.db, namespace))!;
      const asked = await journal.db
        .selectFrom("runs")
        .select("run_id")
        .where("namespace_id", "=", id)
        .where("cancel_reason", "is not", null)
        .orderBy("run_key")
        .execute();
      assert.deepEqual(
        asked.map((run) => run.run_id),
        ["root", "run-9"],
      );
    } finally {
      await store.remove();
    }
  });
});
