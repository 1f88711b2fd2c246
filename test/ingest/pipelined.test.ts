/** Groups that are sent before those before them are answered: who sees what of them, and when. */
import assert from "node:assert/strict";
import { yieldToEventLoop } from "../../src/event-loop.ts";
import { Committer } from "../../src/ingest/committer.ts";
import { Leases } from "../../src/ingest/leases.ts";
import type { Journal } from "../../src/journal/journal.ts";
import { onlyNode } from "../../src/journal/nodes.ts";
import { defaultLimits } from "../../src/limits.ts";
import { append, engineOver, eventOf, openRun } from "../support/engine.ts";
import { describeJournal } from "../support/journals.ts";

describeJournal("a group that is sent ahead", (open) => {
  let journal: Journal;
  let remove: () => Promise<void>;

  beforeEach(async () => {
    ({ journal, remove } = await open());
  });

  afterEach(() => remove());

  it("is in the tail once it is known to be written, and before its producer is answered", async () => {
    const seen: string[] = [];
    /** The answers of the database, each held back until it is let through. */
    const answers: (() => void)[] = [];
    const { append: real } = journal;
    const held: Journal = {
      ...journal,
      minPipelinedOps: 1,
      ...(real && {
        async append(what) {
          const isWritten = await real(what);
          await new Promise<void>((resolve) => answers.push(resolve));
          return isWritten;
        },
      }),
    };
    const limits = defaultLimits;
    const committer = new Committer({
      journal: held,
      limits,
      leases: new Leases(),
      node: onlyNode,
      now: Date.now,
      onCommitted: (_, records) => {
        for (const { firstSeq } of records) seen.push(`published ${firstSeq}`);
      },
      onUncertain: () => seen.push("uncertain"),
    });
    const enqueue = committer.enqueue.bind(committer);
    committer.enqueue = (operation, asker) =>
      enqueue(operation, {
        ...asker,
        // At once, not a turn of promises later.
        onOutcome(outcome, answered) {
          if (outcome.t === "durable") seen.push(`answered ${outcome.last.seq}`);
          asker.onOutcome(outcome, answered);
        },
      });
    const engine = { ...engineOver(journal), committer };
    const opening = openRun(engine, "run");
    const producer = await opening;
    seen.length = 0;
    const sent = [1, 2].map(async (at) => {
      // The second one when the first is on its way.
      while (at > 1 && real !== undefined && answers.length === 0) await yieldToEventLoop();
      await append(engine, producer, at, [eventOf(`${at}`)]);
    });
    if (real !== undefined) {
      while (answers.length < 2) await yieldToEventLoop();
      // Both are durable by now, and neither is known to be.
      assert.deepEqual(seen, []);
      answers[0]!();
      while (seen.length < 2) await yieldToEventLoop();
      assert.deepEqual(seen, ["published 2", "answered 2"]);
      answers[1]!();
    }
    await Promise.all(sent);
    // Where nothing is sent ahead, both are in one record.
    const expected =
      real === undefined
        ? ["published 2", "answered 2", "answered 3"]
        : ["published 2", "answered 2", "published 3", "answered 3"];
    assert.deepEqual(seen, expected);
  });
});
