/** A large journal in a SQLite file, and what pages of it cost. */
import { readFileSync } from "node:fs";
import { mkdtemp } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import Database from "better-sqlite3";
import { type CompiledQuery, Kysely, SqliteDialect } from "kysely";
import type { Producer } from "../../src/ingest/operation.ts";
import { openJournal } from "../../src/journal/open.ts";
import type { PageBounds, RecordScope } from "../../src/journal/pages/keys.ts";
import { readPage } from "../../src/journal/pages/read-page.ts";
import type { Schema } from "../../src/journal/schema.ts";
import { defaultLimits } from "../../src/limits.ts";
import { append, type Engine, engineOver, eventOf, openRun } from "../support/engine.ts";

/** Runs of the journal that nobody asks for. */
export const strangers = { runs: 500, rounds: 100, eventsPerAppend: 20 };
/** Events of all of them. */
export const strangerEvents = strangers.runs * strangers.rounds * strangers.eventsPerAppend;
/** Runs with few events among them. */
export const family = { runs: 10, eventsPerRun: 10 };
/** Runs with one event each. */
export const crowd = { runs: 200 };
const runCount = 3 + strangers.runs + family.runs + crowd.runs;
/** Facts of the journal: each run has begun, and nothing else has happened to it. */
export const factCount = runCount;

/** What a page is bounded by unless the test says otherwise. */
export const bounds: PageBounds = {
  direction: "forward",
  afterSeq: 0,
  upToSeq: Number.MAX_SAFE_INTEGER,
  maxRecords: 256,
  maxBytes: 1 << 20,
};

/** What a page cost. */
export interface Cost {
  readonly records: number;
  /** Bytes read from the database's files divided by the page size, with nothing cached. */
  readonly pages: number;
  readonly plans: readonly string[];
}

/** Bytes that this process has read since it began, as the kernel counts them. */
export function bytesReadByProcess(): number {
  return Number(/^rchar: (\d+)$/m.exec(readFileSync("/proc/self/io", "utf8"))?.[1]);
}

/** Reads one page over a connection that has cached nothing but the schema. */
export async function costOf(
  file: string,
  scope: RecordScope,
  some: Partial<PageBounds> = {},
): Promise<Cost> {
  const connection = new Database(file, { readonly: true });
  const queries: CompiledQuery[] = [];
  const db = new Kysely<Schema>({
    dialect: new SqliteDialect({ database: connection }),
    log: (event) => {
      queries.push(event.query);
    },
  });
  try {
    connection.prepare("select count(*) from namespaces").get();
    const before = bytesReadByProcess();
    const own = bytesReadByProcess() - before;
    const { records } = await readPage(db, 1, scope, { ...bounds, ...some });
    const bytes = bytesReadByProcess() - before - 2 * own;
    const plans = queries.flatMap(({ sql, parameters }) =>
      connection
        .prepare<unknown[], { detail: string }>(`explain query plan ${sql}`)
        .all(...parameters)
        .map((row) => row.detail),
    );
    return { records: records.length, pages: Math.ceil(bytes / 4096), plans };
  } finally {
    await db.destroy();
  }
}

/** Scans of a table or an index from one end to the other. */
export function fullScans(plans: readonly string[]): string[] {
  // A subquery's own few rows are scanned; they are no table.
  return plans.filter((plan) => /^SCAN (?!shares|heads|CONSTANT ROW)/.test(plan));
}

/** A journal in a file. */
export interface Built {
  readonly directory: string;
  readonly file: string;
  /** The tree's root, of which everybody descends; then the keys of those who are asked for. */
  readonly tree: number;
  readonly family: number;
  readonly crowd: number;
  readonly strangerKeys: readonly number[];
  readonly lastSeq: number;
}

/**
 * One tree: strangers with a million events below the root, and among them a
 * family of ten runs with 100 events, and a crowd of 200 runs with an event
 * each, both below a run of their own.
 */
export async function build(withStrangers: boolean): Promise<Built> {
  const directory = await mkdtemp(join(tmpdir(), "runlog-cost-"));
  const file = join(directory, "journal.db");
  const journal = await openJournal(`sqlite:${file}`, { ...defaultLimits, lockTimeoutMs: 1_000 });
  const engine: Engine = engineOver(journal);
  const next = new Map<Producer, number>();
  const add = (producer: Producer, count: number) => {
    const first = next.get(producer) ?? 1;
    next.set(producer, first + count);
    const events = Array.from({ length: count }, (_, i) =>
      eventOf(`${producer.runId} ${first + i}`),
    );
    return append(engine, producer, first, events);
  };
  const openMany = (count: number, prefix: string, parent: string) =>
    Promise.all(Array.from({ length: count }, (_, i) => openRun(engine, `${prefix}-${i}`, parent)));
  await openRun(engine, "root");
  await openRun(engine, "family", "root");
  await openRun(engine, "crowd", "root");
  const members = await openMany(family.runs, "member", "family");
  const many = await openMany(crowd.runs, "one-of-many", "crowd");
  const others = await openMany(withStrangers ? strangers.runs : 1, "stranger", "root");
  for (let round = 0; round < strangers.rounds; round++) {
    const commits = withStrangers ? others.map((one) => add(one, strangers.eventsPerAppend)) : [];
    if (round % family.eventsPerRun === 0) commits.push(...members.map((one) => add(one, 1)));
    // Half of the crowd speaks at the beginning, half at the end, and nobody in between.
    const fromEnd = strangers.rounds - 1 - round;
    const turn = round < 10 ? round : fromEnd < 10 ? 19 - fromEnd : undefined;
    if (turn !== undefined) {
      commits.push(...many.slice(10 * turn, 10 * turn + 10).map((one) => add(one, 1)));
    }
    await Promise.all(commits);
  }
  const runs = await journal.db.selectFrom("runs").select(["run_id", "run_key"]).execute();
  const keyOf = (runId: string) => runs.find((run) => run.run_id === runId)!.run_key;
  const { last_seq: lastSeq } = await journal.db
    .selectFrom("namespaces")
    .select("last_seq")
    .executeTakeFirstOrThrow();
  await journal.close();
  const strangerKeys = others.map((one) => keyOf(one.runId));
  return {
    directory,
    file,
    tree: keyOf("root"),
    family: keyOf("family"),
    crowd: keyOf("crowd"),
    strangerKeys,
    lastSeq,
  };
}
