import assert from "node:assert/strict";
import { create } from "@bufbuild/protobuf";
import type { KyselyPlugin } from "kysely";
import { RunResultSchema, RunState } from "../../gen/runlog/v1/run_pb.js";
import type { Journal } from "../../src/journal/journal.ts";
import { onlyNode } from "../../src/journal/nodes.ts";
import { Deletions } from "../../src/maintenance/delete-tree.ts";
import { JournalClock } from "../../src/maintenance/journal-clock.ts";
import { RetentionSettings, readNamespaces } from "../../src/maintenance/namespace-directory.ts";
import { Retention } from "../../src/maintenance/retention.ts";
import { type Engine, engineOver, openRun } from "../support/engine.ts";
import { describeJournal } from "../support/journals.ts";
import { quiet } from "../support/quiet.ts";

const namespace = "default";
const hour = 3_600_000;
const day = 24 * hour;

async function finish({ committer }: Engine, runId: string): Promise<void> {
  const producer = await openRun({ committer } as Engine, runId);
  const result = create(RunResultSchema, { state: RunState.SUCCEEDED });
  await committer.submit({ kind: "finish", namespace, runId, producer, lastRunSeq: 0, result });
}

describeJournal("retention", (open) => {
  it("deletes nothing by a clock that jumped, and goes on once it has been right for long", async () => {
    const store = await open();
    try {
      const engine = engineOver(store.journal);
      const { journal, committer } = engine;
      let wallMs = Date.now();
      let steadyMs = 0;
      const clock = new JournalClock({
        wall: () => wallMs,
        steady: () => steadyMs,
        uptime: () => steadyMs,
        settleMs: 60_000,
        pauseMs: 2 * hour,
        onJump: () => undefined,
      });
      const deletions = new Deletions({
        journal,
        committer,
        node: onlyNode,
        onMarked: () => undefined,
      });
      const look = async () => {
        const retention = new Retention({
          journal,
          deletions,
          isOnDuty: () => true,
          now: () => clock.steadyNow(),
          intervalMs: hour,
          onFailure: (error) => assert.fail(String(error)),
        });
        retention.lookAt(namespace);
        await quiet();
        await retention.stop();
      };
      const runCount = async () =>
        (await journal.db.selectFrom("runs").select("run_id").execute()).length;
      await finish(engine, "run");
      await new RetentionSettings(journal).set(namespace, hour, wallMs);
      wallMs += day;
      await look();
      assert.equal(await runCount(), 1);
      wallMs -= day;
      await look();
      assert.equal(await runCount(), 1);
      wallMs += 2 * hour;
      steadyMs += 2 * hour;
      await look();
      assert.equal(await runCount(), 0);
    } finally {
      await store.remove();
    }
  });
});

describeJournal("setting retentions", (open) => {
  it("shares commits and reads among those that are asked for at once, whatever namespaces they are for", async () => {
    const store = await open();
    try {
      let commits = 0;
      let reads = 0;
      const counting: KyselyPlugin = {
        transformQuery({ node }) {
          reads++;
          return node;
        },
        transformResult: ({ result }) => Promise.resolve(result),
      };
      const journal: Journal = {
        ...store.journal,
        scans: store.journal.scans.withPlugin(counting),
        write(work) {
          commits++;
          return store.journal.write(work);
        },
      };
      const settings = new RetentionSettings(journal);
      const names = Array.from({ length: 100 }, (_, n) => `namespace-${n % 50}`);
      const views = await Promise.all(
        names.map((name, n) => settings.set(name, (n + 1) * 1_000, Date.now())),
      );
      assert.deepEqual(
        views.map(({ row }) => row.name),
        names,
      );
      assert.ok(commits <= 4, `${commits} commits`);
      assert.ok(reads <= commits, `${reads} reads for ${commits} commits`);
      const page = await readNamespaces(journal, "", 1_000);
      const kept = new Map(page.namespaces.map(({ row }) => [row.name, row.retention_ms]));
      // Of two for one namespace the later one holds.
      for (let n = 50; n < 100; n++) assert.equal(kept.get(names[n]!), (n + 1) * 1_000);
    } finally {
      await store.remove();
    }
  });
});
