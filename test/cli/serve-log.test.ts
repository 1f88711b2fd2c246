/** The log of `runlog serve` where it cannot be written. */
import assert from "node:assert/strict";
import { type ChildProcess, spawn } from "node:child_process";
import { once } from "node:events";
import { closeSync, openSync } from "node:fs";
import { mkdtemp, rm } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { main } from "./commands.ts";

describe("runlog serve", () => {
  let directory: string;
  let child: ChildProcess | undefined;

  beforeEach(async () => {
    directory = await mkdtemp(join(tmpdir(), "runlog-log-"));
  });

  afterEach(async () => {
    if (child?.exitCode === null) child.kill("SIGKILL");
    await rm(directory, { recursive: true });
  });

  it("serves where its log's disk is full", async () => {
    const full = openSync("/dev/full", "w");
    const flags = ["--listen", "127.0.0.1:0", "--log-level", "debug"];
    const journal = `sqlite:${join(directory, "journal.db")}`;
    child = spawn(process.execPath, [main, "serve", "--journal", journal, ...flags], {
      stdio: ["ignore", "pipe", full],
    });
    closeSync(full);
    const ended = once(child, "exit");
    const [line] = (await once(child.stdout!, "data")) as [Buffer];
    const [, url] = /^listening on (\S+)\n/.exec(line.toString())!;
    assert.equal((await fetch(`${url}/healthz`)).status, 200);
    child.kill("SIGTERM");
    assert.deepEqual(await ended, [0, null]);
  });
});
