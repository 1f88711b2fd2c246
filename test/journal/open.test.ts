import assert from "node:assert/strict";
import { existsSync } from "node:fs";
import { mkdir, mkdtemp, readFile, rm, truncate, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import Database from "better-sqlite3";
import { sql } from "kysely";
import type { Journal } from "../../src/journal/journal.ts";
import { openJournal } from "../../src/journal/open.ts";
import { defaultLimits } from "../../src/limits.ts";
import { JournalOpenError } from "../../src/refusal.ts";
import { ServerProcesses, StartFailure } from "../crash/server-process.ts";

describe("opening a SQLite journal", () => {
  const servers = new ServerProcesses();
  const journals: Journal[] = [];
  let directory: string;
  let file: string;

  beforeEach(async () => {
    directory = await mkdtemp(join(tmpdir(), "runlog-open-"));
    file = join(directory, "runlog.db");
  });

  afterEach(async () => {
    for (const journal of journals.splice(0)) await journal.close();
    await servers.endAll();
    await rm(directory, { recursive: true });
  });

  async function open(url = `sqlite:${file}`): Promise<Journal> {
    const journal = await openJournal(url, { ...defaultLimits, lockTimeoutMs: 100 });
    journals.push(journal);
    return journal;
  }

  /** Makes a journal that is read once and closed; all of it is in its file then. */
  async function openAndClose(): Promise<string> {
    const journal = await openJournal(`sqlite:${file}`, { ...defaultLimits, lockTimeoutMs: 100 });
    const { journal_id } = await journal.db
      .selectFrom("journal")
      .selectAll()
      .executeTakeFirstOrThrow();
    assert.equal(journal_id, journal.id);
    await journal.close();
    assert.ok(!existsSync(`${file}-wal`), "closing did not write the log back");
    return journal.id;
  }

  /** Asserts that it is refused with one line that matches. */
  async function assertRefused(url: string, line: RegExp): Promise<void> {
    await assert.rejects(open(url), (error) => {
      assert.ok(error instanceof JournalOpenError, `it threw ${String(error)}`);
      assert.match(error.message, line);
      assert.doesNotMatch(error.message, /[\r\n]/);
      return true;
    });
  }

  /** Asserts that a refusal leaves a database as it was, to the byte, and nothing beside it. */
  async function assertRefusedUntouched(line: RegExp): Promise<void> {
    const before = await readFile(file);
    await assertRefused(`sqlite:${file}`, line);
    assert.ok(before.equals(await readFile(file)), "the refused database was changed");
    assert.ok(!existsSync(`${file}-wal`), "a write-ahead log was left beside it");
  }

  /** Changes a database behind the journal's back. */
  function tamper(change: (db: Database.Database) => void): void {
    const db = new Database(file);
    change(db);
    db.close();
  }

  for (const url of ["runlog.db", "mysql://localhost/runlog", "sqlite:", "", "SQLITE:x"]) {
    it(`refuses the URL ${JSON.stringify(url)} and says how to write one`, async () => {
      await assertRefused(url, /write sqlite:PATH/);
    });
  }

  it("refuses a path whose directory does not exist", async () => {
    await assertRefused(`sqlite:${join(directory, "missing", "runlog.db")}`, /create it first/);
    assert.ok(!existsSync(join(directory, "missing")));
  });

  it("refuses a directory", async () => {
    await mkdir(file);
    await assertRefused(`sqlite:${file}`, /cannot open/);
  });

  it("refuses a path below a file", async () => {
    await writeFile(file, "");
    await assertRefused(`sqlite:${join(file, "runlog.db")}`, /cannot open/);
  });

  it("refuses a path where nothing can be written, even by root", async function () {
    if (process.platform !== "linux") {
      console.warn("SKIPPED, there is no /proc here");
      this.skip();
    }
    await assertRefused("sqlite:/proc/runlog.db", /cannot open/);
  });

  it("answers in one line also where the path holds a line break", async () => {
    const path = join(directory, "two\nlines", "runlog.db");
    await assertRefused(`sqlite:${path}`, /create it first/);
  });

  it("refuses a file that is no database, and leaves it alone", async () => {
    await writeFile(file, Buffer.alloc(20_000, "not a database "));
    await assertRefusedUntouched(/not a database, or is damaged.*restore it/);
  });

  it("refuses a journal whose pages are garbage behind an intact header", async () => {
    await openAndClose();
    const bytes = await readFile(file);
    for (let at = 4_096; at < bytes.length; at++) bytes[at] = (at * 31) % 251;
    await writeFile(file, bytes);
    await assertRefused(`sqlite:${file}`, /is damaged.*restore it/);
  });

  it("refuses a journal that was cut short", async () => {
    await openAndClose();
    await truncate(file, 4_096 * 3);
    await assertRefused(`sqlite:${file}`, /is damaged.*restore it/);
  });

  it("opens a good file in the place of a damaged one: the refusal holds no lock", async () => {
    const journalId = await openAndClose();
    const good = await readFile(file);
    await writeFile(file, Buffer.alloc(20_000, "not a database "));
    await assertRefused(`sqlite:${file}`, /damaged/);
    await writeFile(file, good);
    assert.equal((await open()).id, journalId);
  });

  it("refuses a database with another application's id, and leaves it alone", async () => {
    tamper((db) => {
      db.pragma("application_id = 1234");
      db.exec("create table theirs (id integer primary key)");
    });
    await assertRefusedUntouched(/another program's database: name another/);
  });

  it("refuses a database with somebody else's tables, and leaves it alone", async () => {
    tamper((db) => db.exec("create table theirs (id integer primary key)"));
    await assertRefusedUntouched(/tables that are not runlog's \(theirs/);
  });

  it("refuses a journal in a newer format with a line to upgrade, and leaves it alone", async () => {
    await openAndClose();
    tamper((db) => db.exec("update journal set format = 99, min_reader = 98, min_writer = 99"));
    await assertRefusedUntouched(/is in format 99.*upgrade runlog/);
  });

  it("closes what it opened, used or not: the log is written back and gone", async () => {
    const journal = await openJournal(`sqlite:${file}`, { ...defaultLimits, lockTimeoutMs: 100 });
    await journal.close();
    assert.ok(!existsSync(`${file}-wal`), "a connection was left open");
  });

  it("keeps the journal's id over reopening, and gives each journal its own", async () => {
    const journalId = await openAndClose();
    assert.equal(await openAndClose(), journalId);
    const other = await open(`sqlite:${join(directory, "other.db")}`);
    assert.notEqual(other.id, journalId);
  });

  it("syncs every commit: synchronous is FULL and the journal mode WAL, to read and to write", async () => {
    const journal = await open();
    const settings = async (db: Journal["db"]): Promise<unknown[]> => {
      const { rows: mode } = await sql`PRAGMA journal_mode`.execute(db);
      const { rows: synchronous } = await sql`PRAGMA synchronous`.execute(db);
      return [...mode, ...synchronous];
    };
    const durable = [{ journal_mode: "wal" }, { synchronous: 2 }];
    assert.deepEqual(await settings(journal.db), durable);
    assert.deepEqual(await journal.write(settings), durable);
  });

  it("writes nothing where another connection begins to read", async () => {
    const journal = await open();
    const before = await readFile(`${file}-wal`);
    await sql`select 1`.execute(journal.scans);
    assert.ok(before.equals(await readFile(`${file}-wal`)), "the reader has written to the log");
  });

  it("refuses a database that this process has open, and opens it once that is closed", async () => {
    const first = await openJournal(`sqlite:${file}`, { ...defaultLimits, lockTimeoutMs: 100 });
    await assertRefused(`sqlite:${file}`, /in use by another runlog process/);
    await first.close();
    assert.equal((await open()).id, first.id);
  });

  it("refuses a database that another process has open, and opens it once that is killed", async () => {
    const journalId = await openAndClose();
    const holder = await servers.start({ file });
    await assertRefused(`sqlite:${file}`, /in use by another runlog process/);
    await holder.kill();
    assert.equal((await open()).id, journalId);
  });

  it("is won by one of two processes that start at once on a new file", async () => {
    for (let round = 0; round < 3; round++) {
      const path = join(directory, `round-${round}.db`);
      const starts = [servers.start({ file: path }), servers.start({ file: path })];
      const outcomes = await Promise.allSettled(starts);
      const failures = outcomes.filter((outcome) => outcome.status === "rejected");
      assert.equal(failures.length, 1);
      const { reason } = failures[0]!;
      assert.ok(reason instanceof StartFailure);
      assert.equal(reason.thrown, "JournalOpenError");
      assert.match(reason.message, /^[^\n]*in use by another runlog process[^\n]*$/);
      await servers.endAll();
    }
  });
});
