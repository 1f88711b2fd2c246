/**
 * What storage costs of small appends: bare loops of SQLite's statements, without a
 * server, for commits of 1,000 events of as many runs. `npm run bench:small-appends`.
 *
 * - today: a record for each event, the runs' positions, and the namespace;
 * - one row: the same, with one record for all runs of a commit, to be taken apart later;
 * - runs only: the runs' positions and the namespace, which no layout can leave out.
 */
import { mkdtemp, rm } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { openJournal } from "../src/journal/open.ts";
import { connect } from "../src/journal/sqlite/connection.ts";
import { defaultLimits } from "../src/limits.ts";

const runs = 1_000;
const commits = 200;
const rounds = 3;
const eventBytes = 300;

type Layout = "today" | "one row" | "runs only";

/** Microseconds of an event. */
interface Cost {
  readonly elapsed: number;
  /** Of CPU, which other work on the machine hardly changes. */
  readonly cpu: number;
}

async function measure(layout: Layout): Promise<Cost> {
  const directory = await mkdtemp(join(tmpdir(), "runlog-small-appends-"));
  try {
    const file = join(directory, "journal.db");
    const journal = await openJournal(`sqlite:${file}`, defaultLimits);
    await journal.close();
    const db = connect(file, defaultLimits.lockTimeoutMs);
    db.exec(
      "insert into namespaces (name, last_seq, trimmed_seq, last_time_ms, create_time_ms) values ('ns', 0, 0, 0, 0)",
    );
    const insertRun = db.prepare(
      `insert into runs (namespace_id, run_key, run_id, root_key, depth, conversation_id, spec,
         create_time_ms, epoch, state, last_run_seq, last_event_seq, last_seq, event_bytes)
       values (1, ?, ?, ?, 0, '', x'', 0, 1, 1, 0, 0, ?, 0)`,
    );
    db.transaction(() => {
      for (let key = 1; key <= runs; key++) insertRun.run(key, `run-${key}`, key, key);
    })();
    const insertRecord = db.prepare(
      `insert into records (namespace_id, last_seq, event_count, run_key, root_key, first_run_seq,
         types, size, data, checksum) values (1, ?, ?, ?, ?, ?, 'token', ?, ?, 1)`,
    );
    const updateRun = db.prepare(
      `update runs set last_run_seq = ?, last_event_seq = ?, last_seq = ?, event_bytes = ?
       where namespace_id = 1 and run_key = ?`,
    );
    const updateNamespace = db.prepare(
      "update namespaces set last_seq = ?, version = version + 1 where namespace_id = 1",
    );
    const data = Buffer.alloc(eventBytes, 7);
    const all = Buffer.alloc(eventBytes * runs, 7);
    let seq = runs;
    const commit = (n: number) => {
      db.exec("begin immediate");
      const firstSeq = seq + 1;
      for (let key = 1; key <= runs; key++) {
        seq++;
        if (layout === "today") insertRecord.run(seq, 1, key, key, n, eventBytes, data);
        updateRun.run(n, seq, seq, n * eventBytes, key);
      }
      if (layout === "one row") insertRecord.run(seq, runs, firstSeq, firstSeq, n, all.length, all);
      updateNamespace.run(seq);
      db.exec("commit");
    };
    commit(1);
    const events = (commits - 1) * runs;
    const cpuBefore = process.cpuUsage();
    const start = performance.now();
    for (let n = 2; n <= commits; n++) commit(n);
    const elapsed = ((performance.now() - start) * 1_000) / events;
    const { user, system } = process.cpuUsage(cpuBefore);
    db.close();
    return { elapsed, cpu: (user + system) / events };
  } finally {
    await rm(directory, { recursive: true });
  }
}

const layouts: readonly Layout[] = ["today", "one row", "runs only"];
const measured = new Map<Layout, Cost[]>(layouts.map((layout) => [layout, []]));
for (let round = 0; round < rounds; round++) {
  for (const layout of layouts) measured.get(layout)!.push(await measure(layout));
}
for (const [layout, costs] of measured) {
  const spread = (figures: readonly number[]) => {
    const sorted = figures.toSorted((a, b) => a - b);
    const [median, least, most] = [sorted[rounds >> 1]!, sorted[0]!, sorted.at(-1)!];
    return `${median.toFixed(1)} µs (${least.toFixed(1)} to ${most.toFixed(1)})`;
  };
  const elapsed = spread(costs.map((cost) => cost.elapsed));
  const cpu = spread(costs.map((cost) => cost.cpu));
  console.log(`${layout.padEnd(9)}  ${elapsed} an event, ${cpu} of CPU`);
}
