/** Reads runs for those who ask about them. */
import type { Journal } from "../journal/journal.ts";
import { findNamespace } from "../journal/namespaces.ts";
import { RefusedError } from "../journal/refusal.ts";
import { findRuns, findRunView, listRunViews, type RunView } from "../journal/runs.ts";

/** Which runs to list; what is set must all hold. */
export interface RunListing {
  readonly parentRunId: string | undefined;
  readonly ancestorRunId: string | undefined;
  readonly conversationId: string | undefined;
  readonly states: readonly number[] | undefined;
  readonly labels: Readonly<Record<string, string>>;
  readonly pageSize: number;
  /** run key of the last run of the page before. */
  readonly beforeKey: number | undefined;
}

/** A page of runs, newest first. */
export interface RunListPage {
  readonly runs: readonly RunView[];
  /** beforeKey of the next page; undefined on the last one. */
  readonly nextBeforeKey: number | undefined;
}

/**
 * Reads one run.
 *
 * @throws RefusedError run_not_found
 */
export async function getRun(journal: Journal, namespace: string, runId: string): Promise<RunView> {
  const found = await findNamespace(journal.db, namespace);
  const run = found && (await findRunView(journal.db, found.namespace_id, runId));
  if (run === undefined) throw new RefusedError({ reason: "run_not_found", runId });
  return run;
}

/**
 * Lists runs, a page at a time.
 *
 * @throws RefusedError run_not_found where the parent or ancestor does not exist
 */
export async function listRuns(
  journal: Journal,
  namespace: string,
  listing: RunListing,
): Promise<RunListPage> {
  const { parentRunId, ancestorRunId, conversationId, states, labels, pageSize, beforeKey } =
    listing;
  const relatives = [parentRunId, ancestorRunId].filter((runId) => runId !== undefined);
  const found = await findNamespace(journal.db, namespace);
  if (found === undefined) {
    if (relatives[0] !== undefined)
      throw new RefusedError({ reason: "run_not_found", runId: relatives[0] });
    return { runs: [], nextBeforeKey: undefined };
  }
  const rows = await findRuns(journal.db, found.namespace_id, relatives);
  const keyOf = (runId: string): number => {
    const row = rows.find((candidate) => candidate.run_id === runId);
    if (row === undefined) throw new RefusedError({ reason: "run_not_found", runId });
    return row.run_key;
  };
  const runs = await listRunViews(journal.db, found.namespace_id, {
    ...(parentRunId === undefined ? {} : { parentKey: keyOf(parentRunId) }),
    ...(ancestorRunId === undefined ? {} : { ancestorKey: keyOf(ancestorRunId) }),
    ...(conversationId === undefined ? {} : { conversationId }),
    ...(states === undefined ? {} : { states }),
    ...(beforeKey === undefined ? {} : { beforeKey }),
    labels,
    limit: pageSize + 1,
  });
  const page = runs.slice(0, pageSize);
  return { runs: page, nextBeforeKey: runs.length > pageSize ? page.at(-1)?.run_key : undefined };
}
