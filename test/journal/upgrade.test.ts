import assert from "node:assert/strict";
import { mkdtemp, readFile, rm } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import Database from "better-sqlite3";
import { RunState } from "../../gen/runlog/v1/run_pb.js";
import { openJournal } from "../../src/journal/open.ts";
import { defaultLimits } from "../../src/limits.ts";
import { readNamespaces } from "../../src/maintenance/namespace-directory.ts";
import { append, engineOver, eventOf, openRun, readAll } from "../support/engine.ts";

/** What earlier versions left behind, as SQL: one file a migration, made by the version that ended with it. */
const fixtures = ["0001_initial", "0002_lifecycle", "0003_nodes"];

describe("a journal of an earlier version", () => {
  let directory: string;

  beforeEach(async () => {
    directory = await mkdtemp(join(tmpdir(), "runlog-upgrade-"));
  });

  afterEach(async () => {
    await rm(directory, { recursive: true });
  });

  for (const fixture of fixtures) {
    it(`is upgraded from ${fixture}, loses nothing, and goes on`, async () => {
      const file = join(directory, "runlog.db");
      const old = new Database(file);
      const url = new URL(`fixtures/${fixture}.sql`, import.meta.url);
      old.exec(await readFile(url, "utf8"));
      old.close();
      const journal = await openJournal(`sqlite:${file}`, { ...defaultLimits, lockTimeoutMs: 100 });
      try {
        const engine = engineOver(journal);
        const before = await readAll(journal);
        assert.deepEqual(
          before.map(({ seq, runId, record }) => [Number(seq), runId, record.case]),
          [
            [1, "root", "runStarted"],
            [2, "child", "runStarted"],
            [3, "root", "event"],
            [4, "root", "event"],
            [5, "child", "event"],
            [6, "child", "runFinished"],
          ],
        );
        const root = await openRun(engine, "root");
        await append(engine, root, 3, [eventOf("c")]);
        assert.equal((await readAll(journal)).length, 7);
        const [view] = (await readNamespaces(journal, "", 1)).namespaces;
        const { count, running, bytes } = await journal.db
          .selectFrom("runs")
          .select((eb) => [
            eb.fn.countAll<number>().as("count"),
            eb.fn.sum<number>("event_bytes").as("bytes"),
            eb.fn.countAll<number>().filterWhere("state", "=", RunState.RUNNING).as("running"),
          ])
          .executeTakeFirstOrThrow();
        const { run_count, running_count, event_bytes } = view!.row;
        assert.deepEqual([run_count, running_count, event_bytes], [count, running, bytes]);
        assert.deepEqual([count, running], [2, 1]);
      } finally {
        await journal.close();
      }
    });
  }
});
