/**
 * What a step of a scan costs in the database: the query plans on SQLite, and on
 * PostgreSQL the rows that were looked at.
 */
import assert from "node:assert/strict";
import { mkdtemp, rm } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import Database from "better-sqlite3";
import { type CompiledQuery, type Dialect, Kysely, PostgresDialect, SqliteDialect } from "kysely";
import pg from "pg";
import { RunState } from "../../gen/runlog/v1/run_pb.js";
import { listRuns, type RunListing } from "../../src/delivery/run-directory.ts";
import {
  findAsked,
  findUnfinishedCancellations,
  readFamilyStretch,
} from "../../src/journal/cancellations.ts";
import type { Journal } from "../../src/journal/journal.ts";
import {
  insertNamespace,
  listKeptNamespaces,
  lockNamespace,
  updateNamespace,
} from "../../src/journal/namespaces.ts";
import { findGoneNodes, findRunningOf } from "../../src/journal/nodes.ts";
import { openJournal } from "../../src/journal/open.ts";
import type { RecordPage, RecordScope } from "../../src/journal/pages/keys.ts";
import { readPage } from "../../src/journal/pages/read-page.ts";
import { insertRecords, type NewRecord } from "../../src/journal/records.ts";
import { familyIsOpen, findRuns, insertRuns, type RunRow } from "../../src/journal/runs.ts";
import type { Db, Schema } from "../../src/journal/schema.ts";
import {
  findEndedRoots,
  findForksAfter,
  findMarkedTrees,
  findNewestOfTree,
  findOpenInTree,
  readTreeStretch,
} from "../../src/journal/trees.ts";
import { defaultLimits } from "../../src/limits.ts";
import { giveBackDatabase, takeDatabase } from "../support/postgres.ts";

const runCount = 20_000;
const namespace = "default";
const settings = { ...defaultLimits, lockTimeoutMs: 1_000 };

/** One tree: a root that is RUNNING, and children that have ended; what is rare is the oldest. */
function runOf(namespaceId: number, key: number): RunRow {
  const isRoot = key === 1;
  return {
    namespace_id: namespaceId,
    run_key: key,
    run_id: `run-${key}`,
    parent_key: isRoot ? null : 1,
    root_key: 1,
    depth: isRoot ? 0 : 1,
    conversation_id: key < 20 ? "rare" : "usual",
    spec: Buffer.alloc(0),
    fork_key: null,
    fork_run_seq: null,
    create_time_ms: 1,
    epoch: 1,
    state: isRoot ? RunState.RUNNING : RunState.SUCCEEDED,
    last_run_seq: 0,
    last_event_seq: 0,
    last_seq: key,
    event_bytes: 0,
    result: null,
    end_time_ms: isRoot ? null : key,
    cancel_reason: null,
    cancel_request: 0,
    cancel_descendants: 0,
    node_key: 0,
    producer_id: null,
    producer_attempt: null,
    last_signal_seq: 0,
    handled_signal_seq: 0,
    waiting: null,
    wait_deadline_ms: null,
    agent_id: "",
  };
}

/** Seqs of a child's records, behind those of the runs: events, and then some facts. */
const recordCount = 20_000;
const lastFacts = 10;

/** Each run's beginning, then one child's many events, then some facts about that child. */
function recordOf(namespaceId: number, seq: number): NewRecord {
  const isEvent = seq > runCount && seq <= runCount + recordCount - lastFacts;
  return {
    namespace_id: namespaceId,
    last_seq: seq,
    event_count: 1,
    run_key: Math.min(seq, runCount),
    root_key: 1,
    first_run_seq: isEvent ? seq - runCount : 0,
    types: isEvent ? "token" : "",
    size: 1,
    data: Buffer.alloc(1),
    checksum: null,
  };
}

