/**
 * Whether runs lie in subtrees.
 *
 * A run's key is its start_seq, so the closure answers by keys alone. The ids are
 * compared too: after a restore from a backup a seq may be another run's.
 */
import type { Subtree, Within } from "../subtree.ts";
import { findRuns, type RunRow } from "./runs.ts";
import type { Db } from "./schema.ts";
import { padded, parts } from "./statement-lists.ts";

/** The keys of the runs that head these subtrees; those that do not exist are left out. */
export async function findSubtreeKeys(
  db: Db,
  namespaceId: number,
  subtrees: readonly Subtree[],
): Promise<number[]> {
  const ids = [...new Set(subtrees.map(({ runId }) => runId))];
  const heads = await findRuns(db, namespaceId, ids);
  return heads
    .filter((head) => subtrees.some((one) => isHead(one, head)))
    .map(({ run_key: runKey }) => runKey);
}

/** Whether a run is the one that heads a subtree. */
export function isHead({ runId, startSeq }: Subtree, run: Pick<RunRow, "run_id" | "run_key">) {
  return run.run_key === startSeq && run.run_id === runId;
}

/** Whether a run lies where a caller may act. */
export async function isCovered(
  db: Db,
  within: Within,
  { namespace_id: namespaceId, run_key: runKey }: Pick<RunRow, "namespace_id" | "run_key">,
): Promise<boolean> {
  if (within === undefined) return true;
  return (await findCovered(db, namespaceId, within, [runKey])).has(runKey);
}

/** Of these runs, the keys of those that lie in one of the subtrees; in one query for up to 512. */
export async function findCovered(
  db: Db,
  namespaceId: number,
  subtrees: readonly Subtree[],
  runKeys: readonly number[],
): Promise<Set<number>> {
  const covered = new Set<number>();
  for (const part of parts(runKeys)) {
    for (const row of await findHeads(db, namespaceId, subtrees, part)) {
      if (subtrees.some((one) => isHead(one, row))) covered.add(row.covered_key);
    }
  }
  return covered;
}

/** Of these subtrees, those in which a run lies; in one query. */
export async function findCovering(
  db: Db,
  subtrees: readonly Subtree[],
  { namespace_id: namespaceId, run_key: runKey }: Pick<RunRow, "namespace_id" | "run_key">,
): Promise<readonly Subtree[]> {
  const heads = await findHeads(db, namespaceId, subtrees, [runKey]);
  return subtrees.filter((one) => heads.some((head) => isHead(one, head)));
}

/** Pairs of one of these runs and a run above it, or itself, that may head one of the subtrees. */
async function findHeads(
  db: Db,
  namespaceId: number,
  subtrees: readonly Subtree[],
  runKeys: readonly number[],
) {
  if (subtrees.length === 0) return [];
  const headKeys = [...new Set(subtrees.map(({ startSeq }) => startSeq))];
  return await db
    .selectFrom("run_ancestors as a")
    .innerJoin("runs as head", (join) =>
      join
        .onRef("head.namespace_id", "=", "a.namespace_id")
        .onRef("head.run_key", "=", "a.ancestor_key"),
    )
    .select(["a.run_key as covered_key", "head.run_key", "head.run_id"])
    .where("a.namespace_id", "=", namespaceId)
    .where("a.run_key", "in", padded(runKeys))
    .where("a.ancestor_key", "in", padded(headKeys))
    .execute();
}
