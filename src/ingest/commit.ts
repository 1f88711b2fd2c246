/**
 * One transaction for a group of operations on one namespace: it takes the
 * namespace's lock, reads the runs concerned (load-runs.ts), lets the group
 * decide (group.ts), and writes what came of it.
 *
 * Everything is derived from what the transaction reads, so running it again
 * after a failure, or after a commit whose outcome is unknown, never doubles an
 * event: what the first try left durable is a duplicate to the second.
 */
import { randomInt } from "node:crypto";
import type { CommittedRecord } from "../journal/committed-record.ts";
import type { History } from "../journal/history.ts";
import type { Journal } from "../journal/journal.ts";
import {
  insertNamespace,
  lockKnownNamespace,
  lockNamespace,
  type NamespaceRow,
  type NamespaceTotals,
  updateNamespace,
} from "../journal/namespaces.ts";
import { insertRecords } from "../journal/records.ts";
import {
  insertAncestors,
  insertLabels,
  insertRuns,
  type RunRow,
  updateAppendedRuns,
  updateRuns,
} from "../journal/runs.ts";
import type { Db } from "../journal/schema.ts";
import { insertSignals } from "../journal/signals.ts";
import type { Refusal } from "../refusal.ts";
import { CommitGroup, type CommitGroupSettings } from "./commit-group.ts";
import { type KnownBefore, knownRuns, loadRuns } from "./load-runs.ts";
import { creationOf, type Operation, type Outcome, specOf } from "./operation.ts";
import type { KnownRun } from "./run-cache.ts";
import type { StagedRun } from "./staged-run.ts";

/** The most that `randomInt` takes: that two are the same is as good as impossible. */
const maxAppendId = 2 ** 48 - 1;

function newAppendId(): number {
  return randomInt(maxAppendId);
}

/** What a commit left behind, for those who act on it once it is durable. */
export interface Committed {
  /** In the order of the operations. */
  readonly outcomes: readonly Outcome[];
  /** What there is of the namespace now; undefined while there is none, where all was refused. */
  readonly result: CommitResult | undefined;
}

/** How a commit has left a namespace. */
export interface CommitResult {
  readonly namespace: NamespaceRow;
  /** The runs that it read or made. */
  readonly runs: readonly KnownRun[];
  /** What it has added, in seq order, without a gap. */
  readonly records: readonly CommittedRecord[];
  /** Whether runs were opened that another node had until now: their producers there are fenced. */
  readonly hasTaken: boolean;
}

/** What a group is committed with. */
export interface KnownSettings extends CommitGroupSettings, KnownBefore {}

/** What a group is committed with inside a transaction. */
export interface CommitSettings extends KnownSettings {
  /** The namespace as it is, where no other process can have changed it. */
  readonly known: NamespaceRow | undefined;
  readonly history: Pick<History, "locked">;
}

/** Commits a group inside the transaction `tx`. All operations name `namespace`. */
export async function commitGroup(
  tx: Db,
  namespace: string,
  operations: readonly Operation[],
  settings: CommitSettings,
): Promise<Committed> {
  let locked = await lock(tx, namespace, settings);
  if (locked === undefined) {
    const outcomes = refusedWithout(operations);
    if (outcomes !== undefined) return { outcomes, result: undefined };
    await insertNamespace(tx, namespace, settings.nowMs);
    locked = (await lockNamespace(tx, namespace))!;
  }
  settings.history.locked(locked);
  const stagedRuns = await loadRuns(tx, locked, operations, settings);
  const group = new CommitGroup(tx, locked, stagedRuns, settings);
  const outcomes = await group.decide(operations);
  return { outcomes, result: await write(tx, locked, group) };
}

/** A group that was decided, and sent to be written in one go. */
export interface PipelinedCommit {
  /** What comes of it, if it is written. */
  readonly committed: Committed & { readonly result: CommitResult };
  /** Whether it was written; rejects with RefusedError journal_unavailable where that is unknown. */
  readonly isWritten: Promise<boolean>;
}

/**
 * Sends a group to be committed in one go, where nothing has to be read for it;
 * undefined where something has. It is written if nobody else has changed the
 * namespace.
 *
 * @param known the namespace as the last commit left it, or will have left it
 */