async function fill(journal: Journal): Promise<void> {
  const id = await journal.write(async (tx) => {
    await insertNamespace(tx, namespace, 1);
    const locked = (await lockNamespace(tx, namespace))!;
    await updateNamespace(tx, locked.namespace_id, {
      last_seq: runCount + recordCount,
      run_count: runCount,
    });
    return locked.namespace_id;
  });
  for (let at = 1; at <= runCount; at += 500) {
    const keys = Array.from({ length: 500 }, (_, n) => at + n);
    const family = keys.map((key) => {
      return { namespace_id: id, ancestor_key: 1, run_key: key, depth: key === 1 ? 0 : 1 };
    });
    const labels = keys.flatMap((key) =>
      (key < 20 ? ["all", "rare"] : ["all"]).map((label) => {
        return { namespace_id: id, label_key: label, label_value: "yes", run_key: key };
      }),
    );
    await journal.write(async (tx) => {
      await insertRuns(
        tx,
        keys.map((key) => runOf(id, key)),
      );
      await tx.insertInto("run_ancestors").values(family).execute();
      await tx.insertInto("run_labels").values(labels).execute();
    });
  }
  for (let at = 1; at <= runCount + recordCount; at += 500) {
    const records = Array.from({ length: 500 }, (_, n) => recordOf(id, at + n));
    await journal.write((tx) => insertRecords(tx, records));
  }
}

/** Reads what was recorded lately and is no event. */
function readFacts(db: Db, namespaceId: number, scope: RecordScope): Promise<RecordPage> {
  return readPage(db, namespaceId, scope, {
    direction: "forward",
    afterSeq: runCount,
    upToSeq: runCount + recordCount,
    maxRecords: 256,
    maxBytes: 1 << 20,
    withoutEvents: true,
  });
}

const all: RunListing = {
  parentRunId: undefined,
  ancestorRunId: undefined,
  conversationId: undefined,
  ...{
    states: undefined,
    labels: {},
    pageSize: 100,
    maxBytes: 3 * 1024 ** 2,
    beforeKey: undefined,
  },
};

const listings: Readonly<Record<string, Partial<RunListing>>> = {
  everything: {},
  "a label that most have and one that few have": { labels: { all: "yes", rare: "yes" } },
  "a state that none is in": { states: [RunState.FAILED] },
  "a state that one is in, of a family": { ancestorRunId: "run-1", states: [RunState.RUNNING] },
  "a conversation, of a parent": { conversationId: "rare", parentRunId: "run-1" },
  "states and labels": { states: [RunState.SUCCEEDED, RunState.LOST], labels: { rare: "yes" } },
};

/** Every scan that is made in steps, by what it looks for. */
const scans: Readonly<Record<string, (db: Db, root: RunRow) => Promise<unknown>>> = {
  ...Object.fromEntries(
    Object.entries(listings).map(([name, listing]) => [
      `runs: ${name}`,
      (db: Db) => listRuns({ db, scans: db } as Journal, namespace, { ...all, ...listing }),
    ]),
  ),
  "a namespace's facts": (db, { namespace_id: id }) =>
    readFacts(db, id, { kind: "all", exceptRoots: [] }),
  "a tree's facts": (db, { namespace_id: id }) => readFacts(db, id, { kind: "tree", rootKey: 1 }),
  "a family's facts": (db, { namespace_id: id }) => {
    const ends = { rootKey: 1, ancestorKey: 1, minDepth: 1, maxDepth: 64 };
    return readFacts(db, id, { kind: "descendants", ...ends });
  },
  "a tree's runs": (db, { namespace_id: id }) => readTreeStretch(db, id, 1, 10_000, 512),
  "a RUNNING run of a tree": (db, { namespace_id: id }) => findOpenInTree(db, id, 1),
  "a tree's newest record": (db, { namespace_id: id }) => findNewestOfTree(db, id, 1),
  "new forks": (db, { namespace_id: id }) => findForksAfter(db, id, 10_000, 256),
  "roots that have ended": (db, { namespace_id: id }) =>
    findEndedRoots(db, id, 1e12, { end_time_ms: 0, run_key: 0 }, 32),
  "a family, to be asked to stop": (db, { namespace_id: namespaceId }) => {
    const family = { namespaceId, runKey: 1, throughKey: runCount, request: 1, reason: "" };
    return readFamilyStretch(db, { ...family, afterKey: 0 }, 10_000, 256);
  },
  "runs that were asked": (db, { namespace_id: id }) => findAsked(db, id, 0, 0, 500),
  "whether a family is RUNNING": (db, root) => familyIsOpen(db, root),
  "a node's runs": (db) => findRunningOf(db, 0, [0, 0], 500),
  "nodes that are gone": (db) => findGoneNodes(db),
  "deletions that are not finished": (db) => findMarkedTrees(db, 0, true, [0, 0], 64),
  "requests that are not finished": (db) => findUnfinishedCancellations(db, 0, true, [0, 0], 64),
  "namespaces with a retention": (db) => listKeptNamespaces(db, "", 100),
};

