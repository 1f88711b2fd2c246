import assert from "node:assert/strict";
import { create } from "@bufbuild/protobuf";
import { durationFromMs, timestampMs } from "@bufbuild/protobuf/wkt";
import { sql } from "kysely";
import { AppendEventsRequestSchema } from "../../gen/runlog/v1/ingest_pb.js";
import type { SequencedEvent } from "../../gen/runlog/v1/record_pb.js";
import { RunResultSchema, RunSpecSchema, RunState } from "../../gen/runlog/v1/run_pb.js";
import { appendWindow } from "../../src/ingest/append-window.ts";
import { Producer } from "../../src/ingest/operation.ts";
import { lockNamespace } from "../../src/journal/namespaces.ts";
import { beatNode, deleteNode, listNodes } from "../../src/journal/nodes.ts";
import { markTree } from "../../src/journal/trees.ts";
import type { Refusal } from "../../src/refusal.ts";
import type { Engine } from "../../src/server/engine.ts";
import { toWindowBytes } from "../../src/server/ingest-bytes.ts";
import { Consumer } from "../support/consumer.ts";
import { append, eventOf, openRun, readAll } from "../support/engine.ts";
import { deaf, startNodes, type TestNodes, type TestNodesOptions } from "../support/nodes.ts";

const namespace = "default";
/** Milliseconds; shorter leases are not allowed. */
const leaseMs = 1_000;

/** Opens a run that is lost soon after its producer left. */
async function openBriefly(
  { committer }: Engine,
  runId: string,
  events: ConstructorParameters<typeof Producer>[2] = {},
): Promise<Producer> {
  const producer = new Producer(runId, undefined, events);
  const spec = create(RunSpecSchema, { lease: durationFromMs(leaseMs) });
  const outcome = await committer.submit({ kind: "open", namespace, runId, producer, spec });
  assert.equal(outcome.t, "opened");
  return producer;
}

/** Reads a run until it has ended; its records. */
async function readToEnd(node: Engine, runId: string): Promise<SequencedEvent[]> {
  const consumer = new Consumer({ scope: { kind: "runs", runIds: [runId] }, types: [] });
  consumer.attach(node);
  while (consumer.received.at(-1)?.record.case !== "runFinished") {
    await consumer.readUntil(consumer.received.length + 1);
  }
  await consumer.drop();
  return consumer.received;
}

function stateIn(records: readonly SequencedEvent[]): RunState | undefined {
  const last = records.at(-1)?.record;
  return last?.case === "runFinished" ? last.value.result?.state : undefined;
}

/** Calls again and again until it says so; the test's time is the bound. */
async function until(holds: () => boolean | Promise<boolean>): Promise<void> {
  while (!(await holds())) await new Promise((resolve) => setImmediate(resolve));
}

