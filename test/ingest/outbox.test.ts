/** What a producer that does not read costs. */
import assert from "node:assert/strict";
import { Outbox } from "../../src/ingest/outbox.ts";
import { MemoryBudget } from "../../src/memory-budget.ts";

type Frame = string;
const memory = new MemoryBudget(1_000_000);
const outboxOfTexts = () => new Outbox<Frame>((frame) => frame.length, memory.frames);
const toFrame = ({ runId, runSeq }: { runId: string; runSeq: number }): Frame =>
  `${runId} is durable up to ${runSeq}`;

describe("what waits for a producer that does not read", () => {
  it("is one request to stop for each run, the newest, however often somebody asks", async () => {
    const outbox = outboxOfTexts();
    for (let at = 1; at <= 20_000; at++) {
      outbox.replace("a", `stop a ${at}`);
      outbox.replace("b", `stop b ${at}`);
      outbox.ack({ runId: "a", runSeq: at, seq: at });
    }
    assert.equal(outbox.size, 3);
    const frames = await outbox.take(toFrame);
    assert.deepEqual(frames, ["stop a 20000", "stop b 20000", "a is durable up to 20000"]);
    // What has been taken is not changed any more.
    outbox.replace("a", "stop a again");
    assert.deepEqual(await outbox.take(toFrame), ["stop a again"]);
  });

  it("keeps an acknowledgement behind the frames that came before it", async () => {
    const outbox = outboxOfTexts();
    outbox.ack({ runId: "a", runSeq: 1, seq: 1 });
    outbox.push("opened b");
    outbox.ack({ runId: "a", runSeq: 2, seq: 2 });
    assert.deepEqual(await outbox.take(toFrame), [
      "a is durable up to 1",
      "opened b",
      "a is durable up to 2",
    ]);
  });
});
