import assert from "node:assert/strict";
import { execFile } from "node:child_process";
import { appendFile, mkdtemp, rm } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { promisify } from "node:util";
import { PostgresServer } from "../../dev/postgres-server.ts";
import type { Limits } from "../../src/limits.ts";
import { connect, replay } from "../crash/history.ts";
import { chosenSeed, randomOf } from "../crash/random.ts";
import { type ServerProcess, ServerProcesses } from "../crash/server-process.ts";
import { CuttingProxy } from "./cutting-proxy.ts";
import { assertLoadKept, Faults, runLoad } from "./load.ts";

const run = promisify(execFile);
const limits: Partial<Limits> = { nodeTimeoutMs: 1_000 };
const load = { senders: 6, followers: 3, events: 1_000 } as const;
/** Bytes of the small disk. */
const diskBytes = 160 * 1024 * 1024;
/** Records of which a load consists. */
const total = load.senders * (load.events + 2);

describe("faults, with processes of their own", () => {
  const seed = chosenSeed();
  const nodes = new ServerProcesses();
  const ends: (() => Promise<unknown>)[] = [];

  afterEach(async () => {
    await nodes.endAll();
    for (const end of ends.splice(0).reverse()) await end();
  });

  async function startPostgres(options: Parameters<typeof PostgresServer.start>[0] = {}) {
    const server = await PostgresServer.start(options);
    ends.push(() => server.remove());
    return server;
  }

  const startNodes = (journal: string, count: number): Promise<ServerProcess[]> =>
    Promise.all(Array.from({ length: count }, () => nodes.start({ journal, limits })));

  const urlsOf = (running: readonly ServerProcess[]) => running.map(({ url }) => url);

  it("a node that is killed: its producers and subscribers go on at another", async () => {
    const postgres = await startPostgres();
    const running = await startNodes(await postgres.createDatabase("runlog"), 3);
    const victims = [...running.slice(0, 2)];
    const faults = new Faults([total / 4, total / 2], () => victims.shift()!.kill());
    const reconnects = await runLoad({
      ...load,
      nodes: urlsOf(running),
      faults,
    });
    assert.ok(reconnects > 0);
    await assertLoadKept(running[2]!.url, load);
  });

  it("PostgreSQL that is killed and comes back: a pause, and nothing is lost", async () => {
    const postgres = await startPostgres();
    const running = await startNodes(await postgres.createDatabase("runlog"), 2);
    const faults = new Faults([total / 4, total / 2, (3 * total) / 4], async () => {
      await postgres.kill();
      await postgres.start();
    });
    await runLoad({ ...load, nodes: urlsOf(running), faults });
    await assertLoadKept(running[1]!.url, load);
  });

  // One node alone appends in one statement, and gathers more for it; two take turns, each in transactions.
  for (const [count, way, oneIn] of [
    [1, "append", 5],
    [2, "commit", 12],
  ] as const) {
    it(`connections that break at the ${way} of ${count} node(s): nothing is lost or doubled (RUNLOG_TEST_SEED=${seed})`, async () => {
      const random = randomOf(seed);
      const postgres = await startPostgres();
      await postgres.createDatabase("runlog");
      let isServing = false;
      const proxy = await CuttingProxy.start(postgres.port, () => {
        if (!isServing) return undefined;
        const choice = random.between(1, oneIn);
        return choice === 1 ? "before" : choice === 2 ? "after" : undefined;
      });
      ends.push(() => proxy.close());
      const journal = new URL(postgres.url("runlog"));
      journal.port = `${proxy.port}`;
      const running = await startNodes(journal.href, count);
      isServing = true;
      await runLoad({ ...load, nodes: urlsOf(running) });
      assert.ok(proxy.cuts[way] > 4, JSON.stringify(proxy.cuts));
      await assertLoadKept(running[0]!.url, load);
    });
  }

  it("a primary that dies, and its synchronous standby is promoted: the nodes follow", async () => {
    const primary = await startPostgres();
    await primary.createDatabase("runlog");
    const standby = await primary.follow();
    ends.push(() => standby.remove());
    await primary.query("alter system set synchronous_standby_names = '*'");
    await primary.query("select pg_reload_conf()");
    const journal = `postgres://runlog:runlog@127.0.0.1:${primary.port},127.0.0.1:${standby.port}/runlog`;
    const running = await startNodes(journal, 2);
    const faults = new Faults([total / 3], async () => {
      await primary.kill();
      await standby.promote();
    });
    await runLoad({ ...load, nodes: urlsOf(running), faults });
    await assertLoadKept(running[0]!.url, load);
  });

  it("a database that takes no writes: producers wait, readers go on, and it goes on by itself", async () => {
    const postgres = await startPostgres();
    const running = await startNodes(await postgres.createDatabase("runlog"), 2);
    const set = async (value: string) => {
      await postgres.query(`alter system set default_transaction_read_only = ${value}`);
      await postgres.query("select pg_reload_conf()");
    };
    const faults = new Faults([total / 2], async () => {
      await set("on");
      // Readers are served all the while, from the beginning.
      for (const { url } of running) {
        const connection = connect(url);
        assert.ok((await replay(connection)).length >= total / 2);
        connection.close();
      }
      await set("off");
    });
    const urls = urlsOf(running);
    const reconnects = await runLoad({ ...load, nodes: urls, faults });
    assert.equal(reconnects, 0, "to producers it was a pause");
    await assertLoadKept(running[0]!.url, load);
  });

  // A small disk has to be mounted, which takes root, as CI is.
  if (process.getuid?.() !== 0 || process.platform !== "linux") return;

  it("a disk that is full: producers wait until there is room", async () => {
    const directory = await mkdtemp(join(tmpdir(), "runlog-full-"));
    await run("mount", ["-t", "tmpfs", "-o", `size=${diskBytes}`, "tmpfs", directory]);
    ends.push(async () => {
      await run("umount", [directory]);
      await rm(directory, { recursive: true });
    });
    const settings = { min_wal_size: "64MB", max_wal_size: "64MB", wal_init_zero: "on" };
    const postgres = await startPostgres({ directory, settings });
    // Without room for its log PostgreSQL panics. So it has all that before the disk is full:
    // a checkpoint renames the segments that are used up to those that come next.
    for (let segments = 0; segments < 4; segments++) {
      await postgres.query("select pg_logical_emit_message(false, 'test', 'used up')");
      await postgres.query("select pg_switch_wal()");
    }
    await postgres.query("checkpoint");
    const running = await startNodes(await postgres.createDatabase("runlog"), 2);
    // More than what the server has set room aside for.
    const larger = { ...load, events: 5_000 };
    const filler = join(directory, "filler");
    const faults = new Faults([larger.events], async () => {
      const isFull = postgres.logged("No space left on device");
      await assert.rejects(appendFile(filler, Buffer.alloc(diskBytes)), { code: "ENOSPC" });
      await isFull;
      const connection = connect(running[0]!.url);
      assert.ok((await replay(connection)).length >= larger.events);
      connection.close();
      await rm(filler);
    });
    await runLoad({ ...larger, nodes: urlsOf(running), faults });
    await assertLoadKept(running[0]!.url, larger);
  });
});
