/** The steps of the ingest property: how they are drawn, sent, and the answers to them. */
import { create, fromBinary } from "@bufbuild/protobuf";
import fc from "fast-check";
import { type IngestRequest, IngestRequestSchema } from "../../gen/runlog/v1/ingest_pb.js";
import { RunState, WaitSchema } from "../../gen/runlog/v1/run_pb.js";
import type { IngestFrame } from "../../src/ingest/frames.ts";
import { eventOf } from "../support/engine.ts";
import { type IngestModel, payloadOf } from "./ingest-model.ts";
import type { ModelAnswer, ModelStep, SignalStep } from "./ingest-model-steps.ts";

export const runCount = 3;
export const streamCount = 3;
export const leaseMs = 60_000;

/** Signals of a run that may await handling. */
export const maxPending = 4;

/** A step. */
export type Step =
  | ModelStep
  | SignalStep
  | { readonly kind: "cancel"; readonly run: number }
  | { readonly kind: "expire" }
  | { readonly kind: "lose"; readonly stream: number }
  | { readonly kind: "pass"; readonly ms: number }
  | { readonly kind: "turns"; readonly count: number };

const stream = fc.nat({ max: streamCount - 1 });
const run = fc.nat({ max: runCount - 1 });
const handled = fc.oneof(
  { weight: 3, arbitrary: fc.constant(undefined) },
  { weight: 3, arbitrary: fc.constantFrom(0, 0, -1) },
  { weight: 1, arbitrary: fc.constantFrom(-2, 1) },
);
/** Any step. */
export const step: fc.Arbitrary<Step> = fc.oneof(
  {
    weight: 3,
    arbitrary: fc.record({
      kind: fc.constant("open" as const),
      stream,
      run,
      create: fc.nat(5).map((n) => n > 0),
      receives: fc.boolean(),
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
      handled,
    }),
  },
  {
    weight: 6,
    arbitrary: fc.record({
      kind: fc.constant("signal" as const),
      run,
      id: fc.nat(9),
      differs: fc.nat(9).map((n) => n === 0),
    }),
  },
  {
    weight: 1,
    arbitrary: fc.record({
      kind: fc.constant("handle" as const),
      stream,
      run,
      handled: fc.constantFrom(0, 0, -1, 1),
    }),
  },
  {
    weight: 3,
    arbitrary: fc.record({
      kind: fc.constant("wait" as const),
      stream,
      run,
      offset: fc.constantFrom(0, 0, 0, 0, 1, -1),
      code: fc.constantFrom("approval", "input"),
      isBounded: fc.boolean(),
      handled,
      require: fc.boolean(),
    }),
  },
  { weight: 1, arbitrary: fc.record({ kind: fc.constant("cancel" as const), run }) },
  { weight: 1, arbitrary: fc.constant({ kind: "expire" as const }) },
  {
    weight: 1,
    arbitrary: fc.record({
      kind: fc.constant("finish" as const),
      stream,
      run,
      offset: fc.constantFrom(0, 0, 0, 1, -1),
      state: fc.constantFrom(RunState.SUCCEEDED as const, RunState.FAILED as const),
      handled,
      require: fc.boolean(),
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

/** The frame of a step, as the model stands. */
export function toRequest(model: IngestModel, one: ModelStep): IngestRequest {
  const runId = `run-${one.run}`;
  switch (one.kind) {
    case "open": {
      const spec = one.create ? { create: { agentId: `agent-${one.run}` } } : {};
      const by = model.attemptOf(one);
      const names = by && { producerId: `producer-${by.producer}`, attempt: BigInt(by.number) };
      const value = { runId, ...spec, ...names, receiveSignals: one.receives };
      return create(IngestRequestSchema, { frame: { case: "open", value } });
    }
    case "append": {
      const first = Math.max(1, model.next(one.run) + one.offset);
      const events = Array.from({ length: one.count }, (_, i) =>
        eventOf(payloadOf(one.run, first + i, one.differs)),
      );
      const handledSignalSeq = BigInt(model.handledOf(one.run, one.handled));
      const value = { runId, firstRunSeq: BigInt(first), events, handledSignalSeq };
      return create(IngestRequestSchema, { frame: { case: "append", value } });
    }
    case "handle": {
      const handledSignalSeq = BigInt(model.handledOf(one.run, one.handled));
      const value = { runId, events: [], handledSignalSeq };
      return create(IngestRequestSchema, { frame: { case: "append", value } });
    }
    case "wait": {
      const { code, isBounded } = one;
      const wait = { code, ...(isBounded && { deadline: { seconds: farSeconds } }) };
      const value = { runId, wait, ...pauseOf(model, one) };
      return create(IngestRequestSchema, { frame: { case: "wait", value } });
    }
    case "release":
      return create(IngestRequestSchema, { frame: { case: "release", value: { runId } } });
    case "bad":
      return create(IngestRequestSchema, {
        frame: { case: "append", value: { runId, events: [] } },
      });
    case "finish": {
      const value = { runId, result: { state: one.state }, ...pauseOf(model, one) };
      return create(IngestRequestSchema, { frame: { case: "finish", value } });
    }
  }
}

/** A deadline that does not pass by itself. */
const farSeconds = 100_000_000_000n;

function pauseOf(
  model: IngestModel,
  { run, offset, handled, require }: Extract<ModelStep, { kind: "finish" | "wait" }>,
) {
  return {
    lastRunSeq: BigInt(Math.max(0, model.next(run) - 1 + offset)),
    handledSignalSeq: BigInt(model.handledOf(run, handled)),
    requireSignalsHandled: require,
  };
}

/** The frames that a stream got, without acknowledgements and signals. */
export function toAnswers(frames: readonly IngestFrame[]): ModelAnswer[] {
  return frames.flatMap((frame): ModelAnswer[] => {
    switch (frame.t) {
      case "opened":
        return [
          {
            t: "opened",
            run: Number(frame.runId.slice(4)),
            epoch: frame.epoch,
            lastRunSeq: frame.lastRunSeq,
            handledSignalSeq: frame.handledSignalSeq,
            lastSignalSeq: frame.lastSignalSeq,
          },
        ];
      case "waiting": {
        const { code } = fromBinary(WaitSchema, frame.run.waiting!);
        return [{ t: "waiting", run: Number(frame.run.run_id.slice(4)), code }];
      }
      case "signals_pending": {
        const { t, runId, handledSignalSeq, lastSignalSeq } = frame;
        return [{ t, run: Number(runId.slice(4)), handledSignalSeq, lastSignalSeq }];
      }
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
