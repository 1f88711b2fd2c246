/** One process at a time on a SQLite file, by whatever name, and what happens to who is not alone. */
import assert from "node:assert/strict";
import { spawnSync } from "node:child_process";
import { link, mkdir, mkdtemp, rename, rm, symlink } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import Database from "better-sqlite3";
import { openJournal } from "../../src/journal/open.ts";
import { defaultLimits } from "../../src/limits.ts";
import { JournalOpenError } from "../../src/refusal.ts";
import { assertFailed } from "../cli/commands.ts";
import { EmbeddedServers } from "./embedded-server.ts";

describe("a SQLite journal that a process has", () => {
  const servers = new EmbeddedServers();
  let directory: string;
  let file: string;

  beforeEach(async () => {
    directory = await mkdtemp(join(tmpdir(), "runlog-exclusive-"));
    file = join(directory, "runlog.db");
  });

  afterEach(async () => {
    await servers.endAll();
    await rm(directory, { recursive: true });
  });

  const inUse = /runlog\.db is in use by another runlog process: stop that process first/;

  /** Asserts that this process, which is another one, does not get the journal. */
  async function assertRefused(path: string, why: RegExp): Promise<void> {
    const opened = openJournal(`sqlite:${path}`, defaultLimits).then(async (journal) => {
      await journal.close();
    });
    await assert.rejects(opened, (error) => {
      assert.ok(error instanceof JournalOpenError, String(error));
      assert.match(error.message, why);
      return true;
    });
  }

  it("is no other process's through a link to the file or its directory, or beside it", async () => {
    const first = await servers.listening(file);
    assert.equal(await first.append(1), 2);
    const toFile = join(directory, "link.db");
    await symlink(file, toFile);
    await assertRefused(toFile, inUse);
    const toDirectory = join(directory, "elsewhere");
    await symlink(directory, toDirectory);
    await assertRefused(join(toDirectory, "runlog.db"), inUse);
    assert.equal(await first.append(2), 3);
  });

  it("is refused under a second name, whether somebody has it or not", async () => {
    const first = await servers.listening(file);
    const other = join(directory, "other.db");
    await link(file, other);
    await assertRefused(other, /other\.db has 2 names \(hard links\): remove the others/);
    await first.process.kill("SIGTERM");
    await assertRefused(file, /runlog\.db has 2 names/);
    await rm(other);
    await servers.listening(file);
  });

  it("stays its own where the file of the lock is removed, or the database renamed", async function () {
    if (process.platform !== "linux") {
      console.warn("SKIPPED, the kernel holds no lock by name here");
      this.skip();
    }
    const first = await servers.listening(file);
    await rm(`${file}.lock`);
    await assertRefused(file, inUse);
    const moved = join(directory, "moved");
    await mkdir(moved);
    await rename(file, join(moved, "runlog.db"));
    await assertRefused(join(moved, "runlog.db"), inUse);
    await rename(join(moved, "runlog.db"), file);
    await first.untilReady(true);
    assert.equal(await first.append(1), 2);
  });

  it("is given up, in one line, by who finds that another process got around all locks", async function () {
    // In a network of its own the lock by name is another one, as in another container.
    const apart = ["unshare", "-n"];
    const { status } = spawnSync(apart[0]!, [...apart.slice(1), "true"]);
    if (status !== 0) {
      if (process.env["CI"]) assert.fail("unshare does not work");
      console.warn("SKIPPED, unshare does not work");
      this.skip();
    }
    const first = await servers.listening(file);
    assert.equal(await first.append(1), 2);
    await rm(`${file}.lock`);
    // It opens the journal; whether there is something to listen on does not matter.
    await servers.start(file, { under: apart });
    const ended = await first.process.ended;
    assertFailed(ended, /^runlog: another runlog process has opened .*runlog\.db: this one ends/);
    await servers.endAll();
    const next = await servers.listening(file);
    assert.deepEqual(await next.payloads(), ["1"]);
    assert.equal(await next.append(2), 3);
  });

  it("is read again where a tool has written to it, and seqs go on behind that", async () => {
    const first = await servers.listening(file);
    assert.equal(await first.append(1), 2);
    const tool = new Database(file);
    tool.exec("UPDATE namespaces SET last_seq = last_seq + 10, version = version + 1");
    tool.close();
    assert.equal(await first.append(2), 13);
    assert.equal(await first.append(3), 14);
  });
});