export async function pipelineCommit(
  { append, maxAppendRuns = Number.POSITIVE_INFINITY, db }: Journal,
  known: NamespaceRow | undefined,
  operations: readonly Operation[],
  settings: KnownSettings,
): Promise<PipelinedCommit | undefined> {
  if (append === undefined || known === undefined) return undefined;
  const locked = { ...known, version: known.version + 1 };
  const stagedRuns = knownRuns(locked, operations, settings.cache);
  // What does not fit into one statement need not be decided twice.
  if (stagedRuns === undefined || stagedRuns.runs.size > maxAppendRuns) return undefined;
  const group = new CommitGroup(db, locked, stagedRuns, settings);
  const outcomes = await group.decide(operations);
  const changes = changesOf(locked, group, newAppendId());
  const { changed, appended, records, change, result } = changes;
  const isWritten = append({ namespace: known, change, changed, appended, records });
  return { committed: { outcomes, result }, isWritten };
}

function lock(
  tx: Db,
  namespace: string,
  { known }: CommitSettings,
): Promise<NamespaceRow | undefined> {
  return known === undefined ? lockNamespace(tx, namespace) : lockKnownNamespace(tx, known);
}

/** What operations get where there is no namespace; undefined where one of them creates it. */
function refusedWithout(operations: readonly Operation[]): readonly Outcome[] | undefined {
  const outcomes: Outcome[] = [];
  for (const operation of operations) {
    const { runId } = operation;
    let refusal: Refusal | undefined = { reason: "run_not_found", runId };
    if (operation.kind === "refuse") refusal = operation.refusal;
    if (specOf(operation) !== undefined) refusal = creationOf(operation)?.namespace();
    if (refusal === undefined) return undefined;
    outcomes.push({ t: "refused", refusal });
  }
  return outcomes;
}

/** What a group has decided is to be written. */
function changesOf(
  locked: NamespaceRow,
  { stagedRuns, builder, counts }: CommitGroup,
  appendId: number,
) {
  const created: StagedRun[] = [];
  const changed: RunRow[] = [];
  const appended: RunRow[] = [];
  const runs: KnownRun[] = [];
  for (const staged of stagedRuns.values()) {
    const { row, lineage, forkRunId, newSpec } = staged;
    // Without the events that were added.
    runs.push({ row, lineage, forkRunId });
    if (newSpec !== undefined) created.push(staged);
    else if (staged.changed) changed.push(row);
    else if (staged.added.length > 0) appended.push(row);
  }
  const { rows: records } = builder;
  const change: NamespaceTotals = {
    last_seq: builder.lastSeq,
    last_time_ms: records.length > 0 ? builder.timeMs : locked.last_time_ms,
    run_count: locked.run_count + counts.runs,
    running_count: locked.running_count + counts.running,
    waiting_count: locked.waiting_count + counts.waiting,
    event_bytes: locked.event_bytes + counts.eventBytes,
    taken_count: locked.taken_count + counts.taken,
    signal_count: locked.signal_count + counts.signals,
    append_id: appendId,
  };
  const namespace = { ...locked, ...change };
  const result: CommitResult = {
    namespace,
    runs,
    records: builder.records,
    hasTaken: counts.taken > 0,
  };
  return { created, changed, appended, records, change, result };
}

async function write(tx: Db, locked: NamespaceRow, group: CommitGroup): Promise<CommitResult> {
  const { namespace_id: namespaceId } = locked;
  const { builder, counts } = group;
  // Where it changes nothing, it is not written, and the last append is the one before.
  const isChange = builder.records.length > 0 || counts.taken > 0;
  const appendId = isChange ? newAppendId() : locked.append_id;
  const changes = changesOf(locked, group, appendId);
  const { created, changed, appended, records, change, result } = changes;
  await insertRuns(
    tx,
    created.map(({ row }) => row),
  );
  await updateRuns(tx, changed);
  await updateAppendedRuns(tx, appended);
  for (const { row, newSpec } of created) {
    await insertAncestors(tx, namespaceId, row.run_key, row.parent_key);
    await insertLabels(tx, namespaceId, row.run_key, newSpec!.labels);
  }
  await insertRecords(tx, records);
  await insertSignals(tx, group.signals.added);
  if (isChange) await updateNamespace(tx, namespaceId, change);
  return result;
}
