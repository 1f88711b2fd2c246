import assert from "node:assert/strict";
import { create } from "@bufbuild/protobuf";
import { RunResultSchema, RunState } from "../../gen/runlog/v1/run_pb.js";
import { onlyNode } from "../../src/journal/nodes.ts";
import { Deletions } from "../../src/upkeep/delete-tree.ts";
import { JournalClock } from "../../src/upkeep/journal-clock.ts";
import { setRetention } from "../../src/upkeep/namespace-directory.ts";
import { Retention } from "../../src/upkeep/retention.ts";
import { type Domain, domainOver, openRun } from "../support/domain.ts";
import { describeJournal } from "../support/journals.ts";
import { quiet } from "../support/quiet.ts";

const namespace = "default";
const hour = 3_600_000;
const day = 24 * hour;

async function finish({ committer }: Domain, runId: string): Promise<void> {
  const producer = await openRun({ committer } as Domain, runId);
  const result = create(RunResultSchema, { state: RunState.SUCCEEDED });
  await committer.submit({ kind: "finish", namespace, runId, producer, lastRunSeq: 0, result });
}

describeJournal("retention", (open) => {
  it("deletes nothing by a clock that jumped, and goes on once it has been right for long", async () => {
    const store = await open();
    try {
      const domain = domainOver(store.journal);
      const { journal, committer } = domain;
      let wallMs = Date.now();
      let steadyMs = 0;
      const clock = new JournalClock({
        wall: () => wallMs,
        steady: () => steadyMs,
        uptime: () => steadyMs,
        ...{ settleMs: 60_000, pauseMs: 2 * hour },
        onJump: () => undefined,
      });
      const deletions = new Deletions({
        ...{ journal, committer, node: onlyNode },
        onMarked: () => undefined,
      });
      const look = async () => {
        const retention = new Retention({
          ...{ journal, deletions, isOnDuty: () => true, now: () => clock.steadyNow() },
          intervalMs: hour,
          onFailure: (error) => assert.fail(String(error)),
        });
        retention.lookAt(namespace);
        await quiet();
        await retention.stop();
      };
      const runCount = async () =>
        (await journal.db.selectFrom("runs").select("run_id").execute()).length;
      await finish(domain, "run");
      await setRetention(journal, committer, namespace, hour, wallMs);
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
