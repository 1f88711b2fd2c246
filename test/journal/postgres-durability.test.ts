/** How long a commit to PostgreSQL waits, whatever the server is set to, and who sees it meanwhile. */
import assert from "node:assert/strict";
import { PostgresServer } from "../../dev/postgres-server.ts";
import type { Producer } from "../../src/ingest/operation.ts";
import { WentBackError } from "../../src/journal/history.ts";
import type { Journal } from "../../src/journal/journal.ts";
import { openJournal } from "../../src/journal/open.ts";
import { defaultLimits } from "../../src/limits.ts";
import { openEngine } from "../../src/server/engine.ts";
import { Consumer } from "../support/consumer.ts";
import { append, type Engine, engineOver, eventOf, openRun, readAll } from "../support/engine.ts";
import { noteCommits } from "../support/postgres.ts";

const settings = { ...defaultLimits, lockTimeoutMs: 2_000 };

describe("commits to a PostgreSQL with a standby", () => {
  let primary: PostgresServer;
  let standby: PostgresServer;
  let databases = 0;
  let database: string;
  let journal: Journal;
  let engine: Engine;
  let producer: Producer;

  before(async () => {
    primary = await PostgresServer.start();
    standby = await primary.follow();
  });

  after(async () => {
    await journal.close();
    await standby.remove();
    await primary.remove();
  });

  const set = async (name: string, value: string) => {
    await primary.query(`alter system set ${name} = ${value}`);
    await primary.query("select pg_reload_conf()");
    if (value === "default") return;
    // Sessions that begin after the reload have it, and the others got it before them.
    const wanted = value.replaceAll("'", "");
    for (let now: unknown; now !== wanted; ) {
      [[now]] = (await primary.query(`show ${name}`)) as [[unknown]];
    }
  };

  beforeEach(async () => {
    database = `durable_${++databases}`;
    await primary.createDatabase(database);
    const hosts = `127.0.0.1:${primary.port},127.0.0.1:${standby.port}`;
    journal = await openJournal(`postgres://runlog:runlog@${hosts}/${database}`, settings);
    engine = engineOver(journal);
    producer = await openRun(engine, "run");
  });

  afterEach(async () => {
    await journal.close();
  });

  /** The texts of the run's events, as a reader gets them. */
  async function texts(): Promise<string[]> {
    const records = await readAll(journal);
    return records.flatMap(({ record }) =>
      record.case === "event" ? [Buffer.from(record.value.data).toString()] : [],
    );
  }

  const appendOne = (runSeq: number) =>
    append(engine, producer, runSeq, [eventOf(`event ${runSeq}`)]);

  describe("that is set otherwise while they are made", () => {
    /** What the backends use at their commits, by how they commit. */
    async function used(): Promise<unknown> {
      const [[values]] = (await primary.query(
        "select array_agg(distinct value) from used",
        database,
      )) as [[unknown]];
      await primary.query("truncate used", database);
      return values;
    }

    beforeEach(async () => {
      await primary.query(noteCommits, database);
    });

    for (const [value, expected] of [
      ["off", "on"],
      ["local", "on"],
      ["remote_apply", "remote_apply"],
    ] as const) {
      it(`wait as they have to where synchronous_commit becomes ${value}`, async () => {
        assert.equal((await appendOne(1)).t, "durable");
        await used();
        await set("synchronous_commit", value);
        try {
          // The run's own transaction, and one statement that needs no other.
          await openRun(engine, "another");
          assert.deepEqual(await used(), [expected]);
          assert.equal((await appendOne(2)).t, "durable");
          assert.deepEqual(await used(), [expected]);
        } finally {
          await set("synchronous_commit", "default");
        }
      });
    }

    it("are on the disk before they are answered", async () => {
      await set("synchronous_commit", "off");
      await set("wal_writer_delay", "'10s'");
      try {
        for (let runSeq = 1; runSeq <= 20; runSeq++) {
          assert.equal((await appendOne(runSeq)).t, "durable");
          // The commit is behind what its trigger wrote.
          const [[isFlushed]] = (await primary.query(
            "select pg_current_wal_flush_lsn() > max(lsn) from used",
            database,
          )) as [[boolean]];
          assert.equal(isFlushed, true);
        }
      } finally {
        await set("wal_writer_delay", "default");
        await set("synchronous_commit", "default");
      }
    });
  });

  describe("that does not answer", () => {
    beforeEach(async () => {
      assert.equal((await appendOne(1)).t, "durable");
      await set("synchronous_standby_names", "'*'");
      await standby.stop();
    });

    /** Resolves once so many backends wait for the standby. */
    async function waiting(count: number): Promise<void> {
      for (;;) {
        const rows = await primary.query(
          "select 1 from pg_stat_activity where wait_event = 'SyncRep'",
        );
        if (rows.length >= count) return;
      }
    }

    /** How many records of the run another session sees on the primary. */
    async function visible(): Promise<unknown> {
      const [[count]] = (await primary.query(
        "select sum(event_count) from records where first_run_seq > 0",
        database,
      )) as [[string]];
      return Number(count);
    }

    /** A promise, and whether it was settled. */
    function watched<T>(promise: Promise<T>) {
      const state = { promise, isSettled: false };
      promise.then(
        () => {
          state.isSettled = true;
        },
        () => {
          state.isSettled = true;
        },
      );
      return state;
    }

    afterEach(async () => {
      await set("synchronous_standby_names", "default");
    });

    it("are not answered where their wait is cancelled, and nobody reads them, before one that was not", async () => {
      const appended = watched(appendOne(2));
      await waiting(1);
      await primary.query(
        "select pg_cancel_backend(pid) from pg_stat_activity where wait_event = 'SyncRep'",
      );
      // It is committed and visible, and the commit behind which it is answered waits.
      while ((await visible()) !== 2) await waiting(1);
      const read = watched(texts());
      await waiting(2);
      assert.equal(appended.isSettled, false);
      assert.equal(read.isSettled, false);
      await standby.start();
      assert.equal((await appended.promise).t, "durable");
      assert.deepEqual(await read.promise, ["event 1", "event 2"]);
    });

    it("are read by nobody after a crash before a standby has them, and are not lost to their producer", async () => {
      const appended = watched(appendOne(2));
      await waiting(1);
      await primary.kill();
      await primary.start();
      while ((await visible()) !== 2) await waiting(0);
      const read = watched(texts());
      await waiting(1);
      assert.equal(read.isSettled, false);
      await standby.start();
      assert.equal((await appended.promise).t, "durable");
      assert.deepEqual(await read.promise, ["event 1", "event 2"]);
    });
  });

  // The last ones: they leave no primary.
  describe("that is promoted while it is behind", () => {
    it("are lost, and readers get an error", async () => {
      const failures: unknown[] = [];
      const node = await openEngine({
        journal,
        limits: settings,
        now: Date.now,
        onFailure: (error) => failures.push(error),
      });
      node.start();
      try {
        const writer = await openRun(node, "lost");
        assert.equal((await append(node, writer, 1, [eventOf("kept")])).t, "durable");
        // Its database is there a moment after it is on the standby's disk.
        const kept = () => standby.query("select 1 from records", database).catch(() => []);
        while (!(await kept()).length);
        await standby.stop();
        const consumer = new Consumer({ scope: { kind: "all" }, types: [] });
        consumer.attach(node);
        for (const runSeq of [2, 3]) {
          assert.equal((await append(node, writer, runSeq, [eventOf("lost")])).t, "durable");
        }
        const seen = readAll(journal);
        await consumer.readUntil((await seen).length);
        await primary.kill();
        await standby.start();
        await standby.promote();
        await consumer.readUntil(Number.POSITIVE_INFINITY);
        assert.equal(consumer.failure?.refusal.reason, "cursor_ahead");
        assert.ok(failures.some((failure) => failure instanceof WentBackError));
        const again = new Consumer({ scope: { kind: "all" }, types: [] });
        await again.finish(node);
        assert.deepEqual(again.received, await readAll(journal));
      } finally {
        await node.stop();
      }
    });
  });
});
