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
  if (subtrees.length === 0) return covered;
  const headKeys = [...new Set(subtrees.map(({ startSeq }) => startSeq))];
  for (const part of parts(runKeys)) {
    const rows = await db
      .selectFrom("run_ancestors as a")
      .innerJoin("runs as head", (join) =>
        join
          .onRef("head.namespace_id", "=", "a.namespace_id")
          .onRef("head.run_key", "=", "a.ancestor_key"),
      )
      .select(["a.run_key as covered_key", "head.run_key", "head.run_id"])
      .where("a.namespace_id", "=", namespaceId)
      .where("a.run_key", "in", padded(part))
      .where("a.ancestor_key", "in", padded(headKeys))
      .execute();
    for (const row of rows) {
      if (subtrees.some((one) => isHead(one, row))) covered.add(row.covered_key);
    }
  }
  return covered;
}
