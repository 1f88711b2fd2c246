/** One run on one Ingest stream, a step at a time: each step is a transaction of its own. */
import assert from "node:assert/strict";
import { RunState } from "../../gen/runlog/v1/run_pb.js";
import { type Connection, eventAt } from "./history.ts";

/** The run that is sent. */
export const stepRunId = "run";
/** Its events. */
export const stepEvents = [1, 2, 3].map((runSeq) => eventAt(stepRunId, runSeq));
/** What the journal owes once the run has been sent: a start, the events, an end. */
export const stepPromises = {
  runId: stepRunId,
  sent: stepEvents.length,
  acked: stepEvents.length,
  ackedSeq: 1 + stepEvents.length,
  isEnded: true,
};
/** The transactions, in their order. */
export const stepNames = ["opening", "append", "finish"] as const;

/**
 * Opens the run, appends its events from the first on whatever the server has
 * of it, and finishes it; waits for each answer before the next step. Sending
 * it again sends the same again. Rejects where the stream breaks.
 */
export async function sendStepByStep({ ingest }: Connection): Promise<void> {
  const opened = Promise.withResolvers<void>();
  const acked = Promise.withResolvers<void>();
  const ended = Promise.withResolvers<void>();
  const runId = stepRunId;
  async function* requests() {
    const create = { agentId: "step by step" };
    yield { frame: { case: "open" as const, value: { runId, create } } };
    await opened.promise;
    const append = { runId, firstRunSeq: 1n, events: stepEvents };
    yield { frame: { case: "append" as const, value: append } };
    await acked.promise;
    const lastRunSeq = BigInt(stepEvents.length);
    const finish = { runId, lastRunSeq, result: { state: RunState.SUCCEEDED } };
    yield { frame: { case: "finish" as const, value: finish } };
    await ended.promise;
  }
  const answers: (string | undefined)[] = [];
  try {
    for await (const { frame } of ingest.ingest(requests())) {
      answers.push(frame.case);
      if (frame.case === "opened") {
        opened.resolve();
      } else if (frame.case === "ack") {
        assert.equal(frame.value.runSeq, BigInt(stepPromises.acked));
        assert.equal(frame.value.seq, BigInt(stepPromises.ackedSeq));
        acked.resolve();
      } else if (frame.case === "ended") {
        assert.equal(frame.value.run?.state, RunState.SUCCEEDED);
        ended.resolve();
      }
    }
  } finally {
    // What still waits in the requests ends.
    for (const step of [opened, acked, ended]) step.resolve();
  }
  assert.deepEqual(answers, ["opened", "ack", "ended"]);
}
