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
import type { Db } from "./schema.ts";
import { padded } from "./statement-lists.ts";

/** Which runs to list; what is set must all hold. */
export interface RunQuery {
  readonly parentKey?: number;
  readonly ancestorKey?: number;
  readonly conversationId?: string;
  readonly states?: readonly RunState[];
  readonly labels?: Readonly<Record<string, string>>;
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
  /** The newest runs of the list with a key below `beforeKey`, newest first. */
  below(beforeKey: number, limit: number): Promise<number[]>;
  /** Those of these runs that are in the list. */
  among(keys: readonly number[]): Promise<number[]>;
}

/** A list whose newest part has been read. */
interface Stretch {
  readonly list: KeyList;
  readonly keys: readonly number[];
  /** The key down to which the list is known. */
  readonly reachKey: number;
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
  const stretches: Stretch[] = [];
  for (const list of listsOf(db, namespaceId, query)) {
    const keys = await list.below(beforeKey, stepRuns);
    const reachKey = keys.length < stepRuns ? 0 : keys.at(-1)!;
    stretches.push({ list, keys, reachKey });
    // Nothing is left that could fulfil this one.
    if (keys.length === 0) return { keys: [], reachKey: 0 };
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
  const { parentKey, ancestorKey, conversationId, states, labels = {} } = query;
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
  return lists.length > 0 ? lists : [everyRun(db, namespaceId)];
}

function keysOf(rows: readonly { readonly run_key: number }[]): number[] {
  return rows.map((row) => row.run_key);
}

function runsOf(db: Db, namespaceId: number) {
  return db.selectFrom("runs").select("run_key").where("namespace_id", "=", namespaceId);
}

function everyRun(db: Db, namespaceId: number): KeyList {
  return {
    below: async (beforeKey, limit) =>
      keysOf(
        await runsOf(db, namespaceId)
          .where("run_key", "<", beforeKey)
          .orderBy("run_key", "desc")
          .limit(limit)
          .execute(),
      ),
    among: (keys) => Promise.resolve([...keys]),
  };
}

/** Runs with a value in a column that has an index with the key behind it. */
function columnList(
  db: Db,
  namespaceId: number,
  column: "parent_key" | "conversation_id" | "state",
  value: number | string,
): KeyList {
  const name = sql.ref<number | string>(column);
  return {
    // Compared and ordered as pairs: only the column's own index is in this order. By the
    // key alone a planner with old statistics would go through the namespace's runs.
    below: async (beforeKey, limit) =>
      keysOf(
        await runsOf(db, namespaceId)
          .where(sql<boolean>`(${name}, run_key) < (${value}, ${beforeKey})`)
          .where(name, ">=", value)
          .orderBy(column, "desc")
          .orderBy("run_key", "desc")
          .limit(limit)
          .execute(),
      ),
    among: async (keys) =>
      keysOf(
        await runsOf(db, namespaceId)
          .where("run_key", "in", padded(keys))
          .where(name, "=", value)
          .execute(),
      ),
  };
}

/** Runs in one of these states. */
function statesList(db: Db, namespaceId: number, states: readonly RunState[]): KeyList {
  // A state that does not exist has no runs.
  const known = [...new Set(states)].filter((state) => state in RunState);
  const lists = known.map((state) => columnList(db, namespaceId, "state", state));
  return {
    async below(beforeKey, limit) {
      const all: number[] = [];
      for (const list of lists) all.push(...(await list.below(beforeKey, limit)));
      return all.toSorted((a, b) => b - a).slice(0, limit);
    },
    among: async (keys) =>
      known.length === 0
        ? []
        : keysOf(
            await runsOf(db, namespaceId)
              .where("run_key", "in", padded(keys))
              .where("state", "in", padded(known))
              .execute(),
          ),
  };
}

/** Descendants of a run. */
function ancestorList(db: Db, namespaceId: number, ancestorKey: number): KeyList {
  const family = db
    .selectFrom("run_ancestors")
    .select("run_key")
    .where("namespace_id", "=", namespaceId)
    .where("ancestor_key", "=", ancestorKey);
  return {
    below: async (beforeKey, limit) =>
      keysOf(
        await family
          .where("run_key", "<", beforeKey)
          // A run has a smaller key than its descendants.
          .where("run_key", ">", ancestorKey)
          .orderBy("run_key", "desc")
          .limit(limit)
          .execute(),
      ),
    among: async (keys) =>
      keysOf(
        await family
          .where("run_key", "in", padded(keys))
          .where("run_key", ">", ancestorKey)
          .execute(),
      ),
  };
}

/** Runs that carry a label. */
function labelList(db: Db, namespaceId: number, key: string, value: string): KeyList {
  const labelled = db
    .selectFrom("run_labels")
    .select("run_key")
    .where("namespace_id", "=", namespaceId)
    .where("label_key", "=", key)
    .where("label_value", "=", value);
  return {
    below: async (beforeKey, limit) =>
      keysOf(
        await labelled
          .where("run_key", "<", beforeKey)
          .orderBy("run_key", "desc")
          .limit(limit)
          .execute(),
      ),
    among: async (keys) => keysOf(await labelled.where("run_key", "in", padded(keys)).execute()),
  };
}
