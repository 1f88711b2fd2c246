/**
 * Lists runs by conditions, newest first, in steps that cost the same however
 * many runs there are.
 *
 * Each condition has an index in which its runs stand in the order of their keys.
 * A step reads one stretch of each, goes along the one that reaches furthest back,
 * which is the most selective one there, and asks the others about its runs only.
 */
import { sql } from "kysely";
import { RunState } from "../../gen/runlog/v1/run_pb.js";
import { hasPendingSignals } from "./run-conditions.ts";
import type { Db } from "./schema.ts";
import { padded } from "./statement-lists.ts";

/** Which runs to list; all conditions that are set must hold. */
export interface RunQuery {
  readonly parentKey?: number;
  readonly ancestorKey?: number;
  readonly conversationId?: string;
  readonly states?: readonly RunState[];
  readonly labels?: Readonly<Record<string, string>>;
  readonly agentId?: string;
  /** How their ids begin. */
  readonly idPrefix?: string;
  /** Signals to them await handling. */
  readonly hasPendingSignals?: boolean;
  /** Only runs with a greater key. */
  readonly afterKey?: number;
  /** Runs that are one of these, or their descendants; none where it is empty. */
  readonly familyKeys?: readonly number[];
}

/** A stretch of a list. */
export interface RunKeys {
  /** Keys of runs that fulfil all conditions, newest first. */
  readonly keys: readonly number[];
  /** Everything with this key or a greater one has been looked at; 0 where nothing is left. */
  readonly reachKey: number;
}

/** Runs of one condition that one step reads. */
const defaultStepRuns = 512;

/** A condition as a list of runs, by their keys. */
interface KeyList {
  /** The list's runs among the next ones below `beforeKey`; a step of `limit` runs. */
  below(beforeKey: number, limit: number): Promise<RunKeys>;
  /** Those of these runs that are in the list. */
  among(keys: readonly number[]): Promise<number[]>;
}

/** A list whose newest part has been read. */
interface Stretch extends RunKeys {
  readonly list: KeyList;
}

/**
 * Takes one step through the runs that fulfil a query.
 *
 * @param beforeKey only runs with a smaller key are looked at
 * @param stepRuns runs of each condition that are read at once. Default 512
 */
export async function stepThroughRuns(
  db: Db,
  namespaceId: number,
  query: RunQuery,
  beforeKey: number,
  stepRuns = defaultStepRuns,
): Promise<RunKeys> {
  const { keys, reachKey } = await stepThroughAll(db, namespaceId, query, beforeKey, stepRuns);
  const { afterKey = 0 } = query;
  return reachKey > afterKey
    ? { keys, reachKey }
    : { keys: keys.filter((key) => key > afterKey), reachKey: 0 };
}

async function stepThroughAll(
  db: Db,
  namespaceId: number,
  query: RunQuery,
  beforeKey: number,
  stepRuns: number,
): Promise<RunKeys> {
  const stretches: Stretch[] = [];
  for (const list of listsOf(db, namespaceId, query)) {
    const { keys, reachKey } = await list.below(beforeKey, stepRuns);
    stretches.push({ list, keys, reachKey });
    // Nothing is left that could fulfil this one.
    if (keys.length === 0 && reachKey === 0) return { keys: [], reachKey: 0 };
  }
  const [first, ...others] = stretches.toSorted(
    (a, b) => a.reachKey - b.reachKey || a.keys.length - b.keys.length,
  );
  let keys = first!.keys;
  for (const other of others) keys = await leave(keys, other);
  return { keys, reachKey: first!.reachKey };
}

/** Leaves those keys that are in another list too. */
async function leave(keys: readonly number[], { list, keys: known, reachKey }: Stretch) {
  const unknown = keys.filter((key) => key < reachKey);
  const found = new Set(known);
  if (unknown.length > 0) for (const key of await list.among(unknown)) found.add(key);
  return keys.filter((key) => found.has(key));
}