/** Runs each scan and hands over its queries. */
function describeScans(
  open: () => Promise<{ readonly url: string; readonly dialect: () => Promise<Dialect> }>,
  check: (queries: readonly CompiledQuery[]) => Promise<void>,
  close: () => Promise<void>,
): void {
  let db: Db;
  let root: RunRow;
  let queries: CompiledQuery[] = [];

  before(async () => {
    const { url, dialect } = await open();
    const journal = await openJournal(url, settings);
    await fill(journal);
    await journal.close();
    db = new Kysely<Schema>({
      dialect: await dialect(),
      log: ({ query }) => {
        queries.push(query);
      },
    });
    const { namespace_id: id } = await db
      .selectFrom("namespaces")
      .selectAll()
      .executeTakeFirstOrThrow();
    [root] = (await findRuns(db, id, ["run-1"])) as [RunRow];
  });

  after(async () => {
    await db.destroy();
    await close();
  });

  for (const [name, scan] of Object.entries(scans)) {
    it(`follows what it returns: ${name}`, async () => {
      queries = [];
      await scan(db, root);
      assert.ok(queries.length > 0);
      await check(queries);
    });
  }
}

describe("a step of a scan on SQLite", () => {
  let directory: string;
  let connection: Database.Database;

  describeScans(
    async () => {
      directory = await mkdtemp(join(tmpdir(), "runlog-scan-"));
      const file = join(directory, "journal.db");
      const dialect = () => {
        connection = new Database(file, { readonly: true });
        return Promise.resolve(new SqliteDialect({ database: connection }));
      };
      return { url: `sqlite:${file}`, dialect };
    },
    (queries) => {
      const plans = queries.flatMap(({ sql, parameters }) =>
        connection
          .prepare<unknown[], { detail: string }>(`explain query plan ${sql}`)
          .all(...parameters)
          .map((row) => row.detail),
      );
      // There are few nodes, and partial indexes hold what is looked for only.
      const bad = plans.filter((plan) => /^SCAN (?!nodes)|TEMP B-TREE/.test(plan));
      assert.deepEqual(
        bad.filter((plan) => !/USING (COVERING )?INDEX (runs_running|namespaces_kept)/.test(plan)),
        [],
      );
      return Promise.resolve();
    },
    () => rm(directory, { recursive: true }),
  );
});

/** A part of PostgreSQL's plan, as it was carried out. */
interface PlanPart {
  readonly "Node Type": string;
  readonly "Relation Name"?: string;
  readonly "Actual Rows": number;
  readonly "Actual Loops": number;
  readonly "Rows Removed by Filter"?: number;
  readonly Plans?: readonly PlanPart[];
}

/** Rows that were read or thrown away. */
function rowsIn(part: PlanPart): number {
  const own = (part["Actual Rows"] + (part["Rows Removed by Filter"] ?? 0)) * part["Actual Loops"];
  return Math.max(own, ...(part.Plans ?? []).map(rowsIn));
}

describe("a step of a scan on PostgreSQL", () => {
  let url: string;
  let pool: pg.Pool;

  describeScans(
    async () => {
      url = await takeDatabase();
      const dialect = async () => {
        const types = new pg.TypeOverrides();
        types.setTypeParser(pg.types.builtins.INT8, Number);
        pool = new pg.Pool({ connectionString: url, max: 2, types });
        // As its own vacuum does within a minute.
        await pool.query("analyze");
        return new PostgresDialect({ pool });
      };
      return { url, dialect };
    },
    async (queries) => {
      for (const { sql, parameters } of queries) {
        const { rows } = await pool.query<{ "QUERY PLAN": [{ Plan: PlanPart }] }>(
          `explain (analyze, format json) ${sql}`,
          [...parameters],
        );
        const plan = rows[0]!["QUERY PLAN"][0].Plan;
        const looked = rowsIn(plan);
        assert.ok(looked <= 2_000, `${looked} rows: ${sql}\n${JSON.stringify(plan, null, 1)}`);
      }
    },
    () => giveBackDatabase(url),
  );
});
