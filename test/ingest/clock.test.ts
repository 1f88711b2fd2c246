/** The server's clock may jump; the journal's times do not. */
import assert from "node:assert/strict";
import { timestampMs } from "@bufbuild/protobuf/wkt";
import { append, engineOver, eventOf, openRun, readAll } from "../support/engine.ts";
import { describeJournal } from "../support/journals.ts";

describeJournal("record_time", (open) => {
  it("does not go back where the clock does, after a restart too", async () => {
    let store = await open();
    let nowMs = 2_000_000;
    const now = () => nowMs;
    let engine = engineOver(store.journal, {}, now);
    const before = await openRun(engine, "r");
    await append(engine, before, 1, [eventOf("a")]);
    nowMs = 1_000_000;
    await append(engine, before, 2, [eventOf("b")]);
    store = await store.reopen();
    engine = engineOver(store.journal, {}, now);
    const after = await openRun(engine, "r");
    await append(engine, after, 3, [eventOf("c")]);
    nowMs = 3_000_000;
    await append(engine, after, 4, [eventOf("d")]);
    const times = (await readAll(store.journal)).map(({ recordTime }) => timestampMs(recordTime!));
    assert.deepEqual(times, [2_000_000, 2_000_000, 2_000_000, 2_000_000, 3_000_000]);
    await store.remove();
  });
});
