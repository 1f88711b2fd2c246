import { create, toBinary } from "@bufbuild/protobuf";
import { timestampMs } from "@bufbuild/protobuf/wkt";
import {
  RunFinishedSchema,
  RunResumedSchema,
  RunWaitingSchema,
} from "../../gen/runlog/v1/record_pb.js";
import {
  type RunResult,
  RunResultSchema,
  RunState,
  type Wait,
  WaitSchema,
} from "../../gen/runlog/v1/run_pb.js";
import type { RecordBuilder } from "./record-builder.ts";
import type { StagedRun } from "./staged-run.ts";
import { runStartedBytes } from "./start-run.ts";

/**
 * What happens to the runs of a group, recorded as facts, and how it changes what
 * their namespace counts.
 */
export class RunFacts {
  /** By how many runs there are more in these states. */
  running = 0;
  waiting = 0;
  readonly #builder: RecordBuilder;

  constructor(builder: RecordBuilder) {
    this.#builder = builder;
  }

  /** A run begins, as it was staged. */
  started(staged: StagedRun): void {
    this.running++;
    this.#builder.addFact(staged, "run_started", runStartedBytes(staged));
  }

  /** A run that was lost, or waited, goes on. */
  resumed(staged: StagedRun): void {
    const { row } = staged;
    this.#move(staged, RunState.RUNNING);
    row.result = null;
    row.end_time_ms = null;
    row.waiting = null;
    const resumed = create(RunResumedSchema, { lastRunSeq: BigInt(row.last_run_seq) });
    this.#builder.addFact(staged, "run_resumed", toBinary(RunResumedSchema, resumed));
  }

  /** A run waits, or for something else than before. */
  waits(staged: StagedRun, wait: Wait): void {
    const { row } = staged;
    this.#move(staged, RunState.WAITING);
    row.waiting = toBinary(WaitSchema, wait);
    row.wait_deadline_ms = wait.deadline === undefined ? null : timestampMs(wait.deadline);
    const waiting = create(RunWaitingSchema, {
      wait,
      lastRunSeq: BigInt(row.last_run_seq),
      handledSignalSeq: BigInt(row.handled_signal_seq),
    });
    this.#builder.addFact(staged, "run_waiting", toBinary(RunWaitingSchema, waiting));
  }

  /**
   * A run ends.
   *
   * @param wait where it ends instead of waiting for this, or while it does
   */
  ended(staged: StagedRun, result: RunResult, wait: Uint8Array | null = null): void {
    const { row } = staged;
    this.#move(staged, result.state);
    row.result = toBinary(RunResultSchema, result);
    row.end_time_ms = this.#builder.timeMs;
    row.waiting = wait;
    const finished = create(RunFinishedSchema, {
      result,
      lastRunSeq: BigInt(row.last_run_seq),
      handledSignalSeq: BigInt(row.handled_signal_seq),
    });
    this.#builder.addFact(staged, "run_finished", toBinary(RunFinishedSchema, finished));
  }

  #move(staged: StagedRun, state: RunState): void {
    const { row } = staged;
    const difference = (of: RunState) => Number(state === of) - Number(row.state === of);
    this.running += difference(RunState.RUNNING);
    this.waiting += difference(RunState.WAITING);
    row.state = state;
    row.wait_deadline_ms = null;
    staged.changed = true;
  }
}
