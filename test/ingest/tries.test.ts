import assert from "node:assert/strict";
import { RefusedError } from "../../src/refusal.ts";
import { engineOver, openRun } from "../support/engine.ts";
import { describeJournal, type TestJournal } from "../support/journals.ts";

describeJournal("a commit that is tried again", (open) => {
  let opened: TestJournal;

  beforeEach(async () => {
    opened = await open();
  });

  afterEach(async () => {
    await opened.remove();
  });

  it("has the time of one try for all its tries together", async () => {
    const { journal } = opened;
    const given: number[] = [];
    const databaseWaitMs = 300;
    const engine = engineOver(
      {
        ...journal,
        write(_, withinMs) {
          given.push(withinMs ?? Number.POSITIVE_INFINITY);
          return Promise.reject(new RefusedError({ reason: "journal_unavailable" }));
        },
      },
      { databaseWaitMs, lockTimeoutMs: 100 },
    );
    await assert.rejects(openRun(engine, "run"), RefusedError);
    assert.ok(given.length > 1);
    for (const [index, withinMs] of given.entries()) {
      assert.ok(withinMs <= (given[index - 1] ?? databaseWaitMs), `${given}`);
    }
    assert.ok(given.at(-1)! < given[0]!, `${given}`);
  });
});
