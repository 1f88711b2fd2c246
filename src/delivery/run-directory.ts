/** Reads runs for those who ask about them. */
import type { RunState } from "../../gen/runlog/v1/run_pb.js";
import type { Journal } from "../journal/journal.ts";
import { findNamespace } from "../journal/namespaces.ts";
import { firstKeyFrom, type RunQuery, stepThroughRuns } from "../journal/run-lists.ts";
import {
  findRunBytes,
  findRuns,
  findRunView,
  findRunViews,
  type RunRow,
  type RunView,
} from "../journal/runs.ts";
import { findCovering, findSubtreeKeys, isCovered } from "../journal/subtrees.ts";
import { RefusedError } from "../refusal.ts";
import type { Subtree, Within } from "../subtree.ts";

/** Bytes that a run takes in an answer besides its spec and its result: ids, places, framing. */
const runRoomBytes = 1024;
/** Steps that one page looks through runs, each of at most 512 runs of a condition. */
const stepsPerPage = 8;

/** Which runs to list; all conditions that are set must hold. */
export interface RunListing {
  readonly parentRunId: string | undefined;
  readonly ancestorRunId: string | undefined;
  readonly conversationId: string | undefined;
  readonly states: readonly RunState[] | undefined;
  readonly labels: Readonly<Record<string, string>>;
  readonly agentId?: string | undefined;
  /** How their ids begin. */
  readonly runIdPrefix?: string | undefined;
  /** Created at this moment or later, milliseconds since 1970. */
  readonly createdFromMs?: number | undefined;
  /** Created before this moment. */
  readonly createdBeforeMs?: number | undefined;
  /** Signals to them await handling. */
  readonly hasPendingSignals?: boolean;
  readonly pageSize: number;
  /** Bytes of the page, unless one run alone is larger. */
  readonly maxBytes: number;
  /** nextBeforeKey of the page before. */
  readonly beforeKey: number | undefined;
  /** Where the caller may read: what lies outside is not there. Not set: anywhere. */
  readonly within?: Within;
}

/** A page of runs, newest first. */
export interface RunListPage {
  /**
   * Fewer than were asked for where they are large; or none, where many runs had to be
   * looked through for them.
   */
  readonly runs: readonly RunView[];
  /** beforeKey of the next page; undefined on the last one. */
  readonly nextBeforeKey: number | undefined;
  /** The newest seq before the page was read: whoever follows the runs after it misses nothing. */
  readonly asOfSeq: number;
}

/**
 * Reads one run.
 *
 * @param within where the caller may read
 * @throws RefusedError run_not_found
 */
export async function getRun(
  { db }: Journal,
  namespace: string,
  runId: string,
  within?: Within,
): Promise<RunView> {
  const found = await findNamespace(db, namespace);
  const run = found && (await findRunView(db, found.namespace_id, runId));
  if (run === undefined || !(await isCovered(db, within, run))) {
    throw new RefusedError({ reason: "run_not_found", runId });
  }
  return run;
}

/** Where a run lies. */
export interface RunPlace {
  readonly startSeq: number;
  /** Those of the subtrees that were asked about in which it lies. */
  readonly subtrees: readonly Subtree[];
}

/** Finds a run among subtrees; undefined where there is none with the id. */
export async function findRunPlace(
  { db }: Journal,
  namespace: string,
  runId: string,
  subtrees: readonly Subtree[],
): Promise<RunPlace | undefined> {
  const found = await findNamespace(db, namespace);
  const [run] = found === undefined ? [] : await findRuns(db, found.namespace_id, [runId]);
  if (run === undefined) return undefined;
  return { startSeq: run.run_key, subtrees: await findCovering(db, subtrees, run) };
}

/** The bytes that a page may still hold. */
class Room {
  #bytes: number;
  #isEmpty = true;

  constructor(bytes: number) {
    this.#bytes = bytes;
  }

  /** Of these runs, the first ones that there is room for; one where the page would be empty. */
  take(runKeys: readonly number[], bytesOf: ReadonlyMap<number, number>): readonly number[] {
    for (const [index, runKey] of runKeys.entries()) {
      this.#bytes -= (bytesOf.get(runKey) ?? 0) + runRoomBytes;
      if (this.#bytes < 0 && !this.#isEmpty) return runKeys.slice(0, index);
      this.#isEmpty = false;
    }
    return runKeys;
  }
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
  const { agentId, runIdPrefix, createdFromMs, createdBeforeMs, hasPendingSignals } = listing;
  const relatives = [parentRunId, ancestorRunId].filter((runId) => runId !== undefined);
  const found = await findNamespace(journal.db, namespace);
  if (found === undefined) {
    if (relatives[0] !== undefined)
      throw new RefusedError({ reason: "run_not_found", runId: relatives[0] });
    return { runs: [], nextBeforeKey: undefined, asOfSeq: 0 };
  }
  // Read before the runs are.
  const { namespace_id: namespaceId, last_seq: asOfSeq } = found;
  const { within } = listing;
  const named = await findRuns(journal.db, namespaceId, relatives);
  const rows: RunRow[] = [];
  for (const row of named) if (await isCovered(journal.db, within, row)) rows.push(row);
  const keyOf = (runId: string): number => {
    const row = rows.find((candidate) => candidate.run_id === runId);
    if (row === undefined) throw new RefusedError({ reason: "run_not_found", runId });
    return row.run_key;
  };
  const keyFrom = (timeMs: number) => firstKeyFrom(journal.scans, namespaceId, timeMs, asOfSeq);
  const query: RunQuery = {
    ...(parentRunId === undefined ? {} : { parentKey: keyOf(parentRunId) }),
    ...(ancestorRunId === undefined ? {} : { ancestorKey: keyOf(ancestorRunId) }),
    ...(conversationId === undefined ? {} : { conversationId }),
    ...(states === undefined ? {} : { states }),
    labels,
    ...(agentId === undefined ? {} : { agentId }),
    ...(runIdPrefix === undefined ? {} : { idPrefix: runIdPrefix }),
    ...(createdFromMs === undefined ? {} : { afterKey: (await keyFrom(createdFromMs)) - 1 }),
    ...(hasPendingSignals === true && { hasPendingSignals }),
    // Of a relative that is there, all descendants are.
    ...(within === undefined || relatives.length > 0
      ? {}
      : { familyKeys: await findSubtreeKeys(journal.db, namespaceId, within) }),
  };
  const endKey =
    createdBeforeMs === undefined ? Number.MAX_SAFE_INTEGER : await keyFrom(createdBeforeMs);
  const runs: RunView[] = [];
  const room = new Room(listing.maxBytes);
  let nextKey = Math.min(beforeKey ?? endKey, endKey);
  for (let steps = 0; steps < stepsPerPage; steps++) {
    const { keys, reachKey } = await stepThroughRuns(journal.scans, namespaceId, query, nextKey);
    const wanted = keys.slice(0, pageSize - runs.length);
    const taken = room.take(wanted, await findRunBytes(journal.scans, namespaceId, wanted));
    runs.push(...(await findRunViews(journal.scans, namespaceId, taken)));
    if (taken.length < keys.length) {
      return { runs, nextBeforeKey: taken.at(-1) ?? nextKey, asOfSeq };
    }
    if (reachKey === 0) return { runs, nextBeforeKey: undefined, asOfSeq };
    nextKey = reachKey;
    if (runs.length === pageSize) break;
  }
  return { runs, nextBeforeKey: nextKey, asOfSeq };
}
