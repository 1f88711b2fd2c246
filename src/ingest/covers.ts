/** Whether a run lies where a caller may act. */
import { isHead } from "../journal/subtrees.ts";
import type { Within } from "../subtree.ts";
import type { StagedRun } from "./staged-run.ts";

/**
 * Ids name one run each while it exists, so a lineage that has the id of a
 * subtree's head leads to that run.
 *
 * @param runs those that exist, the heads among them
 */
export function covers(
  within: Within,
  { lineage }: StagedRun,
  runs: ReadonlyMap<string, StagedRun>,
): boolean {
  if (within === undefined) return true;
  return within.some((subtree) => {
    const head = runs.get(subtree.runId);
    return head !== undefined && isHead(subtree, head.row) && lineage.includes(subtree.runId);
  });
}
