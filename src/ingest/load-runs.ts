/** Reads what a group of operations concerns: from what the last commit left, or from the journal. */
import { type CancelNotice, findFamilyNotice } from "../journal/cancellations.ts";
import type { NamespaceRow } from "../journal/namespaces.ts";
import { findIdsInDeletion, findRuns, findRunsByKey } from "../journal/runs.ts";
import type { Db } from "../journal/schema.ts";
import { findSignals, type SignalName, type SignalRow } from "../journal/signals.ts";
import { type Operation, specOf, withinOf } from "./operation.ts";
import type { RunCache } from "./run-cache.ts";
import { type StagedRun, stageRun } from "./staged-run.ts";

/** The lineage of runs by their keys: immutable, so it may be kept between commits. */
export interface Lineages {
  get(tx: Db, namespaceId: number, runKey: number): Promise<readonly string[]>;
}

/** What is known without being read. */
export interface KnownBefore {
  readonly lineages: Lineages;
  readonly cache: Pick<RunCache, "run">;
}

/** What a group works on. */
export interface StagedRuns {
  /** The runs that exist, by their ids. */
  readonly runs: Map<string, StagedRun>;
  /** Ids that are not free yet, although their runs are not there any more. */
  readonly idsInDeletion: ReadonlySet<string>;
  /** What runs pass on that are to become parents, by their ids: requests to stop a whole family. */
  readonly notices: ReadonlyMap<string, CancelNotice>;
  /** Of the signals that are sent, those that there are under the same ids. */
  readonly signals: readonly SignalRow[];
}

const nothingElse = {
  idsInDeletion: new Set<string>(),
  notices: new Map<string, CancelNotice>(),
  signals: [],
};

/**
 * The runs that operations on a namespace concern, where nothing has to be read
 * to decide them: all are known, and nothing is sent again.
 */
export function knownRuns(
  namespace: NamespaceRow,
  operations: readonly Operation[],
  cache: KnownBefore["cache"],
): StagedRuns | undefined {
  const { runs, unknown } = concernedBy(namespace, operations, cache);
  if (unknown.length > 0) return undefined;
  for (const operation of operations) {
    // Whether its id is new, the journal says.
    if (operation.kind === "signal") return undefined;
    if (operation.kind !== "append" || operation.events.length === 0) continue;
    const { durableRunSeq = 0 } = runs.get(operation.runId) ?? {};
    if (operation.firstRunSeq <= durableRunSeq) return undefined;
  }
  return { runs, ...nothingElse };
}

/** Reads the runs that operations on a namespace concern; `tx` holds its lock. */
export async function loadRuns(
  tx: Db,
  namespace: NamespaceRow,
  operations: readonly Operation[],
  { lineages, cache }: KnownBefore,
): Promise<StagedRuns> {
  const { runs, unknown } = concernedBy(namespace, operations, cache);
  if (unknown.length > 0) {
    for (const staged of await read(tx, namespace.namespace_id, unknown, lineages)) {
      runs.set(staged.row.run_id, staged);
    }
  }
  const { namespace_id: namespaceId, deletion_count, cancel_count } = namespace;
  const signals = await findSignals(tx, namespaceId, namesOf(operations, runs));
  if (deletion_count === 0 && cancel_count === 0) return { runs, ...nothingElse, signals };
  const starting = operations.filter(
    (operation) => specOf(operation) !== undefined && !runs.has(operation.runId),
  );
  return {
    runs,
    idsInDeletion:
      deletion_count === 0
        ? nothingElse.idsInDeletion
        : await findIdsInDeletion(
            tx,
            namespaceId,
            starting.map(({ runId }) => runId),
          ),
    notices:
      cancel_count === 0 ? nothingElse.notices : await readNotices(tx, namespaceId, runs, starting),
    signals,
  };
}

/** The signals that are sent to runs that exist. */
function namesOf(
  operations: readonly Operation[],
  runs: ReadonlyMap<string, StagedRun>,
): SignalName[] {
  return operations.flatMap((operation) => {
    const staged = operation.kind === "signal" ? runs.get(operation.runId) : undefined;
    if (operation.kind !== "signal" || staged === undefined) return [];
    return [{ run_key: staged.row.run_key, signal_id: operation.signalId }];
  });
}

/** What the parents of runs that are about to start pass on. */
async function readNotices(
  tx: Db,
  namespaceId: number,
  runs: ReadonlyMap<string, StagedRun>,
  starting: readonly Operation[],
): Promise<Map<string, CancelNotice>> {
  const notices = new Map<string, CancelNotice>();
  for (const parentRunId of new Set(starting.map((operation) => specOf(operation)!.parentRunId))) {
    const parent = runs.get(parentRunId);
    if (parent === undefined) continue;
    const notice = await findFamilyNotice(tx, namespaceId, parent.row.run_key);
    if (notice !== undefined) notices.set(parentRunId, notice);
  }
  return notices;
}

/** The runs that operations concern: those that are known, and the ids of the others. */
function concernedBy(
  namespace: NamespaceRow,
  operations: readonly Operation[],
  cache: KnownBefore["cache"],
): { readonly runs: Map<string, StagedRun>; readonly unknown: readonly string[] } {
  const runs = new Map<string, StagedRun>();
  const unknown: string[] = [];
  for (const runId of runIdsOf(operations)) {
    const known = cache.run(namespace, runId);
    if (known === undefined) unknown.push(runId);
    else runs.set(runId, stageRun(known.row, known.lineage, known.forkRunId));
  }
  return { runs, unknown };
}

function runIdsOf(operations: readonly Operation[]): Set<string> {
  const wanted = new Set<string>();
  for (const operation of operations) {
    wanted.add(operation.runId);
    const parentRunId = specOf(operation)?.parentRunId ?? "";
    if (parentRunId !== "") wanted.add(parentRunId);
    // The heads of subtrees: the keys tell whether they are the runs that are meant.
    for (const { runId } of withinOf(operation) ?? []) wanted.add(runId);
    if (operation.kind === "create" && operation.fork !== undefined) {
      wanted.add(operation.fork.sourceRunId);
      for (const { runId } of operation.fork.within ?? []) wanted.add(runId);
    }
  }
  return wanted;
}

async function read(
  tx: Db,
  namespaceId: number,
  runIds: readonly string[],
  lineages: Lineages,
): Promise<StagedRun[]> {
  const rows = await findRuns(tx, namespaceId, runIds);
  const forkKeys = rows.flatMap(({ fork_key: key }) => (key === null ? [] : [key]));
  const sources = new Map<number, string>();
  for (const source of await findRunsByKey(tx, namespaceId, forkKeys)) {
    sources.set(source.run_key, source.run_id);
  }
  const stagedRuns: StagedRun[] = [];
  for (const row of rows) {
    const lineage = await lineages.get(tx, namespaceId, row.run_key);
    const forkRunId = row.fork_key === null ? null : (sources.get(row.fork_key) ?? null);
    stagedRuns.push(stageRun(row, lineage, forkRunId));
  }
  return stagedRuns;
}
