/**
 * What forks inherit. A fork refers to its source: the events up to the fork
 * point, and what the source inherited itself. Where they lie never changes, so
 * it is looked up once.
 */
import { readRunFrom } from "../journal/records.ts";
import { findRunsByKey, type RunRow } from "../journal/runs.ts";
import type { Db } from "../journal/schema.ts";
import { maxInheritedRuns } from "../limits.ts";
import { RefusedError } from "../refusal.ts";
import type { InheritedEvents } from "./filter.ts";

/**
 * Looks up what runs inherit, over any number of forks.
 *
 * @throws RefusedError quota where they inherit from too many runs
 */
export async function findInherited(
  db: Db,
  namespaceId: number,
  runs: readonly RunRow[],
): Promise<InheritedEvents[]> {
  const found = new Map<number, InheritedEvents>();
  for (let forks: readonly RunRow[] = runs; forks.length > 0; ) {
    const points = forks.flatMap(({ fork_key: key, fork_run_seq: runSeq }) =>
      key === null || runSeq === null || runSeq === 0 ? [] : [{ key, runSeq }],
    );
    const sources = new Map(
      (
        await findRunsByKey(
          db,
          namespaceId,
          points.map(({ key }) => key),
        )
      ).map((source) => [source.run_key, source]),
    );
    const next: RunRow[] = [];
    for (const { key, runSeq } of points) {
      const source = sources.get(key);
      if (source === undefined) throw new Error(`the source ${key} of a fork is missing`);
      const inherited = await beginningOf(db, source, runSeq);
      const known = found.get(key);
      if (known === undefined) next.push(source);
      if (known === undefined || known.throughSeq < inherited.throughSeq) found.set(key, inherited);
      if (found.size > maxInheritedRuns) {
        const what = "runs whose events the forks in one filter inherit: name fewer forks";
        throw new RefusedError({ reason: "quota", what, limit: maxInheritedRuns });
      }
    }
    forks = next;
  }
  return [...found.values()];
}

/** Where a run's events up to a run_seq lie. */
async function beginningOf(db: Db, run: RunRow, runSeq: number): Promise<InheritedEvents> {
  const [record] = await readRunFrom(db, run.namespace_id, run, runSeq, 1);
  if (record === undefined) throw new Error(`run_seq ${runSeq} is missing in the journal`);
  const { last_seq: recordEndSeq, event_count: count, first_run_seq: firstRunSeq } = record;
  const throughSeq = recordEndSeq - count + 1 + (runSeq - firstRunSeq);
  return { runId: run.run_id, runKey: run.run_key, throughSeq, recordEndSeq };
}
