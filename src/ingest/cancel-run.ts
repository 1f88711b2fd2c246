/**
 * Asking runs to stop. The request is durable before anybody is told, so a
 * producer that is not connected learns of it when it opens its run. Who is
 * asked is decided under the namespace's lock: a run that starts meanwhile is
 * among the descendants that are asked, or inherits the request from its parent.
 */
import { lockNamespace, updateNamespace } from "../journal/namespaces.ts";
import { RefusedError } from "../journal/refusal.ts";
import { findRuns, noteCancel } from "../journal/runs.ts";
import type { Committer } from "./committer.ts";

/** Which runs to ask. */
export interface CancelRequest {
  readonly namespace: string;
  readonly runId: string;
  /** Also the run's descendants, and those that start later. */
  readonly includeDescendants: boolean;
  /** For people. */
  readonly reason: string;
}

/**
 * Asks a run, or a family, to stop.
 *
 * @returns how many runs were RUNNING when the request was recorded
 * @throws RefusedError run_not_found
 */
export async function cancelRun(committer: Committer, request: CancelRequest): Promise<number> {
  const { namespace, runId, includeDescendants, reason } = request;
  const asked = await committer.alone(
    namespace,
    async (tx) => {
      const locked = await lockNamespace(tx, namespace);
      const [run] = locked === undefined ? [] : await findRuns(tx, locked.namespace_id, [runId]);
      if (locked === undefined || run === undefined) {
        throw new RefusedError({ reason: "run_not_found", runId });
      }
      await updateNamespace(tx, locked.namespace_id, { cancel_count: locked.cancel_count + 1 });
      return noteCancel(tx, run.namespace_id, run.run_key, reason, includeDescendants);
    },
    (runIds) => {
      for (const id of runIds) committer.holderOf(namespace, id)?.cancelRequested(reason);
    },
  );
  return asked.length;
}
