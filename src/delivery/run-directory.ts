/** Reads runs for those who ask about them. */
import type { RunState } from "../../gen/runlog/v1/run_pb.js";
import type { Journal } from "../journal/journal.ts";
import { findNamespace } from "../journal/namespaces.ts";
import { RefusedError } from "../journal/refusal.ts";
import { type RunQuery, stepThroughRuns } from "../journal/run-lists.ts";
import { findRuns, findRunView, findRunViews, type RunView } from "../journal/runs.ts";

/** Steps that one page looks through runs, each of at most 512 runs of a condition. */
const stepsPerPage = 8;

/** Which runs to list; what is set must all hold. */
export interface RunListing {
  readonly parentRunId: string | undefined;
  readonly ancestorRunId: string | undefined;
  readonly conversationId: string | undefined;
  readonly states: readonly RunState[] | undefined;
  readonly labels: Readonly<Record<string, string>>;
  readonly pageSize: number;
  /** nextBeforeKey of the page before. */
  readonly beforeKey: number | undefined;
}

/** A page of runs, newest first. */
export interface RunListPage {
  /** Fewer than were asked for, or none, where many runs had to be looked through for them. */
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
  const { namespace_id: namespaceId } = found;
  const rows = await findRuns(journal.db, namespaceId, relatives);
  const keyOf = (runId: string): number => {
    const row = rows.find((candidate) => candidate.run_id === runId);
    if (row === undefined) throw new RefusedError({ reason: "run_not_found", runId });
    return row.run_key;
  };
  const query: RunQuery = {
    ...(parentRunId === undefined ? {} : { parentKey: keyOf(parentRunId) }),
    ...(ancestorRunId === undefined ? {} : { ancestorKey: keyOf(ancestorRunId) }),
    ...(conversationId === undefined ? {} : { conversationId }),
    ...(states === undefined ? {} : { states }),
    labels,
  };
  const runs: RunView[] = [];
  let nextKey = beforeKey ?? Number.MAX_SAFE_INTEGER;
  for (let steps = 0; steps < stepsPerPage; steps++) {
    const { keys, reachKey } = await stepThroughRuns(journal.scans, namespaceId, query, nextKey);
    const taken = keys.slice(0, pageSize - runs.length);
    runs.push(...(await findRunViews(journal.scans, namespaceId, taken)));
    if (taken.length < keys.length) return { runs, nextBeforeKey: taken.at(-1) };
    if (reachKey === 0) return { runs, nextBeforeKey: undefined };
    nextKey = reachKey;
    if (runs.length === pageSize) break;
  }
  return { runs, nextBeforeKey: nextKey };
}