function listsOf(db: Db, namespaceId: number, query: RunQuery): readonly KeyList[] {
  const { parentKey, ancestorKey, conversationId, states, labels = {}, agentId, idPrefix } = query;
  const lists: KeyList[] = [];
  if (parentKey !== undefined) lists.push(columnList(db, namespaceId, "parent_key", parentKey));
  if (conversationId !== undefined) {
    lists.push(columnList(db, namespaceId, "conversation_id", conversationId));
  }
  if (ancestorKey !== undefined) lists.push(ancestorList(db, namespaceId, ancestorKey));
  for (const [key, value] of Object.entries(labels)) {
    lists.push(labelList(db, namespaceId, key, value));
  }
  if (states !== undefined) lists.push(statesList(db, namespaceId, states));
  if (agentId !== undefined) lists.push(columnList(db, namespaceId, "agent_id", agentId));
  if (idPrefix !== undefined) lists.push(prefixList(db, namespaceId, idPrefix));
  if (query.hasPendingSignals === true) {
    lists.push(queriedList(keysIn(db, "runs", namespaceId).where(hasPendingSignals)));
  }
  if (query.familyKeys !== undefined) lists.push(familiesList(db, namespaceId, query.familyKeys));
  return lists.length > 0 ? lists : [queriedList(keysIn(db, "runs", namespaceId))];
}

function keysOf(rows: readonly { readonly run_key: number }[]): number[] {
  return rows.map((row) => row.run_key);
}

/** A stretch of a list's own runs, of which at most `limit` were asked for. */
function stretchOf(keys: readonly number[], limit: number): RunKeys {
  return { keys, reachKey: keys.length < limit ? 0 : (keys[limit - 1] ?? 0) };
}

/** Tables with a row for each run that is something. */
type KeyedTable = "runs" | "run_labels" | "run_ancestors";

/** The keys of the runs in a table, which the caller narrows down. */
function keysIn(db: Db, table: KeyedTable, namespaceId: number) {
  return db.selectFrom(table).select("run_key").where("namespace_id", "=", namespaceId);
}

/** The runs of a query that has an index of its own by their keys. */
function queriedList(query: ReturnType<typeof keysIn>): KeyList {
  return {
    below: async (beforeKey, limit) =>
      stretchOf(
        keysOf(
          await query
            .where("run_key", "<", beforeKey)
            .orderBy("run_key", "desc")
            .limit(limit)
            .execute(),
        ),
        limit,
      ),
    among: async (keys) =>
      keys.length === 0 ? [] : keysOf(await query.where("run_key", "in", padded(keys)).execute()),
  };
}

/** Runs with a value in a column that has an index with the key behind it. */
function columnList(
  db: Db,
  namespaceId: number,
  column: "parent_key" | "conversation_id" | "state" | "agent_id",
  value: number | string,
): KeyList {
  const name = sql.ref<number | string>(column);
  const runs = keysIn(db, "runs", namespaceId);
  return {
    // Compared and ordered as pairs: only the column's own index is in this order. By the
    // key alone a planner with old statistics would go through the namespace's runs.
    below: async (beforeKey, limit) =>
      stretchOf(
        keysOf(
          await runs
            .where(sql<boolean>`(${name}, run_key) < (${value}, ${beforeKey})`)
            .where(name, ">=", value)
            .orderBy(column, "desc")
            .orderBy("run_key", "desc")
            .limit(limit)
            .execute(),
        ),
        limit,
      ),
    among: queriedList(runs.where(name, "=", value)).among,
  };
}

/**
 * Runs whose ids begin alike. Their index is in the order of ids: where they are
 * few it is read whole; of many, the next runs whatever their ids hold some.
 */
function prefixList(db: Db, namespaceId: number, prefix: string): KeyList {
  const every = keysIn(db, "runs", namespaceId);
  const range = every.where("run_id", ">=", prefix).where("run_id", "<", endOfPrefix(prefix));
  const { among } = queriedList(range);
  return {
    async below(beforeKey, limit) {
      const all = keysOf(await range.orderBy("run_id").limit(limit).execute());
      if (all.length < limit) {
        const keys = all.filter((key) => key < beforeKey).toSorted((a, b) => b - a);
        return { keys, reachKey: 0 };
      }
      const { keys, reachKey } = await queriedList(every).below(beforeKey, limit);
      return { keys: (await among(keys)).toSorted((a, b) => b - a), reachKey };
    },
    among,
  };
}

