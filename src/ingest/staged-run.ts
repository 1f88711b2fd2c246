/** A run while a group of operations is decided: its row as it will be written. */
import { equals, fromBinary } from "@bufbuild/protobuf";
import { durationMs } from "@bufbuild/protobuf/wkt";
import { type RunSpec, RunSpecSchema } from "../../gen/runlog/v1/run_pb.js";
import { isLeasedState, isOpenState } from "../journal/run-conditions.ts";
import type { RunRow, RunView } from "../journal/runs.ts";
import type { RunStanding } from "./decide.ts";
import type { CheckedEvent, Fork, Outcome, SignalStanding } from "./operation.ts";

type Mutable<T> = { -readonly [K in keyof T]: T[K] };

/** A run in a group. */
export interface StagedRun {
  readonly row: Mutable<RunRow>;
  /** The ids of the run and its ancestors, the root last. */
  readonly lineage: readonly string[];
  /** The run that it was forked from. */
  readonly forkRunId: string | null;
  /** Set where the group creates the run. */
  readonly newSpec: RunSpec | undefined;
  /** The run's last event before this group. */
  readonly durableRunSeq: number;
  /** The events that this group has added: they change the row as well. */
  readonly added: CheckedEvent[];
  /** Whether more of the row has to be written than what appends change. */
  changed: boolean;
}

/** The staged of a run that exists. */
export function stageRun(
  row: RunRow,
  lineage: readonly string[],
  forkRunId: string | null,
  newSpec?: RunSpec,
): StagedRun {
  const durableRunSeq = row.last_run_seq;
  const changed = newSpec !== undefined;
  return { row: { ...row }, lineage, forkRunId, newSpec, durableRunSeq, added: [], changed };
}

/** Where the run stands by now. */
export function standing({ row }: StagedRun): RunStanding {
  return {
    runId: row.run_id,
    state: row.state,
    epoch: row.epoch,
    nodeKey: row.node_key,
    lastRunSeq: row.last_run_seq,
    producerId: row.producer_id,
    producerAttempt: row.producer_attempt,
    lastSignalSeq: row.last_signal_seq,
    handledSignalSeq: row.handled_signal_seq,
    cancelReason: row.cancel_reason,
    hasWait: row.waiting !== null,
  };
}

/** The run's producer is at this node, so this is the one that notices when it goes. */
export function lookAfter(staged: StagedRun, nodeKey: number): void {
  if (staged.row.node_key === nodeKey) return;
  staged.row.node_key = nodeKey;
  staged.changed = true;
}

/** Where the run's signals stand by now. */
export function signalStanding({ row }: StagedRun): SignalStanding {
  return {
    namespaceId: row.namespace_id,
    runKey: row.run_key,
    handledSignalSeq: row.handled_signal_seq,
    lastSignalSeq: row.last_signal_seq,
  };
}

/** What was said of the run when it was created. */
export function specOfRun({ row, newSpec }: StagedRun): RunSpec {
  return newSpec ?? fromBinary(RunSpecSchema, row.spec);
}

/** Whether the run was created with this spec. */
export function hasSpec(staged: StagedRun, spec: RunSpec): boolean {
  return equals(RunSpecSchema, specOfRun(staged), spec);
}

/** Whether a run was forked at this point; with undefined, whether it is no fork. */
export function isForkedAt({ row, forkRunId }: StagedRun, fork: Fork | undefined): boolean {
  return forkRunId === (fork?.sourceRunId ?? null) && row.fork_run_seq === (fork?.runSeq ?? null);
}

/** Milliseconds that a run may be without a producer, as its spec says. */
export function leaseMsOf(spec: RunSpec, defaultLeaseMs: number): number {
  return spec.lease === undefined ? defaultLeaseMs : durationMs(spec.lease);
}

/** The answer to its holder. */
export function opened(staged: StagedRun, defaultLeaseMs: number): Outcome {
  const { row } = staged;
  return {
    t: "opened",
    epoch: row.epoch,
    lastRunSeq: row.last_run_seq,
    lastEventSeq: row.last_event_seq,
    signals: signalStanding(staged),
    leaseMs: isLeasedState(row.state) ? leaseMsOf(specOfRun(staged), defaultLeaseMs) : undefined,
    cancelReason: isOpenState(row.state) ? (row.cancel_reason ?? undefined) : undefined,
  };
}

/** The run for the API. */
export function viewOf({ row, lineage, forkRunId }: StagedRun): RunView {
  return { ...row, root_run_id: lineage.at(-1) ?? row.run_id, fork_run_id: forkRunId };
}
