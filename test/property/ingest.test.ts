import assert from "node:assert/strict";
import { create, fromBinary } from "@bufbuild/protobuf";
import fc from "fast-check";
import { SignalSchema } from "../../gen/runlog/v1/record_pb.js";
import { RunState, SignalRunRequestSchema } from "../../gen/runlog/v1/run_pb.js";
import { getRun } from "../../src/delivery/run-directory.ts";
import type { IngestFrame } from "../../src/ingest/frames.ts";
import { signalRun } from "../../src/ingest/signal-run.ts";
import { findNamespace } from "../../src/journal/namespaces.ts";
import { onlyNode } from "../../src/journal/nodes.ts";
import { findDueWaits } from "../../src/journal/waits.ts";
import type { Limits } from "../../src/limits.ts";
import { Cancellations } from "../../src/maintenance/cancellations.ts";
import type { RefusedError } from "../../src/refusal.ts";
import { Connection } from "../support/connection.ts";
import { type Engine, engineOver, eventOf, readAll } from "../support/engine.ts";
import { assertHistories } from "../support/histories.ts";
import { describeJournal } from "../support/journals.ts";
import { IngestModel, signalTextOf } from "./ingest-model.ts";
import {
  leaseMs,
  maxPending,
  runCount,
  type Step,
  step,
  streamCount,
  toAnswers,
  toRequest,
} from "./ingest-steps.ts";

/** Every acknowledgement that the producers of a run got, with its place in the journal. */
type Acks = { readonly runId: string; readonly runSeq: number; readonly seq: number }[];

/**
 * Checks the signals that a stream was sent of a run: those behind what was handled
 * when it opened the run, one after the other, and none once it has lost the run.
 */
function checkSignals(model: IngestModel, frames: readonly IngestFrame[], runIndex: number): void {
  let next: number | undefined;
  for (const frame of frames) {
    const runId = "run" in frame ? frame.run.run_id : "runId" in frame ? frame.runId : "";
    if (runId !== `run-${runIndex}`) continue;
    if (frame.t === "opened") next = frame.handledSignalSeq + 1;
    if (frame.t === "rejected" || frame.t === "released") next = undefined;
    if (frame.t !== "signal") continue;
    const { signalSeq, event } = fromBinary(SignalSchema, frame.signal);
    assert.equal(Number(signalSeq), next, "signals come in order, each once for each open");
    const text = Buffer.from(event!.data).toString();
    assert.equal(text, model.runs.get(runIndex)!.signals[next! - 1]!.text);
    next!++;
  }
}

/** The last signal of a run that a stream was sent. */
function lastSignalOf(frames: readonly IngestFrame[], runIndex: number): number {
  const seqs = frames.flatMap((frame) =>
    frame.t === "signal" && frame.runId === `run-${runIndex}`
      ? [Number(fromBinary(SignalSchema, frame.signal).signalSeq)]
      : [],
  );
  return seqs.at(-1) ?? 0;
}

/** Waits until those streams have all signals that are to have them. */
async function untilAllReceived(
  model: IngestModel,
  connections: readonly Connection[],
): Promise<void> {
  for (const [index, { holds }] of model.streams.entries()) {
    const connection = connections[index]!;
    for (const [runIndex, { receives, rejected }] of holds) {
      const known = model.runs.get(runIndex);
      if (rejected || !receives || known === undefined) continue;
      const { signals } = known;
      const opened = () =>
        connection.frames.findLast(
          (frame) => frame.t === "opened" && frame.runId === `run-${runIndex}`,
        ) as Extract<IngestFrame, { t: "opened" }> | undefined;
      await connection.until(() => {
        const from = opened()?.handledSignalSeq ?? signals.length;
        return (
          from === signals.length || lastSignalOf(connection.frames, runIndex) === signals.length
        );
      });
    }
  }
}

