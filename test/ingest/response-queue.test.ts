/** What a producer that does not read costs. */
import assert from "node:assert/strict";
import { ResponseQueue } from "../../src/ingest/response-queue.ts";
import { MemoryBudget } from "../../src/memory-budget.ts";

type Frame = string;
const memory = new MemoryBudget(1_000_000);
const queueOfTexts = () => new ResponseQueue<Frame>((frame) => frame.length, memory.frames);
const toFrame = ({ runId, runSeq }: { runId: string; runSeq: number }): Frame =>
  `${runId} is durable up to ${runSeq}`;

describe("what waits for a producer that does not read", () => {
  it("is one request to stop for each run, the newest, however often somebody asks", async () => {
    const queue = queueOfTexts();
    for (let at = 1; at <= 20_000; at++) {
      queue.replace("a", `stop a ${at}`);
      queue.replace("b", `stop b ${at}`);
      queue.ack({ runId: "a", runSeq: at, seq: at, handledSignalSeq: 0 });
    }
    assert.equal(queue.size, 3);
    const frames = await queue.take(toFrame);
    assert.deepEqual(frames, ["stop a 20000", "stop b 20000", "a is durable up to 20000"]);
    // What has been taken is not changed any more.
    queue.replace("a", "stop a again");
    assert.deepEqual(await queue.take(toFrame), ["stop a again"]);
  });

  it("keeps an acknowledgement behind the frames that came before it", async () => {
    const queue = queueOfTexts();
    queue.ack({ runId: "a", runSeq: 1, seq: 1, handledSignalSeq: 0 });
    queue.push("opened b");
    queue.ack({ runId: "a", runSeq: 2, seq: 2, handledSignalSeq: 0 });
    assert.deepEqual(await queue.take(toFrame), [
      "a is durable up to 1",
      "opened b",
      "a is durable up to 2",
    ]);
  });
});
