import assert from "node:assert/strict";
import { create } from "@bufbuild/protobuf";
import { sql } from "kysely";
import { SignalRunRequestSchema, WaitSchema } from "../../gen/runlog/v1/run_pb.js";
import { signalRun } from "../../src/ingest/signal-run.ts";
import { ownFormat } from "../../src/journal/formats.ts";
import type { Journal } from "../../src/journal/journal.ts";
import { insertNode } from "../../src/journal/nodes.ts";
import type { Db } from "../../src/journal/schema.ts";
import { Membership } from "../../src/maintenance/membership.ts";
import { JournalOpenError } from "../../src/refusal.ts";
import { append, engineOver, eventOf, openRun, readAll } from "../support/engine.ts";
import { describeJournal, type TestJournal } from "../support/journals.ts";

/** What a version of tomorrow does to a journal when it starts: it only adds. */
const newerVersion = [
  "alter table records add column later text",
  "create table later (namespace_id integer not null)",
  "create index records_later on records (namespace_id, later) where later is not null",
  "insert into kysely_migration (name, timestamp) values ('9999_later', '2099-01-01T00:00:00.000Z')",
];
/** What it does where no older node is there. */
const activation = `update journal set format = ${ownFormat + 1}, min_reader = ${ownFormat}, min_writer = ${ownFormat + 1}`;

async function run(journal: Journal, ...statements: readonly string[]): Promise<void> {
  await journal.write(async (tx) => {
    for (const statement of statements) await sql.raw(statement).execute(tx);
  });
}

async function formatOf(db: Db): Promise<number> {
  return (await db.selectFrom("journal").select("format").executeTakeFirstOrThrow()).format;
}

describeJournal("a journal's format", (open, { name }) => {
  let store: TestJournal;

  beforeEach(async () => {
    store = await open();
    await run(store.journal, "delete from nodes");
    // As the versions before left it.
    await run(
      store.journal,
      `update journal set format = ${ownFormat - 1}, min_reader = 0, min_writer = 0`,
    );
  });

  afterEach(() => store.remove());

  it("lets this version go on beside a newer one, and come back after it", async () => {
    const engine = engineOver(store.journal);
    const producer = await openRun(engine, "run");
    await append(engine, producer, 1, [eventOf("before")]);
    await run(store.journal, ...newerVersion);
    await append(engine, producer, 2, [eventOf("beside")]);
    store = await store.reopen();
    const again = engineOver(store.journal);
    await append(again, await openRun(again, "run"), 3, [eventOf("after")]);
    const records = await readAll(store.journal);
    assert.deepEqual(
      records.flatMap(({ record }) =>
        record.case === "event" ? [Buffer.from(record.value.data).toString()] : [],
      ),
      ["before", "beside", "after"],
    );
    await run(store.journal, "delete from kysely_migration where name = '9999_later'");
    await run(store.journal, "drop index records_later", "drop table later");
    await run(store.journal, "alter table records drop column later");
  });

  it("refuses a version that cannot write it, in one line, and leaves it alone", async () => {
    await run(store.journal, activation);
    await assert.rejects(store.reopen(), (error) => {
      assert.ok(error instanceof JournalOpenError);
      assert.match(
        error.message,
        new RegExp(
          `is in format ${ownFormat + 1}, and this runlog writes formats up to ${ownFormat}: upgrade runlog$`,
        ),
      );
      return true;
    });
    store = await open();
  });

  it("is activated by the first start that finds no older node", async () => {
    await store.journal.write((tx) => insertNode(tx, "yesterday's", ownFormat - 1));
    store = await store.reopen();
    assert.equal(store.journal.format.active, ownFormat - 1);
    assert.equal(await formatOf(store.journal.db), ownFormat - 1);
    await run(store.journal, "delete from nodes");
    store = await store.reopen();
    assert.equal(store.journal.format.active, ownFormat);
    assert.equal(await formatOf(store.journal.db), ownFormat);
  });

  it("keeps signals and waits out until every node knows them", async () => {
    store = await store.reopen({ holdFormat: true });
    const engine = engineOver(store.journal);
    const producer = await openRun(engine, "run");
    const signal = async () => {
      const event = eventOf("signal");
      const request = create(SignalRunRequestSchema, { runId: "run", signalId: "s", event });
      return signalRun(engine, request, "");
    };
    await assert.rejects(signal(), /older servers/);
    const wait = { kind: "wait", namespace: "default", runId: "run", lastRunSeq: 0 } as const;
    const outcome = await engine.committer.submit({
      ...wait,
      producer,
      wait: create(WaitSchema, { code: "input" }),
    });
    assert.ok(outcome.t === "refused" && outcome.refusal.reason === "format_inactive");
    store = await store.reopen();
    const upgraded = engineOver(store.journal);
    const event = eventOf("signal");
    const request = create(SignalRunRequestSchema, { runId: "run", signalId: "s", event });
    assert.equal((await signalRun(upgraded, request, "")).signalSeq, 1);
  });

  it("stays where it is held", async () => {
    store = await store.reopen({ holdFormat: true });
    assert.equal(store.journal.format.active, ownFormat - 1);
    await store.journal.format.activate((work) => store.journal.write(work));
    assert.equal(await formatOf(store.journal.db), ownFormat - 1);
  });

  if (name !== "PostgreSQL") return;

  it("is activated by the node on duty once the last older node has stopped, and others hear of it", async () => {
    const older = await store.journal.write((tx) => insertNode(tx, "yesterday's", ownFormat - 1));
    store = await store.reopen();
    const { journal } = store;
    const listener = await Membership.join({
      journal,
      nodeTimeoutMs: 100,
      onRejoined: () => undefined,
      onGone: () => undefined,
      onFailure: () => undefined,
    });
    try {
      listener.start();
      // Its beat stands still: it is taken for dead.
      while (journal.format.isBehind) await new Promise((resolve) => setImmediate(resolve));
      assert.equal(await formatOf(journal.db), ownFormat);
      const nodes = await journal.db.selectFrom("nodes").select("node_key").execute();
      assert.ok(!nodes.some((node) => node.node_key === older));
    } finally {
      await listener.leave();
    }
  });

  it("is not activated while a node joins that is older", async () => {
    const joined = Promise.withResolvers<void>();
    const mayCommit = Promise.withResolvers<void>();
    const joining = store.journal.write(async (tx) => {
      await sql`update journal set format = format`.execute(tx);
      await insertNode(tx, "yesterday's", ownFormat - 1);
      joined.resolve();
      await mayCommit.promise;
    });
    await joined.promise;
    const activating = store.reopen();
    mayCommit.resolve();
    await joining;
    store = await activating;
    assert.equal(await formatOf(store.journal.db), ownFormat - 1);
  });
});