async function compare(
  engine: Engine,
  steps: readonly Step[],
): Promise<{ model: IngestModel; acks: Acks }> {
  const { journal, committer } = engine;
  const model = new IngestModel(streamCount, leaseMs, maxPending);
  const cancellations = new Cancellations({ journal, committer, node: onlyNode });
  const signalling: Promise<void>[] = [];
  const connections = Array.from({ length: streamCount }, () => new Connection(engine));
  const acks: Acks = [];
  const note = ({ frames }: Connection) => {
    for (const frame of frames) if (frame.t === "ack") acks.push(frame);
  };
  /** Streams that have opened something that is perhaps not committed: once they are lost, it may never be. */
  const opening = new Set<number>();
  const settle = async () => {
    await engine.committer.idle();
    opening.clear();
  };
  for (const one of steps) {
    if (one.kind === "turns") {
      for (let i = 0; i < one.count; i++) await new Promise((resolve) => setImmediate(resolve));
    } else if (one.kind === "pass") {
      await settle();
      model.pass(one.ms);
      await Promise.all(engine.leases.advance(one.ms).map((run) => engine.committer.lose(run)));
    } else if (one.kind === "signal") {
      const expected = model.signal(one);
      const event = eventOf(signalTextOf(one));
      const request = { runId: `run-${one.run}`, signalId: `signal-${one.id}`, event };
      const sent = signalRun(engine, create(SignalRunRequestSchema, request), "").then(
        ({ signalSeq }): string | number => signalSeq,
        (error: RefusedError) => error.refusal.reason,
      );
      signalling.push(sent.then((told) => assert.equal(told, expected, "the answer to a sender")));
    } else if (one.kind === "cancel") {
      await settle();
      model.cancel(one.run);
      const request = { runId: `run-${one.run}`, includeDescendants: false, reason: "" };
      await cancellations.cancel({ namespace: "default", ...request }).catch(() => undefined);
    } else if (one.kind === "expire") {
      await settle();
      model.expire();
      for (const due of await findDueWaits(journal.db, Number.MAX_SAFE_INTEGER, 100)) {
        const { namespace, run_id: runId, wait_deadline_ms: deadlineMs } = due;
        await committer.submit({ kind: "end_wait", namespace, runId, deadlineMs });
      }
    } else if (one.kind === "lose") {
      const connection = connections[one.stream]!;
      if (opening.has(one.stream)) await settle();
      await connection.lose();
      note(connection);
      connections[one.stream] = new Connection(engine);
      model.drop(one.stream);
    } else {
      const request = toRequest(model, one);
      model.apply(one);
      if (one.kind === "open") opening.add(one.stream);
      await connections[one.stream]!.send(request);
    }
  }
  // All together: a stream that ends early would miss that it was fenced.
  await engine.committer.idle();
  await Promise.all(signalling);
  await untilAllReceived(model, connections);
  for (const [index, connection] of connections.entries()) {
    await connection.halfClose();
    note(connection);
    const expected = model.streams[index]!;
    const answers = toAnswers(connection.frames);
    for (let runIndex = 0; runIndex < runCount; runIndex++) {
      // Between runs there is no order: what needs no commit is answered first.
      assert.deepEqual(
        answers.filter((answer) => answer.run === runIndex),
        expected.answers.filter((answer) => answer.run === runIndex),
        `what stream ${index} hears of run ${runIndex}`,
      );
      checkSignals(model, connection.frames, runIndex);
    }
    for (const [runIndex, lastAcked] of expected.acked) {
      const own = connection.frames.filter((f) => f.t === "ack" && f.runId === `run-${runIndex}`);
      const runSeqs = own.map((frame) => (frame.t === "ack" ? frame.runSeq : 0));
      assert.equal(
        runSeqs.at(-1),
        lastAcked,
        "all that was accepted is acknowledged at half-close",
      );
      assert.deepEqual(
        runSeqs,
        runSeqs.toSorted((a, b) => a - b),
        "acknowledgements do not go back",
      );
      const last = own.at(-1);
      const handledSignalSeq = last?.t === "ack" ? last.handledSignalSeq : undefined;
      assert.equal(handledSignalSeq, expected.ackedSignals.get(runIndex));
    }
  }
  assert.deepEqual(
    engine.committer.heldRunIds("default"),
    [],
    "a producer that has left holds nothing",
  );
  return { model, acks };
}

