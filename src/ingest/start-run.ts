/** How a run comes to be: whether it may, its first row, and its first record. */
import { create, toBinary } from "@bufbuild/protobuf";
import { RunStartedSchema } from "../../gen/runlog/v1/record_pb.js";
import { type RunSpec, RunSpecSchema, RunState } from "../../gen/runlog/v1/run_pb.js";
import type { CancelNotice } from "../journal/cancellations.ts";
import { maxDepth } from "../limits.ts";
import type { Refusal } from "../refusal.ts";
import type { Within } from "../subtree.ts";
import type { Fork } from "./operation.ts";
import { type StagedRun, stageRun } from "./staged-run.ts";

/** A run to be opened, with those of its relatives that exist. */
export interface NewRun {
  readonly runId: string;
  readonly spec: RunSpec;
  readonly parent: StagedRun | undefined;
  readonly fork: Fork | undefined;
  /** The run that is forked. */
  readonly source: StagedRun | undefined;
  /** The newest request to stop that one of its ancestors passes on. */
  readonly notice: CancelNotice | undefined;
}

/**
 * Decides whether a run may come to be; undefined means that it may.
 *
 * @param field the path of the spec in the request
 * @param within where the caller may write, in which the parent is
 */
export function decideStart(
  field: string,
  { spec, parent, fork, source }: NewRun,
  within?: Within,
): Refusal | undefined {
  if (spec.parentRunId === "" && within !== undefined) {
    const problem = `${field}.parent_run_id: is missing, and the token may start no root: name a run of its subtree as the parent`;
    return { reason: "permission", problem };
  }
  if (spec.parentRunId !== "" && parent === undefined) {
    return { reason: "parent_not_found", parentRunId: spec.parentRunId };
  }
  if (parent !== undefined && parent.row.depth >= maxDepth) {
    return {
      reason: "invalid_field",
      field: `${field}.parent_run_id`,
      problem: `is ${maxDepth} edges below its root, the limit: choose a parent nearer to the root`,
      limit: maxDepth,
    };
  }
  if (fork === undefined) return undefined;
  const { sourceRunId } = fork;
  if (source === undefined) return { reason: "run_not_found", runId: sourceRunId };
  const lastRunSeq = source.row.last_run_seq;
  return fork.runSeq > lastRunSeq
    ? { reason: "fork_beyond_end", sourceRunId, lastRunSeq }
    : undefined;
}

/** The staged of a new run. */
export function stageNewRun(
  { runId, spec, parent, fork, source, notice }: NewRun,
  at: {
    readonly namespaceId: number;
    /** seq of its RunStarted record. */
    readonly runKey: number;
    readonly timeMs: number;
    readonly nodeKey: number;
  },
): StagedRun {
  const { namespaceId, runKey, timeMs, nodeKey } = at;
  return stageRun(
    {
      namespace_id: namespaceId,
      run_key: runKey,
      run_id: runId,
      parent_key: parent?.row.run_key ?? null,
      root_key: parent?.row.root_key ?? runKey,
      depth: parent === undefined ? 0 : parent.row.depth + 1,
      conversation_id: spec.conversationId,
      spec: toBinary(RunSpecSchema, spec),
      fork_key: source?.row.run_key ?? null,
      fork_run_seq: fork?.runSeq ?? null,
      create_time_ms: timeMs,
      epoch: 0,
      state: RunState.RUNNING,
      last_run_seq: 0,
      last_event_seq: 0,
      last_seq: runKey,
      event_bytes: 0,
      result: null,
      end_time_ms: null,
      cancel_reason: notice?.reason ?? null,
      cancel_request: notice?.request ?? 0,
      cancel_descendants: 0,
      node_key: nodeKey,
      producer_id: null,
      producer_attempt: null,
      last_signal_seq: 0,
      handled_signal_seq: 0,
      waiting: null,
      wait_deadline_ms: null,
      agent_id: spec.agentId,
    },
    [runId, ...(parent?.lineage ?? [])],
    fork?.sourceRunId ?? null,
    spec,
  );
}

/** The RunStarted of a new run, encoded. */
export function runStartedBytes({ row, lineage, forkRunId, newSpec }: StagedRun): Uint8Array {
  const started = create(RunStartedSchema, {
    ...(newSpec && { spec: newSpec }),
    rootRunId: lineage.at(-1) ?? row.run_id,
    depth: row.depth,
    ...(forkRunId !== null && {
      fork: { runId: forkRunId, runSeq: BigInt(row.fork_run_seq ?? 0) },
    }),
  });
  return toBinary(RunStartedSchema, started);
}
