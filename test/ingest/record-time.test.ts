import assert from "node:assert/strict";
import { timestampMs } from "@bufbuild/protobuf/wkt";
import { Committer } from "../../src/ingest/committer.ts";
import { onlyNode } from "../../src/journal/nodes.ts";
import { append, domainOver, eventOf, openRun, readAll } from "../support/domain.ts";
import { describeJournal } from "../support/journals.ts";

describeJournal("record_time", (open) => {
  it("never goes back where the clock does: it stands still, and somebody is told for how long", async () => {
    const store = await open();
    try {
      const plain = domainOver(store.journal);
      let nowMs = 1_700_000_000_000;
      const ahead: number[] = [];
      const { journal, limits, leases } = plain;
      const committer = new Committer({
        ...{ journal, limits, leases, node: onlyNode, now: () => nowMs },
        onCommitted: () => undefined,
        onUncertain: () => undefined,
        onTimeAhead: (_, ms) => ahead.push(ms),
      });
      const domain = { ...plain, committer };
      const producer = await openRun(domain, "run");
      const moves = [1_000, -86_400_000, 5_000, 86_400_000];
      for (const [index, ms] of moves.entries()) {
        nowMs += ms;
        await append(domain, producer, index + 1, [eventOf("x")]);
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
