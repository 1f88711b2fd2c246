/** A run while a group of operations is decided: its row as it will be written. */
import { equals, fromBinary } from "@bufbuild/protobuf";
import { type RunSpec, RunSpecSchema } from "../../gen/runlog/v1/run_pb.js";
import type { RunRow, RunView } from "../journal/runs.ts";
import type { RunStanding } from "./decide.ts";
import type { CheckedEvent, Outcome } from "./operation.ts";

type Mutable<T> = { -readonly [K in keyof T]: T[K] };

/** A run in a group. */
export interface Draft {
  readonly row: Mutable<RunRow>;
  /** The ids of the run and its ancestors, the root last. */
  readonly lineage: readonly string[];
  /** Set where the group creates the run. */
  readonly newSpec: RunSpec | undefined;
  /** The run's last event before this group. */
  readonly durableRunSeq: number;
  /** The events that this group has added. */
  readonly added: CheckedEvent[];
  /** Whether the row has to be written. */
  changed: boolean;
}

/** The draft of a run that exists. */
export function draftOf(row: RunRow, lineage: readonly string[]): Draft {
  const durableRunSeq = row.last_run_seq;
  return { row: { ...row }, lineage, newSpec: undefined, durableRunSeq, added: [], changed: false };
}

/** Where the run stands by now. */
export function standing({ row }: Draft): RunStanding {
  return { runId: row.run_id, state: row.state, epoch: row.epoch, lastRunSeq: row.last_run_seq };
}

/** Whether the run was created with this spec. */
export function hasSpec(draft: Draft, spec: RunSpec): boolean {
  return equals(RunSpecSchema, fromBinary(RunSpecSchema, draft.row.spec), spec);
}

/** The answer to who holds the run. */
export function opened({ row }: Draft): Outcome {
  return {
    t: "opened",
    epoch: row.epoch,
    lastRunSeq: row.last_run_seq,
    lastEventSeq: row.last_event_seq,
  };
}

/** The run for the API. */
export function viewOf(draft: Draft): RunView {
  return { ...draft.row, root_run_id: draft.lineage.at(-1) ?? draft.row.run_id, fork_run_id: null };
}
