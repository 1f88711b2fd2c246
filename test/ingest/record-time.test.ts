import assert from "node:assert/strict";
import { timestampMs } from "@bufbuild/protobuf/wkt";
import { Committer } from "../../src/ingest/committer.ts";
import { onlyNode } from "../../src/journal/nodes.ts";
import { append, engineOver, eventOf, openRun, readAll } from "../support/engine.ts";
import { describeJournal } from "../support/journals.ts";

describeJournal("record_time", (open) => {
  it("never goes back where the clock does: it stands still, and reports for how long", async () => {
    const store = await open();
    try {
      const plain = engineOver(store.journal);
      let nowMs = 1_700_000_000_000;
      const ahead: number[] = [];
      const { journal, limits, leases } = plain;
      const committer = new Committer({
        journal,
        limits,
        leases,
        node: onlyNode,
        now: () => nowMs,
        onCommitted: () => undefined,
        onUncertain: () => undefined,
        onTimeAhead: (_, ms) => ahead.push(ms),
      });
      const engine = { ...plain, committer };
      const producer = await openRun(engine, "run");
      const moves = [1_000, -86_400_000, 5_000, 86_400_000];
      for (const [index, ms] of moves.entries()) {
        nowMs += ms;
        await append(engine, producer, index + 1, [eventOf("x")]);
      }
      const records = await readAll(journal);
      const startMs = 1_700_000_000_000;
      assert.deepEqual(
        records.map(({ recordTime }) => timestampMs(recordTime!) - startMs),
        [0, 1_000, 1_000, 1_000, 6_000],
      );
      assert.deepEqual(ahead, [86_400_000, 86_395_000]);
    } finally {
      await store.remove();
    }
  });
});