describe("several nodes", () => {
  let running: TestNodes;
  let a: Engine;
  let b: Engine;

  async function start(options: TestNodesOptions = {}): Promise<void> {
    running = await startNodes(2, options);
    [a, b] = running.nodes as [Engine, Engine];
  }

  afterEach(async () => {
    assert.deepEqual(running.failures, []);
    await running.remove();
  });

  for (const [name, notifications] of [
    ["", (same: Parameters<typeof deaf>[0]) => same],
    [", where every wake-up is lost", deaf],
  ] as const) {
    it(`tell a producer that another one has its run at another node${name}`, async () => {
      await start({ notifications });
      const told = Promise.withResolvers<Refusal>();
      await openBriefly(a, "run", { onRejected: told.resolve });
      const second = await openBriefly(b, "run");
      assert.deepEqual(await told.promise, { reason: "fenced", epoch: second.epoch });
    });
  }

  it("hear each other whatever else is notified on their channel", async () => {
    await start({ limits: { pollIntervalMs: 60_000 } });
    await until(() => a.journal.notifications!.isConnected && b.journal.notifications!.isConnected);
    for (const text of ["", "x", "{", "null", "1", "[]", "{}", '{"self":1,"namespaces":[]}']) {
      await sql`select pg_notify('runlog', ${text})`.execute(a.journal.db);
    }
    for (const namespaces of ["x", [1], [null], { length: 1 }]) {
      const text = JSON.stringify({ self: "x", namespaces });
      await sql`select pg_notify('runlog', ${text})`.execute(a.journal.db);
    }
    const told = Promise.withResolvers<Refusal>();
    await openBriefly(a, "run", { onRejected: told.resolve });
    const second = await openBriefly(b, "run");
    assert.deepEqual(await told.promise, { reason: "fenced", epoch: second.epoch });
  });

  it("refuse a producer whose run was opened at another node, also where nobody told it", async () => {
    await start({ notifications: deaf, limits: { pollIntervalMs: 60_000 } });
    const first = await openRun(a, "run");
    await append(a, first, 1, [eventOf("a")]);
    const second = await openRun(b, "run");
    await append(b, second, 2, [eventOf("b")]);
    const outcome = await append(a, first, 2, [eventOf("stale")]);
    assert.deepEqual(outcome, {
      t: "refused",
      refusal: { reason: "fenced", epoch: second.epoch },
    });
    const texts = (await readAll(b.journal)).flatMap(({ record }) =>
      record.case === "event" ? [Buffer.from(record.value.data).toString()] : [],
    );
    assert.deepEqual(texts, ["a", "b"]);
  });

  for (const [name, notifications] of [
    ["", (same: Parameters<typeof deaf>[0]) => same],
    [", where every wake-up is lost", deaf],
  ] as const) {
    it(`pass a request to stop on to the node that has the producer${name}`, async () => {
      await start({ notifications });
      const reasons: string[] = [];
      const onCancelRequested = (reason: string) => reasons.push(reason);
      await openBriefly(a, "run", { onCancelRequested });
      const request = { namespace, runId: "run", includeDescendants: false };
      assert.equal(await b.cancellations.cancel({ ...request, reason: "enough" }), 1);
      await until(() => reasons.length > 0);
      await b.cancellations.cancel({ ...request, reason: "now" });
      await until(() => reasons.length > 1);
      assert.deepEqual(reasons, ["enough", "now"]);
    });
  }

  it("leave a run alone whose producer sends its windows to all of them in turn", async () => {
    await start();
    const opened = await openBriefly(a, "run");
    a.committer.release(namespace, opened);
    // Twice its lease, in which no node has it for long: the clock is the database's.
    const { rows } = await sql<{ end: number }>`
      select extract(epoch from clock_timestamp()) + ${(2 * leaseMs) / 1_000} as end`.execute(
      a.journal.db,
    );
    let count = 0;
    await until(async () => {
      const node = [a, b][count % 2]!;
      const window = create(AppendEventsRequestSchema, {
        namespace,
        runId: "run",
        epoch: BigInt(opened.epoch!),
        firstRunSeq: BigInt(++count),
        events: [eventOf("x")],
      });
      const { signal } = new AbortController();
      await appendWindow(node, toWindowBytes(window), signal);
      const now = await sql<{ over: boolean }>`
        select extract(epoch from clock_timestamp()) > ${rows[0]!.end} as over`.execute(
        a.journal.db,
      );
      return now.rows[0]!.over;
    });
    assert.equal((await readAll(a.journal)).filter((r) => r.record.case === "event").length, count);
    // Once it is silent, the node that had it last notices.
    const records = await readToEnd(a, "run");
    assert.equal(stateIn(records), RunState.LOST);
    assert.equal(records.length, count + 2, "no lapse before");
  });

  it("end the runs of a node that died as LOST, once, unless their producers come back", async () => {
    await start();
    const dying = await running.add();
    await openBriefly(dying, "left");
    const back = await openBriefly(dying, "taken");
    await append(dying, back, 1, [eventOf("a")]);
    await running.crash(dying);
    const again = await openBriefly(b, "taken");
    assert.equal((await append(b, again, 2, [eventOf("b")])).t, "durable");
    assert.equal(stateIn(await readToEnd(a, "left")), RunState.LOST);
    const all = await readAll(a.journal);
    const ends = all.filter(({ record }) => record.case === "runFinished");
    assert.deepEqual(
      ends.map(({ runId }) => runId),
      ["left"],
    );
  });

  it("look after the runs of a node that left as well", async () => {
    await start();
    const leaving = await running.add();
    const producer = await openBriefly(leaving, "run");
    leaving.committer.release(namespace, producer);
    await leaving.stop();
    assert.equal(stateIn(await readToEnd(b, "run")), RunState.LOST);
  });

  it("give a run back to a node that was taken for dead and has its producer still", async () => {
    await start();
    const producer = await openBriefly(b, "run");
    // Others take out a node whose beat they did not see for too long.
    await sql`delete from nodes where node_key = ${nodeOf(b)}`.execute(a.journal.db);
    await until(async () => (await holderOf(a, "run")) === nodeOf(b) && nodeOf(b) > 2);
    assert.equal((await append(b, producer, 1, [eventOf("a")])).t, "durable");
    b.committer.release(namespace, producer);
    const records = await readToEnd(a, "run");
    assert.deepEqual(
      records.map(({ record }) => record.case),
      ["runStarted", "event", "runFinished"],
    );
  });

  it("delete expired trees at one node, and at another once that has died", async () => {
    await start({ limits: { retentionIntervalMs: 50 } });
    await a.retentionSettings.set(namespace, 1_000, Date.now());
    const finish = async (node: Engine, runId: string) => {
      const producer = await openRun(node, runId);
      const result = create(RunResultSchema, { state: RunState.SUCCEEDED });
      const on = { namespace, runId, producer };
      await node.committer.submit({ kind: "finish", ...on, lastRunSeq: 0, result });
    };
    const isGone = async ({ journal }: Engine) =>
      (await journal.db.selectFrom("records").select("run_key").execute()).length === 0;
    await finish(b, "first");
    await until(() => isGone(b));
    await running.crash(a);
    await finish(b, "second");
    await until(() => isGone(b));
  });

  it("finish a deletion that a node began which died", async () => {
    await start({ limits: { unfinishedIntervalMs: 50 } });
    const dying = await running.add();
    const producer = await openRun(dying, "run");
    const result = create(RunResultSchema, { state: RunState.SUCCEEDED });
    const on = { namespace, runId: "run", producer };
    await dying.committer.submit({ kind: "finish", ...on, lastRunSeq: 0, result });
    await dying.journal.write(async (tx) => {
      const locked = (await lockNamespace(tx, namespace))!;
      const summary = { runCount: 1, eventBytes: 0, lastSeq: locked.last_seq, endTimeMs: 0 };
      await markTree(tx, locked, 1, summary, nodeOf(dying));
    });
    await running.crash(dying);
    await until(async () => {
      const left = await a.journal.db.selectFrom("deletions").selectAll().execute();
      return left.length === 0;
    });
    assert.equal((await readAll(a.journal)).length, 0);
  });

  it("finish a deletion that failed at a node which is not on duty and lives on", async () => {
    await start({ limits: { unfinishedIntervalMs: 50 } });
    const producer = await openRun(b, "run");
    const result = create(RunResultSchema, { state: RunState.SUCCEEDED });
    const on = { namespace, runId: "run", producer };
    await b.committer.submit({ kind: "finish", ...on, lastRunSeq: 0, result });
    await b.journal.write(async (tx) => {
      const locked = (await lockNamespace(tx, namespace))!;
      const summary = { runCount: 1, eventBytes: 0, lastSeq: locked.last_seq, endTimeMs: 0 };
      await markTree(tx, locked, 1, summary, nodeOf(b));
    });
    await until(async () => (await readAll(a.journal)).length === 0);
  });

  it("find a run that was created by a node which others had taken for dead already", async () => {
    await start({ limits: { unfinishedIntervalMs: 50 } });
    const producer = await openBriefly(b, "run");
    b.committer.release(namespace, producer);
    // As if it had been committed under a key that is nobody's any more.
    await sql`update runs set node_key = 999`.execute(a.journal.db);
    assert.equal(stateIn(await readToEnd(a, "run")), RunState.LOST);
  });

  it("find a run of their own that has neither a producer nor a lease", async () => {
    await start({ limits: { unfinishedIntervalMs: 50 } });
    const producer = await openBriefly(b, "run");
    b.committer.release(namespace, producer);
    // As if the answer to the commit that made it had been lost.
    await sql`update runs set node_key = ${nodeOf(a)}`.execute(a.journal.db);
    assert.equal(stateIn(await readToEnd(a, "run")), RunState.LOST);
  });

  it("take out no node whose beat has moved on since it was seen", async () => {
    await start();
    await b.journal.write(async (tx) => {
      const seen = (await listNodes(tx)).find((node) => node.node_key === nodeOf(b))!;
      assert.equal(await beatNode(tx, seen.node_key), true);
      await deleteNode(tx, seen);
      assert.equal(await beatNode(tx, seen.node_key), true);
    });
  });

  it("stamp records by the database's clock, whatever their own", async () => {
    await start();
    const producer = await openRun(a, "run");
    await append(a, producer, 1, [eventOf("a")]);
    const { rows } = await sql<{ ms: number }>`
      select (extract(epoch from clock_timestamp()) * 1000)::float8 as ms`.execute(a.journal.db);
    const [, record] = await readAll(a.journal);
    assert.ok(Math.abs(timestampMs(record!.recordTime!) - rows[0]!.ms) < 60_000);
  });

  it("tell readers at another node that their tree was deleted", async () => {
    await start();
    const producer = await openRun(a, "run");
    await append(a, producer, 1, [eventOf("a")]);
    const reading = new Consumer({ scope: { kind: "runs", runIds: ["run"] }, types: [] });
    reading.attach(b);
    await reading.readUntil(2);
    const result = create(RunResultSchema, { state: RunState.SUCCEEDED });
    const on = { namespace, runId: "run", producer };
    await a.committer.submit({ kind: "finish", ...on, lastRunSeq: 1, result });
    await reading.readUntil(3);
    await a.deletions.delete(namespace, "run");
    await reading.readUntil(4);
    assert.equal(reading.failure?.refusal.reason, "run_not_found");
  });

  it("read what others append once, however many wait for it", async () => {
    await start();
    const producer = await openRun(a, "run");
    const consumers = Array.from(
      { length: 50 },
      () => new Consumer({ scope: { kind: "all" }, types: [] }),
    );
    for (const consumer of consumers) consumer.attach(b);
    await append(a, producer, 1, [eventOf("first")]);
    for (const consumer of consumers) await consumer.readUntil(2);
    const before = await recordScans(b);
    const commits = 20;
    for (let runSeq = 2; runSeq < 2 + commits; runSeq++) {
      await append(a, producer, runSeq, [eventOf("x")]);
      for (const consumer of consumers) await consumer.readUntil(runSeq + 1);
    }
    const scans = (await recordScans(b)) - before;
    // Keys, then bytes; and a few for those who were not at the end when they were woken.
    assert.ok(scans <= 4 * commits, `${scans} scans of records for ${commits} commits`);
    for (const consumer of consumers) await consumer.drop();
  });
});

/** The key of a node that has joined. */
function nodeOf({ node }: Engine): number {
  return node.nodeKey;
}

async function holderOf({ journal }: Engine, runId: string): Promise<number | undefined> {
  const select = journal.db.selectFrom("runs").select("node_key").where("run_id", "=", runId);
  return (await select.executeTakeFirst())?.node_key;
}

/** How often the database has looked into the records by an index, whoever asked. */
async function recordScans({ journal }: Engine): Promise<number> {
  await sql`select pg_stat_force_next_flush()`.execute(journal.db);
  const { rows } = await sql<{ scans: number }>`
    select sum(idx_scan) as scans from pg_stat_user_indexes where relname = 'records'`.execute(
    journal.db,
  );
  return rows[0]!.scans;
}
