import assert from "node:assert/strict";
import { mkdtemp, readFile, rm } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { createClient } from "@connectrpc/connect";
import Database from "better-sqlite3";
import { sql } from "kysely";
import { pino } from "pino";
import { IngestService } from "../../gen/runlog/v1/ingest_pb.js";
import type { SequencedEvent } from "../../gen/runlog/v1/record_pb.js";
import { RunService, RunState } from "../../gen/runlog/v1/run_pb.js";
import { StopPolicy, SubscribeService } from "../../gen/runlog/v1/subscribe_pb.js";
import { connectTo } from "../../src/client/node/index.ts";
import { openJournal } from "../../src/journal/open.ts";
import { defaultLimits } from "../../src/limits.ts";
import { readNamespaces } from "../../src/maintenance/namespace-directory.ts";
import { startServer } from "../../src/server/server.ts";
import { eventOf } from "../support/engine.ts";

const limits = { ...defaultLimits, lockTimeoutMs: 100 };

/**
 * What earlier versions left behind, as SQL: one file a migration, made by the version that
 * had it as its newest (fixtures/make.ts), in the order in which they landed.
 */
const fixtures = [
  "0001_initial",
  "0002_lifecycle",
  "0003_nodes",
  "0005_checksums",
  "0006_queries",
  "0004_producers",
  "0007_formats",
  "0008_family_index",
  "0010_signals",
  "0009_record_kinds",
];

/** What is in each of them: seq, run, what it is, and what it says. */
const written = [
  "1 root runStarted",
  "2 child runStarted",
  "3 root event a",
  "4 root event b",
  "5 child event x",
  "6 child runFinished",
];
/** What versions that know signals wrote besides. */
const writtenWithSignals = [
  ...written,
  "7 root signal 1 s",
  "8 root event to s, handled 1",
  "9 root runWaiting",
  "10 root signal 2 s",
];

function shown({ seq, runId, record, handledSignalSeq }: SequencedEvent): string {
  const head = `${seq} ${runId} ${record.case}`;
  const handled = handledSignalSeq === 0n ? "" : `, handled ${handledSignalSeq}`;
  if (record.case === "event") return `${head} ${Buffer.from(record.value.data)}${handled}`;
  if (record.case !== "signal") return head;
  return `${head} ${record.value.signalSeq} ${Buffer.from(record.value.event!.data)}`;
}

/** Makes the file that an earlier version left. */
async function restore(directory: string, fixture: string): Promise<string> {
  const file = join(directory, "runlog.db");
  const old = new Database(file);
  old.exec(await readFile(new URL(`fixtures/${fixture}.sql`, import.meta.url), "utf8"));
  old.close();
  return file;
}

describe("a journal of an earlier version", () => {
  let directory: string;

  beforeEach(async () => {
    directory = await mkdtemp(join(tmpdir(), "runlog-upgrade-"));
  });

  afterEach(async () => {
    await rm(directory, { recursive: true });
  });

  it("has a fixture for every migration that there is", async () => {
    const journal = await openJournal(`sqlite:${join(directory, "new.db")}`, limits);
    try {
      const { rows } = await sql<{ name: string }>`select name from kysely_migration`.execute(
        journal.db,
      );
      assert.deepEqual(
        rows.map(({ name }) => name),
        fixtures.toSorted(),
      );
    } finally {
      await journal.close();
    }
  });

  for (const fixture of fixtures) {
    const hasSignals = fixture === "0009_record_kinds" || fixture === "0010_signals";
    // The first version's fixture says something else there.
    const said = fixture === "0001_initial" ? "c" : "x";
    const before = (hasSignals ? writtenWithSignals : written).map((record) =>
      record.replace("child event x", `child event ${said}`),
    );

    it(`is upgraded from ${fixture}, loses nothing, and goes on`, async () => {
      const file = await restore(directory, fixture);
      const server = await startServer({
        host: "127.0.0.1",
        port: 0,
        journal: `sqlite:${file}`,
        logger: pino({ level: "silent" }),
        limits,
      });
      const { transport, close } = connectTo(server.url);
      try {
        const ingest = createClient(IngestService, transport);
        const runs = createClient(RunService, transport);
        const read = async () => {
          const filter = { scope: { case: "all" as const, value: {} } };
          const request = { filter, stop: StopPolicy.CAUGHT_UP };
          const records: string[] = [];
          for await (const { frame } of createClient(SubscribeService, transport).subscribe(
            request,
          )) {
            if (frame.case === "events") records.push(...frame.value.events.map(shown));
          }
          return records;
        };
        assert.deepEqual(await read(), before);
        // To a run that another version made: a signal, its answer, and a wait.
        const signal = { runId: "root", signalId: "new", event: eventOf("news") };
        const { signalSeq } = await runs.signalRun(signal);
        assert.equal((await runs.signalRun(signal)).signalSeq, signalSeq);
        const opened = await ingest.appendEvents({ runId: "root" });
        assert.equal(opened.lastSignalSeq, signalSeq);
        assert.equal(opened.handledSignalSeq, hasSignals ? 1n : 0n);
        const window = { runId: "root", epoch: opened.epoch };
        await ingest.appendEvents({
          ...window,
          firstRunSeq: opened.lastRunSeq + 1n,
          events: [eventOf("c")],
          handledSignalSeq: signalSeq,
        });
        await ingest.appendEvents({ ...window, wait: { code: "input" } });
        const at = before.length;
        const goesOn = hasSignals ? [`${at + 2} root runResumed`] : [];
        const next = at + 2 + goesOn.length;
        assert.deepEqual(await read(), [
          ...before,
          `${at + 1} root signal ${signalSeq} news`,
          ...goesOn,
          `${next} root event c, handled ${signalSeq}`,
          `${next + 1} root runWaiting`,
        ]);
        const { runs: listed } = await runs.listRuns({});
        assert.deepEqual(listed.map(({ runId, state }) => [runId, state]).toSorted(), [
          ["child", RunState.SUCCEEDED],
          ["root", RunState.WAITING],
        ]);
      } finally {
        close();
        await server.drain();
      }
      const journal = await openJournal(`sqlite:${file}`, limits);
      try {
        const [view] = (await readNamespaces(journal, "", 1)).namespaces;
        const { count, bytes } = await journal.db
          .selectFrom("runs")
          .select((eb) => [
            eb.fn.countAll<number>().as("count"),
            eb.fn.sum<number>("event_bytes").as("bytes"),
          ])
          .executeTakeFirstOrThrow();
        const { run_count, running_count, waiting_count, event_bytes } = view!.row;
        assert.deepEqual([run_count, event_bytes], [count, bytes]);
        assert.deepEqual([count, running_count, waiting_count], [2, 0, 1]);
      } finally {
        await journal.close();
      }
    });
  }
});
