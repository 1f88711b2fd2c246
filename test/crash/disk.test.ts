/** What a server makes of a disk, or of somebody at it, that takes its files away or fails. */
import assert from "node:assert/strict";
import { spawnSync } from "node:child_process";
import { copyFile, mkdtemp, open, rename, rm, stat, truncate, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { fileURLToPath } from "node:url";
import { Code } from "@connectrpc/connect";
import { Reason } from "../../gen/runlog/v1/error_pb.js";
import { assertFailed } from "../cli/commands.ts";
import { refusalOf } from "../support/wire.ts";
import { type EmbeddedServer, EmbeddedServers } from "./embedded-server.ts";

/** Calls are refused at once: nobody waits for what does not come back. */
const impatient = { limits: ["database-wait=0s"] };

describe("a server on SQLite", () => {
  const servers = new EmbeddedServers();
  let directory: string;
  let file: string;
  let mounted: string | undefined;

  beforeEach(async () => {
    directory = await mkdtemp(join(tmpdir(), "runlog-disk-"));
    file = join(directory, "runlog.db");
  });

  afterEach(async function () {
    if (this.currentTest?.state === "failed") console.log(servers.logs);
    await servers.endAll();
    if (mounted !== undefined) spawnSync("umount", [mounted]);
    mounted = undefined;
    await rm(directory, { recursive: true });
  });

  const readyz = async ({ url }: EmbeddedServer) => {
    const answer = await fetch(`${url}/readyz`);
    return [answer.status, await answer.text()] as const;
  };

  async function assertRefused(call: Promise<unknown>, code: Code, reason: Reason): Promise<void> {
    const refused = await refusalOf(call);
    assert.deepEqual([refused.code, refused.detail?.reason], [code, reason]);
  }

  const assertUnavailable = (call: Promise<unknown>) =>
    assertRefused(call, Code.Unavailable, Reason.JOURNAL_UNAVAILABLE);
  const assertDataLoss = (call: Promise<unknown>) =>
    assertRefused(call, Code.DataLoss, Reason.DATA_LOSS);

  /** Asserts that a server has told in its log, alone on a line, what matches. */
  async function assertLogged({ process }: EmbeddedServer, pattern: RegExp): Promise<void> {
    await process.until("stderr", pattern);
  }

  it("acknowledges nothing and reads on while its database is moved away, and goes on once it is back", async () => {
    const server = await servers.listening(file, impatient);
    await server.append(1);
    await rename(file, `${file}.away`);
    await server.untilReady(false);
    await assertUnavailable(server.append(2));
    assert.deepEqual(await readyz(server), [
      503,
      `${file} was deleted or moved: put it back; until then the server acknowledges nothing\n`,
    ]);
    assert.equal((await fetch(`${server.url}/healthz`)).status, 200);
    assert.equal((await server.payloads())[0], "1");
    await rename(`${file}.away`, file);
    await server.untilReady(true);
    await server.append(2);
    assert.deepEqual(await server.payloads(), ["1", "2"]);
    await assertLogged(server, /"level":50,.*was deleted or moved/);
    await assertLogged(server, /the journal can be written again/);
  });

  it("ends in one line where another file takes the place of its database", async () => {
    const server = await servers.listening(file);
    await server.append(1);
    await copyFile(file, `${file}.new`);
    await rename(`${file}.new`, file);
    assertFailed(
      await server.process.ended,
      /^runlog: another file has replaced .*runlog\.db: this process ends/,
    );
  });

  it("acknowledges nothing once its log is deleted, and loses nothing that it acknowledged", async () => {
    const server = await servers.listening(file, impatient);
    await server.append(1);
    await server.append(2);
    await rm(`${file}-wal`);
    await server.untilReady(false);
    await assertUnavailable(server.append(3));
    assert.match((await readyz(server))[1], /write-ahead log of .* was deleted or replaced/);
    await server.process.kill("SIGKILL");
    const next = await servers.listening(file);
    assert.deepEqual((await next.payloads()).slice(0, 2), ["1", "2"]);
  });

  it("refuses with DATA_LOSS once its log is cut, and is not ready", async () => {
    const server = await servers.listening(file);
    await server.append(1);
    await truncate(`${file}-wal`, 100);
    await server.untilReady(false);
    await assertDataLoss(server.append(2));
    assert.match((await readyz(server))[1], /(was cut|is damaged \(SQLITE_\w+\)): restore/);
    await assertLogged(server, /"level":50,.* (was cut|is damaged \(SQLITE_\w+\)): restore/);
  });

  it("refuses with DATA_LOSS once it reads a page that is garbage, and is not ready", async () => {
    const before = await servers.listening(file);
    for (let n = 1; n <= 20; n++) await before.append(n, Buffer.alloc(50_000, n));
    await before.process.kill("SIGTERM");
    const server = await servers.listening(file);
    // The first pages hold the schema, which is read by now.
    const { size } = await stat(file);
    const handle = await open(file, "r+");
    await handle.write(Buffer.alloc(size - 40_000, 0xa5), 0, undefined, 40_000);
    await handle.close();
    await assertDataLoss(server.payloads());
    await server.untilReady(false);
    await assertDataLoss(server.append(21));
    await assertLogged(server, /"level":50,.* is damaged \(SQLITE_\w+\): restore it/);
  });

  it("ends in one line when the thread that writes does", async () => {
    const hook = fileURLToPath(new URL("thread-killer.ts", import.meta.url));
    const env = { NODE_OPTIONS: `--import ${hook}` };
    const server = await servers.listening(file, { env });
    await server.append(1);
    server.process.child.kill("SIGUSR2");
    assertFailed(
      await server.process.ended,
      /^runlog: the thread that writes .*runlog\.db has ended .*: restart runlog/,
    );
    const next = await servers.listening(file);
    assert.deepEqual(await next.payloads(), ["1"]);
  });

  it("waits while its disk is full, says so, and acknowledges once there is room", async function () {
    const small = await mkdtemp(join(directory, "small-"));
    const { status } = spawnSync("mount", ["-t", "tmpfs", "-o", "size=4m", "tmpfs", small]);
    if (status !== 0) {
      if (process.env["CI"]) assert.fail("no file system can be mounted");
      console.warn("SKIPPED, no file system can be mounted");
      this.skip();
    }
    mounted = small;
    const server = await servers.listening(join(small, "runlog.db"));
    await server.append(1);
    const filler = join(small, "filler");
    await assert.rejects(writeFile(filler, Buffer.alloc(4 * 1024 * 1024)), { code: "ENOSPC" });
    const waiting = server.append(2, Buffer.alloc(200_000, "2"));
    await server.untilReady(false);
    assert.match((await readyz(server))[1], /the disk of .* is full: make room/);
    await assertLogged(server, /"failedTries":\d+,"msg":"the journal's database does not answer"/);
    await rm(filler);
    await server.untilReady(true);
    await waiting;
    assert.equal((await server.payloads()).length, 2);
  });
});
