/** The database goes back while nodes run: it is restored, or a standby is promoted that is behind. */
import assert from "node:assert/strict";
import type { SequencedEvent } from "../../gen/runlog/v1/record_pb.js";
import { WentBackError } from "../../src/journal/history.ts";
import type { Engine } from "../../src/server/engine.ts";
import { Consumer } from "../support/consumer.ts";
import { append, eventOf, openRun, readAll } from "../support/engine.ts";
import { deaf, startNodes, type TestNodes } from "../support/nodes.ts";
import { sharedServer } from "../support/postgres.ts";

const everything = { scope: { kind: "all" }, types: [] } as const;

function textsOf(records: readonly SequencedEvent[]): string[] {
  return records.map(({ seq, record }) =>
    record.case === "event"
      ? `${seq} ${Buffer.from(record.value.data).toString()}`
      : `${seq} ${record.case}`,
  );
}

describe("nodes whose database goes back", () => {
  let running: TestNodes;
  let one: Engine;
  let other: Engine;
  let database: string;

  beforeEach(async () => {
    running = await startNodes(2);
    [one, other] = running.nodes as [Engine, Engine];
    database = new URL(running.url).pathname.slice(1);
  });

  afterEach(async () => {
    await query("drop schema if exists saved cascade");
    await running.remove();
  });

  const query = async (text: string) => (await sharedServer()).query(text, database);

  async function tables(): Promise<string[]> {
    const rows = await query(
      "select tablename from pg_tables where schemaname = 'public' and tablename not like 'kysely%'",
    );
    return rows.map(([name]) => String(name));
  }

  /** Keeps what is stored now. */
  async function save(): Promise<void> {
    const each = (await tables()).map((name) => `create table saved.${name} as table ${name}`);
    await query(["create schema saved", ...each].join("; "));
  }

  /** Makes the database what it was, at once, as to nodes a restore or a promotion does. */
  async function goBack(): Promise<void> {
    const names = await tables();
    const each = names.map((name) => `insert into ${name} select * from saved.${name}`);
    await query(["begin", `truncate ${names.join(", ")}`, ...each, "commit"].join("; "));
  }

  const appendOne = async (
    node: Engine,
    producer: Awaited<ReturnType<typeof openRun>>,
    n: number,
  ) => append(node, producer, n, [eventOf(`${producer.runId} ${n}`)]);

  /** Waits for a consumer that is told why it cannot go on. */
  async function failed(consumer: Consumer): Promise<unknown> {
    await consumer.readUntil(Number.POSITIVE_INFINITY);
    return consumer.failure?.refusal;
  }

  function assertNoticed(): void {
    assert.ok(running.failures.length > 0);
    for (const failure of running.failures) {
      assert.ok(failure instanceof WentBackError, String(failure));
    }
  }

  it("end live subscriptions with CURSOR_AHEAD, at nodes that commit and at those that do not", async () => {
    const producer = await openRun(one, "run");
    await appendOne(one, producer, 1);
    await save();
    for (const n of [2, 3]) await appendOne(one, producer, n);
    const consumers = [one, other].map((node) => {
      const consumer = new Consumer(everything);
      consumer.attach(node);
      return consumer;
    });
    for (const consumer of consumers) await consumer.readUntil(4);
    await goBack();
    for (const consumer of consumers) {
      assert.deepEqual(await failed(consumer), { reason: "cursor_ahead", latestSeq: 2 });
    }
    assertNoticed();
  });

  it("end live subscriptions also where as much was written again meanwhile", async () => {
    const producer = await openRun(one, "run");
    await save();
    // Few transactions, then more of fewer events.
    await append(
      one,
      producer,
      1,
      [1, 2, 3, 4, 5, 6].map((n) => eventOf(`lost ${n}`)),
    );
    const consumer = new Consumer(everything);
    consumer.attach(other);
    await consumer.readUntil(7);
    await goBack();
    const again = await openRun(one, "again");
    await appendOne(one, again, 1);
    assert.equal(((await failed(consumer)) as { reason: string }).reason, "cursor_ahead");
    assertNoticed();
  });

  it("serve new subscribers the restored records, and none of those before", async () => {
    const producer = await openRun(one, "run");
    await save();
    const before = new Consumer(everything);
    before.attach(other);
    for (const n of [1, 2, 3]) await appendOne(one, producer, n);
    await before.readUntil(4);
    await goBack();
    // A node that looks only once more has been written than was lost cannot notice it.
    assert.equal(((await failed(before)) as { reason: string }).reason, "cursor_ahead");
    const writer = await openRun(one, "new");
    for (const n of [1, 2]) assert.equal((await appendOne(one, writer, n)).t, "durable");
    for (const node of [one, other]) {
      const consumer = new Consumer(everything);
      consumer.attach(node);
      await consumer.readUntil(4);
      assert.deepEqual(textsOf(consumer.received), textsOf(await readAll(one.journal)));
      await consumer.drop();
    }
    assertNoticed();
  });

  it("know nothing of runs that have not happened, whatever others have written meanwhile", async () => {
    await running.remove();
    // Nobody looks in between.
    running = await startNodes(2, { notifications: deaf, limits: { pollIntervalMs: 60_000 } });
    [one, other] = running.nodes as [Engine, Engine];
    database = new URL(running.url).pathname.slice(1);
    const producer = await openRun(one, "run");
    const stranger = await openRun(other, "stranger");
    await appendOne(one, producer, 1);
    assert.equal((await appendOne(other, stranger, 1)).t, "durable");
    await save();
    await appendOne(one, producer, 2);
    await goBack();
    // As many transactions as were lost.
    assert.equal((await appendOne(other, stranger, 2)).t, "durable");
    // With a run that has to be read, so that the group is decided in a transaction.
    const fresh = openRun(one, "fresh");
    const outcome = await appendOne(one, producer, 3);
    await fresh;
    assert.deepEqual(outcome, {
      t: "refused",
      refusal: { reason: "seq_gap", expectedRunSeq: 2, gotRunSeq: 3 },
    });
    assert.equal((await appendOne(one, await openRun(one, "run"), 2)).t, "durable");
    assertNoticed();
  });
});
