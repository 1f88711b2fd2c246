import assert from "node:assert/strict";
import { spawn } from "node:child_process";
import { once } from "node:events";
import { mkdtemp, readdir, rm, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { text } from "node:stream/consumers";
import { fileURLToPath } from "node:url";
import Database from "better-sqlite3";
import { connect } from "./history.ts";
import { ServerProcesses } from "./server-process.ts";

const runlog = fileURLToPath(new URL("../../src/cli/main.ts", import.meta.url));
/** Milliseconds; a command that should have been refused and serves instead is ended. */
const refusalTimeoutMs = 20_000;

describe("`runlog serve` that cannot start", () => {
  const servers = new ServerProcesses();
  let directory: string;
  let file: string;

  beforeEach(async () => {
    directory = await mkdtemp(join(tmpdir(), "runlog-start-"));
    file = join(directory, "runlog.db");
  });

  afterEach(async () => {
    await servers.endAll();
    await rm(directory, { recursive: true });
  });

  /** Asserts one line on standard error, nothing on standard output, and exit status 1. */
  async function assertOneLine(flags: readonly string[], line: RegExp): Promise<void> {
    const child = spawn(process.execPath, [runlog, "serve", ...flags], {
      stdio: ["ignore", "pipe", "pipe"],
      timeout: refusalTimeoutMs,
      killSignal: "SIGKILL",
    });
    const [stdout, stderr, [code]] = await Promise.all([
      text(child.stdout),
      text(child.stderr),
      once(child, "close"),
    ]);
    assert.equal(stdout, "");
    assert.match(stderr, /^[^\n]+\n$/, "not one line");
    assert.match(stderr, line);
    assert.equal(code, 1);
  }

  const anyPort = ["--listen", "127.0.0.1:0"];

  it("says so in one line for a journal that is no URL", async () => {
    await assertOneLine([...anyPort, "--journal", file], /write sqlite:PATH/);
  });

  it("says so in one line for a directory that does not exist", async () => {
    const path = join(directory, "missing", "runlog.db");
    await assertOneLine([...anyPort, "--journal", `sqlite:${path}`], /create it first/);
    assert.deepEqual(await readdir(directory), []);
  });

  it("says so in one line for a directory in the place of the file", async () => {
    await assertOneLine([...anyPort, "--journal", `sqlite:${directory}`], /cannot open/);
    await rm(`${directory}.lock`, { force: true });
  });

  it("says so in one line for a corrupt file", async () => {
    await writeFile(file, Buffer.alloc(9_000, "garbage "));
    await assertOneLine([...anyPort, "--journal", `sqlite:${file}`], /damaged.*restore it/);
  });

  it("says so in one line for another program's database", async () => {
    const db = new Database(file);
    db.exec("create table theirs (id integer primary key)");
    db.close();
    await assertOneLine([...anyPort, "--journal", `sqlite:${file}`], /name another/);
  });

  it("says so in one line for a journal in a newer format", async () => {
    await (await servers.start({ file })).stop();
    const db = new Database(file);
    db.exec("update journal set format = 99, min_reader = 98, min_writer = 99");
    db.close();
    await assertOneLine([...anyPort, "--journal", `sqlite:${file}`], /upgrade runlog/);
  });

  it("says so in one line for a journal or a port in use, and the server there goes on", async () => {
    const server = await servers.start({ file });
    await assertOneLine([...anyPort, "--journal", `sqlite:${file}`], /in use.*stop that process/);
    const other = join(directory, "other.db");
    const flags = ["--listen", new URL(server.url).host, "--journal", `sqlite:${other}`];
    await assertOneLine(flags, /in use/);
    const connection = connect(server.url);
    const { run } = await connection.runs.createRun({ runId: "run", spec: {} });
    assert.equal(run?.startSeq, 1n);
    connection.close();
  });
});
