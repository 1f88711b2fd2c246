/** What ends a statement, a transaction or a session on PostgreSQL, and that it costs nobody else more. */
import assert from "node:assert/strict";
import { once } from "node:events";
import { createServer, connect as dial, type Socket } from "node:net";
import { sql } from "kysely";
import type { Journal } from "../../src/journal/journal.ts";
import { insertNamespace, lockNamespace } from "../../src/journal/namespaces.ts";
import { openJournal } from "../../src/journal/open.ts";
import type { Db } from "../../src/journal/schema.ts";
import { defaultLimits } from "../../src/limits.ts";
import { RefusedError } from "../../src/refusal.ts";
import { giveBackDatabase, sharedServer, takeDatabase } from "../support/postgres.ts";

const settings = {
  ...defaultLimits,
  databaseConnections: 2,
  databaseWaitMs: 20_000,
  lockTimeoutMs: 500,
};

/** Bytes of an answer that a hole lets through. */
const maxThrough = 1_000_000;

/** A way to PostgreSQL that is cut off in the middle of a long answer, without being closed. */
async function holeBefore(target: number) {
  const sockets: Socket[] = [];
  const cut = Promise.withResolvers<void>();
  const server = createServer((client) => {
    const upstream = dial(target, "127.0.0.1");
    sockets.push(client, upstream);
    for (const socket of [client, upstream]) socket.on("error", () => undefined);
    client.pipe(upstream);
    let through = 0;
    upstream.on("data", (chunk: Buffer) => {
      through += chunk.length;
      client.write(chunk);
      if (through < maxThrough) return;
      for (const socket of [client, upstream]) socket.unpipe().pause();
      cut.resolve();
    });
  });
  server.listen(0, "127.0.0.1");
  await once(server, "listening");
  return {
    port: (server.address() as { port: number }).port,
    cut: cut.promise,
    async close() {
      for (const socket of sockets) socket.destroy();
      server.close();
      await once(server, "close");
    },
  };
}

function isUnavailable(error: unknown): boolean {
  return error instanceof RefusedError && error.refusal.reason === "journal_unavailable";
}

describe("a PostgreSQL that ends what takes too long", () => {
  let url: string;
  let database: string;
  let journal: Journal;
  let others: Journal[];

  before(async () => {
    url = await takeDatabase();
    database = new URL(url).pathname.slice(1);
    journal = await openJournal(url, settings);
  });

  beforeEach(async () => {
    others = [];
    await journal.write((tx) => insertNamespace(tx, "ns", 1));
  });

  afterEach(async () => {
    for (const other of others) await other.close();
  });

  after(async () => {
    await journal.close();
    await giveBackDatabase(url);
  });

  async function openOther(limits: Partial<typeof settings>, at = url): Promise<Journal> {
    const other = await openJournal(at, { ...settings, ...limits });
    others.push(other);
    return other;
  }

  const query = async (text: string) => (await sharedServer()).query(text, database);

  it("ends a read itself, and not only its client", async () => {
    const other = await openOther({ statementTimeoutMs: 200, databaseWaitMs: 500 });
    await assert.rejects(sql`select pg_sleep(600)`.execute(other.db), isUnavailable);
    const asleep = () =>
      query(
        "select 1 from pg_stat_activity where wait_event = 'PgSleep' and datname = current_database()",
      );
    while ((await asleep()).length > 0);
  });

  /** Keeps a transaction open until the server has ended it; says what became of it. */
  async function overstay(work: (tx: Db) => Promise<void>, withinMs?: number): Promise<unknown> {
    const failed = journal.write(async (tx) => {
      const { rows } = await sql<{ pid: number }>`select pg_backend_pid() as pid`.execute(tx);
      for (;;) {
        const found = await query(`select 1 from pg_stat_activity where pid = ${rows[0]!.pid}`);
        if (found.length === 0) break;
        await work(tx);
      }
      await lockNamespace(tx, "ns");
    }, withinMs);
    return failed.then(
      () => assert.fail("it was committed"),
      (error: unknown) => error,
    );
  }

  it("ends a transaction whose client does not go on: that passes (25P03)", async () => {
    assert.ok(isUnavailable(await overstay(() => Promise.resolve())));
    await journal.write((tx) => lockNamespace(tx, "ns"));
  });

  it("ends a transaction that goes on for too long: that passes (25P04)", async () => {
    const goOn = (tx: Db) => sql`select 1`.execute(tx).then(() => undefined);
    assert.ok(isUnavailable(await overstay(goOn, 1_000)));
    await journal.write((tx) => lockNamespace(tx, "ns"));
  });

  it("is given no more time for a try than is left for all of them", async () => {
    const names = ["lock_timeout", "statement_timeout", "transaction_timeout"];
    const select = names.map((name) => sql`current_setting(${sql.lit(name)}) as ${sql.ref(name)}`);
    const { rows } = await journal.write(
      (tx) => sql<Record<string, string>>`select ${sql.join(select)}`.execute(tx),
      300,
    );
    for (const [name, value] of Object.entries(rows[0]!)) {
      const ms = Number(/^(\d+)ms$/.exec(value)?.[1]);
      assert.ok(ms > 0 && ms <= 300, `${name} is ${value}`);
    }
  });

  it("lets others have the namespace where a node is cut off while the server sends to it", async () => {
    const hole = await holeBefore(Number(new URL(url).port));
    try {
      const through = new URL(url);
      through.port = `${hole.port}`;
      const other = await openOther({}, through.href);
      const stuck = other.write(async (tx) => {
        await lockNamespace(tx, "ns");
        // More than sockets hold: the server waits for somebody to take it.
        await sql`select repeat('x', 1000000) from generate_series(1, 64)`.execute(tx);
      }, 2_500);
      stuck.catch(() => undefined);
      await hole.cut;
      await journal.write((tx) => lockNamespace(tx, "ns"));
      await assert.rejects(stuck, isUnavailable);
    } finally {
      await hole.close();
    }
  });

  it("is left where it takes no writes, and found again once it does (25006)", async () => {
    const endSessions = () =>
      query(
        "select pg_terminate_backend(pid) from pg_stat_activity where pid != pg_backend_pid() and datname = current_database()",
      );
    await query(`alter database ${database} set default_transaction_read_only = on`);
    await endSessions();
    const lock = () => journal.write((tx) => lockNamespace(tx, "ns"));
    // Until all connections that are there are such.
    while (!(await lock().then(() => false, isUnavailable)));
    // Readers go on meanwhile.
    await sql`select 1`.execute(journal.db);
    await query(
      `begin read write; alter database ${database} reset default_transaction_read_only; commit`,
    );
    // A session keeps what it began with.
    await lock().catch(() => undefined);
    await lock();
  });
});