const settings: Readonly<Record<string, Partial<Limits>>> = {
  "with the usual limits": {},
  "with streams that are not read while one frame is uncommitted": {
    maxPendingFramesPerStream: 0,
    maxCommitOps: 2,
  },
};

describeJournal("ingest does what its model does", (open, backend) => {
  for (const [name, limits] of Object.entries(settings)) {
    it(`for random batches, overlaps, gaps, conflicts, reopenings, stale producers, releases, signals, waits, requests to stop, lost connections and leases that lapse, ${name}`, async () => {
      await assertHistories(
        backend.histories(200),
        [fc.array(step, { minLength: 10, maxLength: 120 })],
        async (steps) => {
          const store = await open();
          try {
            const { model, acks } = await compare(
              engineOver(store.journal, {
                defaultLeaseMs: leaseMs,
                maxPendingSignals: maxPending,
                ...limits,
              }),
              steps,
            );
            const records = await readAll(store.journal);
            assert.deepEqual(
              records.map((record) => Number(record.seq)),
              records.map((_, index) => index + 1),
              "seq is dense",
            );
            const times = records.map((record) => record.recordTime!);
            const ms = times.map((time) => Number(time.seconds) * 1000 + time.nanos / 1e6);
            assert.deepEqual(
              ms,
              ms.toSorted((a, b) => a - b),
              "record_time does not decrease",
            );
            for (const [index, known] of model.runs) {
              const own = records.filter((record) => record.runId === `run-${index}`);
              const events = own.filter((record) => record.record.case === "event");
              assert.deepEqual(
                events.map((record) => Number(record.runSeq)),
                known.payloads.map((_, at) => at + 1),
                "run_seq is dense",
              );
              assert.deepEqual(
                events.map(({ record }) =>
                  record.case === "event" ? Buffer.from(record.value.data).toString() : "",
                ),
                known.payloads,
                "a run holds what its producers were acknowledged",
              );
              const facts = own.filter(
                ({ record }) => record.case !== "event" && record.case !== "signal",
              );
              assert.deepEqual(
                own.flatMap(({ record }) =>
                  record.case === "signal"
                    ? [Buffer.from(record.value.event!.data).toString()]
                    : [],
                ),
                known.signals.map(({ text }) => text),
                "each signal is recorded once, in order",
              );
              assert.deepEqual(
                facts.map((record) => record.record.case),
                known.facts,
                "each lapse, resumption and end is recorded once",
              );
              assert.equal(own[0]?.record.case, "runStarted");
              if (known.state !== RunState.RUNNING && known.state !== RunState.WAITING) {
                const last = own.findLast(({ record }) => record.case !== "signal");
                assert.equal(last?.record.case, "runFinished");
              }
              const handled = events.map((record) => Number(record.handledSignalSeq));
              const moved = handled.filter((signalSeq) => signalSeq > 0);
              assert.deepEqual(
                moved,
                [...new Set(moved)].toSorted((a, b) => a - b),
                "the position in the signals only grows",
              );
              const row = await getRun(store.journal, "default", `run-${index}`);
              assert.equal(row.state, known.state);
              assert.equal(row.handled_signal_seq, known.handledSignalSeq);
              assert.equal(row.last_signal_seq, known.signals.length);
            }
            const states = [...model.runs.values()].map(({ state }) => state);
            const namespace = await findNamespace(store.journal.db, "default");
            const counted = (state: RunState) => states.filter((one) => one === state).length;
            assert.equal(namespace?.running_count ?? 0, counted(RunState.RUNNING));
            assert.equal(namespace?.waiting_count ?? 0, counted(RunState.WAITING));
            for (const ack of acks) {
              if (ack.seq === 0) continue;
              const record = records[ack.seq - 1];
              assert.equal(record?.runId, ack.runId);
              assert.equal(
                Number(record?.runSeq),
                ack.runSeq,
                "an acknowledged event is at its seq",
              );
            }
          } finally {
            await store.remove();
          }
        },
      );
    });
  }
});
