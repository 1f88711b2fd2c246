import assert from "node:assert/strict";
import { create } from "@bufbuild/protobuf";
import fc from "fast-check";
import { type IngestRequest, IngestRequestSchema } from "../../gen/runlog/v1/ingest_pb.js";
import { RunState } from "../../gen/runlog/v1/run_pb.js";
import { getRun } from "../../src/delivery/run-directory.ts";
import type { IngestFrame } from "../../src/ingest/ingest-stream.ts";
import type { Limits } from "../../src/limits.ts";
import { Connection } from "../support/connection.ts";
import { type Engine, engineOver, eventOf, readAll } from "../support/engine.ts";
import { assertHistories } from "../support/histories.ts";
import { describeJournal } from "../support/journals.ts";
import { IngestModel, type ModelAnswer, type ModelStep, payloadOf } from "./ingest-model.ts";

const runCount = 3;
const streamCount = 3;
const leaseMs = 60_000;

type Step =
  | ModelStep
  | { readonly kind: "lose"; readonly stream: number }
  | { readonly kind: "pass"; readonly ms: number }
  | { readonly kind: "turns"; readonly count: number };

const stream = fc.nat({ max: streamCount - 1 });
const run = fc.nat({ max: runCount - 1 });
const step: fc.Arbitrary<Step> = fc.oneof(
  {
    weight: 3,
    arbitrary: fc.record({
      kind: fc.constant("open" as const),
      stream,
      run,
      create: fc.nat(5).map((n) => n > 0),
      producer: fc.option(fc.nat({ max: 1 }), { nil: undefined }),
      attempt: fc.constantFrom("next" as const, "next" as const, "same" as const, "older" as const),
    }),
  },
  {
    weight: 10,
    arbitrary: fc.record({
      kind: fc.constant("append" as const),
      stream,
      run,
      offset: fc.oneof(
        { weight: 6, arbitrary: fc.constant(0) },
        { weight: 3, arbitrary: fc.integer({ min: -9, max: -1 }) },
        { weight: 1, arbitrary: fc.integer({ min: 1, max: 2 }) },
      ),
      count: fc.integer({ min: 1, max: 6 }),
      differs: fc.nat(9).map((n) => n === 0),
    }),
  },
  {
    weight: 1,
    arbitrary: fc.record({
      kind: fc.constant("finish" as const),
      stream,
      run,
      offset: fc.constantFrom(0, 0, 0, 1, -1),
      state: fc.constantFrom(RunState.SUCCEEDED as const, RunState.FAILED as const),
    }),
  },
  { weight: 1, arbitrary: fc.record({ kind: fc.constant("lose" as const), stream }) },
  { weight: 1, arbitrary: fc.record({ kind: fc.constant("bad" as const), stream, run }) },
  { weight: 1, arbitrary: fc.record({ kind: fc.constant("release" as const), stream, run }) },
  {
    weight: 1,
    arbitrary: fc.record({
      kind: fc.constant("pass" as const),
      // Parts of a lease, so that some runs are taken again in time.
      ms: fc.constantFrom(leaseMs / 2, leaseMs),
    }),
  },
  { weight: 4, arbitrary: fc.record({ kind: fc.constant("turns" as const), count: fc.nat(6) }) },
);

function toRequest(model: IngestModel, one: ModelStep): IngestRequest {
  const runId = `run-${one.run}`;
  switch (one.kind) {
    case "open": {
      const spec = one.create ? { create: { agentId: `agent-${one.run}` } } : {};
      const by = model.attemptOf(one);
      const names = by && { producerId: `producer-${by.producer}`, attempt: BigInt(by.number) };
      const value = { runId, ...spec, ...names };
      return create(IngestRequestSchema, { frame: { case: "open", value } });
    }
    case "append": {
      const first = Math.max(1, model.next(one.run) + one.offset);
      const events = Array.from({ length: one.count }, (_, i) =>
        eventOf(payloadOf(one.run, first + i, one.differs)),
      );
      const value = { runId, firstRunSeq: BigInt(first), events };
      return create(IngestRequestSchema, { frame: { case: "append", value } });
    }
    case "release":
      return create(IngestRequestSchema, { frame: { case: "release", value: { runId } } });
    case "bad":
      return create(IngestRequestSchema, {
        frame: { case: "append", value: { runId, events: [] } },
      });
    case "finish": {
      const lastRunSeq = BigInt(Math.max(0, model.next(one.run) - 1 + one.offset));
      const value = { runId, lastRunSeq, result: { state: one.state } };
      return create(IngestRequestSchema, { frame: { case: "finish", value } });
    }
  }
}

function toAnswers(frames: readonly IngestFrame[]): ModelAnswer[] {
  return frames.flatMap((frame): ModelAnswer[] => {
    switch (frame.t) {
      case "opened":
        return [
          {
            t: "opened",
            run: Number(frame.runId.slice(4)),
            epoch: frame.epoch,
            lastRunSeq: frame.lastRunSeq,
          },
        ];
      case "ended":
        return [{ t: "ended", run: Number(frame.run.run_id.slice(4)), state: frame.run.state }];
      case "released":
        return [{ t: "released", run: Number(frame.runId.slice(4)) }];
      case "rejected": {
        const { refusal } = frame;
        return [
          {
            t: "rejected",
            run: Number(frame.runId.slice(4)),
            reason: refusal.reason,
            ...("expectedRunSeq" in refusal ? { expected: refusal.expectedRunSeq } : {}),
            ...("epoch" in refusal ? { epoch: refusal.epoch } : {}),
          },
        ];
      }
      default:
        return [];
    }
  });
}

/** Every acknowledgement that the producers of a run got, with its place in the journal. */
type Acks = { readonly runId: string; readonly runSeq: number; readonly seq: number }[];

async function compare(
  engine: Engine,
  steps: readonly Step[],
): Promise<{ model: IngestModel; acks: Acks }> {
  const model = new IngestModel(streamCount, leaseMs);
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
        `what stream ${index} is told of run ${runIndex}`,
      );
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
    }
  }
  assert.deepEqual(engine.committer.heldRunIds("default"), [], "whoever has gone holds nothing");
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
    it(`for random batches, overlaps, gaps, conflicts, reopenings, stale producers, releases, lost connections and leases that lapse, ${name}`, async () => {
      await assertHistories(
        backend.histories(200),
        [fc.array(step, { minLength: 10, maxLength: 120 })],
        async (steps) => {
          const store = await open();
          try {
            const { model, acks } = await compare(
              engineOver(store.journal, { defaultLeaseMs: leaseMs, ...limits }),
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
                "a run holds what its producers were told that it holds",
              );
              const facts = own.filter((record) => record.record.case !== "event");
              assert.deepEqual(
                facts.map((record) => record.record.case),
                known.facts,
                "each lapse, resumption and end is recorded once",
              );
              assert.equal(own[0]?.record.case, "runStarted");
              if (known.state !== RunState.RUNNING) {
                assert.equal(own.at(-1)?.record.case, "runFinished");
              }
              const row = await getRun(store.journal, "default", `run-${index}`);
              assert.equal(row.state, known.state);
            }
            for (const ack of acks) {
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
