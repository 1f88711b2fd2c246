/**
 * Behind a pooler that hands out connections by the transaction. PgBouncer comes
 * with the system's packages, not from npm: where it is missing there is no test.
 */
import assert from "node:assert/strict";
import { type ChildProcess, spawn, spawnSync } from "node:child_process";
import { once } from "node:events";
import { chmod, mkdtemp, rm, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { createInterface } from "node:readline";
import pg from "pg";
import { freePort } from "../../dev/postgres-server.ts";
import { openJournal } from "../../src/journal/open.ts";
import { defaultLimits } from "../../src/limits.ts";
import { openEngine } from "../../src/server/engine.ts";
import { type ServerProcess, ServerProcesses } from "../crash/server-process.ts";
import { append, engineOver, eventOf, openRun } from "../support/engine.ts";
import { giveBackDatabase, noteCommits, takeDatabase } from "../support/postgres.ts";
import { assertLoadKept, runLoad } from "./load.ts";

const isInstalled = spawnSync("pgbouncer", ["--version"]).status === 0;

/** Starts PgBouncer before a database; resolves once it takes connections. */
async function startPooler(directory: string, port: number, database: URL): Promise<ChildProcess> {
  const { hostname, port: behind, pathname, username, password } = database;
  const users = join(directory, "users.txt");
  await writeFile(users, `"${username}" "${password}"\n`);
  const settings = join(directory, "pgbouncer.ini");
  await writeFile(
    settings,
    `[databases]
runlog = host=${hostname} port=${behind} dbname=${pathname.slice(1)}
[pgbouncer]
listen_addr = 127.0.0.1
listen_port = ${port}
unix_socket_dir =
auth_type = plain
auth_file = ${users}
pool_mode = transaction
default_pool_size = 4
`,
  );
  // It does not run as root.
  await chmod(directory, 0o755);
  const user = process.getuid?.() === 0 ? ["-u", "postgres"] : [];
  const pooler = spawn("pgbouncer", [...user, settings], { stdio: ["ignore", "ignore", "pipe"] });
  const told: string[] = [];
  for await (const line of createInterface({ input: pooler.stderr })) {
    told.push(line);
    if (!line.includes("process up")) continue;
    pooler.stderr.resume();
    return pooler;
  }
  throw new Error(`PgBouncer did not start: ${told.join("\n")}`);
}

(isInstalled ? describe : () => undefined)("nodes behind PgBouncer, by the transaction", () => {
  const nodes = new ServerProcesses();
  const load = { senders: 4, followers: 3, events: 500 };
  let running: readonly ServerProcess[];
  let directory: string;
  let journal: string;
  let pooled: string;
  let pooler: ChildProcess;

  before(async () => {
    directory = await mkdtemp(join(tmpdir(), "runlog-pooler-"));
    journal = await takeDatabase();
    const port = await freePort();
    pooler = await startPooler(directory, port, new URL(journal));
    pooled = `postgres://runlog:runlog@127.0.0.1:${port}/runlog`;
    running = await Promise.all([0, 1].map(() => nodes.start({ journal: pooled })));
  });

  after(async () => {
    await nodes.endAll();
    const ended = once(pooler, "exit");
    pooler.kill("SIGKILL");
    await ended;
    await rm(directory, { recursive: true });
    await giveBackDatabase(journal);
  });

  it("append in one order and deliver it, by looking often", async () => {
    await runLoad({ ...load, nodes: running.map(({ url }) => url) });
    for (const { url } of running) await assertLoadKept(url, load);
  });

  it("start whoever else has prepared statements there", async () => {
    const limits = { ...defaultLimits, databaseConnections: 2, lockTimeoutMs: 1_000 };
    for (let round = 0; round < 6; round++) {
      const journals = await Promise.all([0, 1, 2].map(() => openJournal(pooled, limits)));
      for (const one of journals) {
        const engine = await openEngine({
          journal: one,
          limits,
          now: Date.now,
          onFailure: () => undefined,
        });
        await engine.stop();
        await one.close();
      }
    }
  });

  it("wait for the disk whatever the database is set to by then", async () => {
    const admin = new pg.Client({ connectionString: journal });
    await admin.connect();
    const one = await openJournal(pooled, { ...defaultLimits, databaseConnections: 2 });
    // A setting of a role is that of the sessions which begin from then on.
    const endSessions = () =>
      admin.query(
        "select pg_terminate_backend(pid) from pg_stat_activity where pid != pg_backend_pid() and datname = current_database()",
      );
    try {
      await admin.query(noteCommits);
      await admin.query(`alter role runlog set synchronous_commit = off`);
      await endSessions();
      const engine = engineOver(one);
      const producer = await openRun(engine, "durable");
      for (const runSeq of [1, 2, 3]) {
        assert.equal((await append(engine, producer, runSeq, [eventOf("x")])).t, "durable");
      }
      const { rows } = await admin.query<{ value: string; count: number }>(
        "select value, count(*)::int as count from used group by value",
      );
      assert.deepEqual(rows, [{ value: "on", count: 4 }]);
    } finally {
      await one.close();
      await admin.query("alter role runlog reset synchronous_commit");
      await endSessions();
      await admin.query("drop trigger note on records; drop function note; drop table used");
      await admin.end();
    }
  });

  it("leave nothing behind on connections that others get", async () => {
    // All connections that the pooler has, each asked at the same time as the others.
    const clients = Array.from({ length: 4 }, () => new pg.Client({ connectionString: pooled }));
    for (const client of clients) await client.connect();
    const settings = [
      ...["synchronous_commit", "lock_timeout", "statement_timeout", "tcp_user_timeout"],
      ...["idle_in_transaction_session_timeout", "client_min_messages"],
    ];
    const select = settings.map((name) => `current_setting('${name}') as ${name}`).join(", ");
    await Promise.all(clients.map((client) => client.query("begin")));
    for (const client of clients) {
      const { rows } = await client.query(`select ${select}`);
      assert.deepEqual(
        { ...rows[0] },
        {
          synchronous_commit: "on",
          lock_timeout: "0",
          statement_timeout: "0",
          tcp_user_timeout: "0",
          idle_in_transaction_session_timeout: "0",
          client_min_messages: "notice",
        },
      );
    }
    for (const client of clients) await client.end();
  });
});