/** The first text behind all that begin so; ids are of visible ASCII characters. */
function endOfPrefix(prefix: string): string {
  const last = prefix.charCodeAt(prefix.length - 1);
  return prefix.slice(0, -1) + String.fromCharCode(last + 1);
}

/**
 * The first key of the runs that were created at a moment or later; those before
 * it were created before: keys and times of creation grow together. Found by
 * halving, so no index by time has to be kept.
 *
 * @param timeMs milliseconds since 1970
 * @param lastSeq the namespace's: no run has a greater key
 */
export async function firstKeyFrom(
  db: Db,
  namespaceId: number,
  timeMs: number,
  lastSeq: number,
): Promise<number> {
  // Invariant: runs up to `low` were created before, runs from `high` on were not.
  let low = 0;
  let high = lastSeq + 1;
  while (high - low > 1) {
    const middle = Math.floor((low + high) / 2);
    const run = await db
      .selectFrom("runs")
      .select(["run_key", "create_time_ms"])
      .where("namespace_id", "=", namespaceId)
      .where("run_key", ">=", middle)
      .where("run_key", "<", high)
      .orderBy("run_key")
      .limit(1)
      .executeTakeFirst();
    if (run === undefined || run.create_time_ms >= timeMs) high = middle;
    else low = run.run_key;
  }
  return high;
}

/** Runs in one of these states. */
function statesList(db: Db, namespaceId: number, states: readonly RunState[]): KeyList {
  // A state that does not exist has no runs.
  const known = [...new Set(states)].filter((state) => state in RunState);
  const lists = known.map((state) => columnList(db, namespaceId, "state", state));
  return {
    async below(beforeKey, limit) {
      const all: number[] = [];
      for (const list of lists) all.push(...(await list.below(beforeKey, limit)).keys);
      return stretchOf(all.toSorted((a, b) => b - a).slice(0, limit), limit);
    },
    among: async (keys) =>
      known.length === 0
        ? []
        : keysOf(
            await keysIn(db, "runs", namespaceId)
              .where("run_key", "in", padded(keys))
              .where("state", "in", padded(known))
              .execute(),
          ),
  };
}

/** Descendants of a run. */
function ancestorList(db: Db, namespaceId: number, ancestorKey: number): KeyList {
  return queriedList(
    keysIn(db, "run_ancestors", namespaceId)
      .where("ancestor_key", "=", ancestorKey)
      // A run has a smaller key than its descendants.
      .where("run_key", ">", ancestorKey),
  );
}

/** Runs that head one of several families, or belong to it. */
function familiesList(db: Db, namespaceId: number, headKeys: readonly number[]): KeyList {
  const families = keysIn(db, "run_ancestors", namespaceId);
  return {
    async below(beforeKey, limit) {
      const all = new Set<number>();
      for (const headKey of headKeys) {
        const rows = await families
          .where("ancestor_key", "=", headKey)
          .where("run_key", "<", beforeKey)
          .orderBy("run_key", "desc")
          .limit(limit)
          .execute();
        for (const key of keysOf(rows)) all.add(key);
      }
      return stretchOf([...all].toSorted((a, b) => b - a).slice(0, limit), limit);
    },
    among: async (keys) => {
      if (headKeys.length === 0) return [];
      const rows = await families
        .where("ancestor_key", "in", padded(headKeys))
        .where("run_key", "in", padded(keys))
        .execute();
      return [...new Set(keysOf(rows))];
    },
  };
}

/** Runs that carry a label. */
function labelList(db: Db, namespaceId: number, key: string, value: string): KeyList {
  return queriedList(
    keysIn(db, "run_labels", namespaceId)
      .where("label_key", "=", key)
      .where("label_value", "=", value),
  );
}
