import assert from "node:assert/strict";
import { mkdtemp, rm, stat } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import Database from "better-sqlite3";
import { sql } from "kysely";
import type { Journal } from "../../src/journal/journal.ts";
import { openJournal } from "../../src/journal/open.ts";
import { defaultLimits } from "../../src/limits.ts";

const MiB = 2 ** 20;

describe("the write-ahead log of a SQLite journal", () => {
  let directory: string;
  let file: string;
  let journal: Journal;

  beforeEach(async () => {
    directory = await mkdtemp(join(tmpdir(), "runlog-log-size-"));
    file = join(directory, "runlog.db");
    journal = await openJournal(`sqlite:${file}`, defaultLimits);
  });

  afterEach(async () => {
    await journal.close();
    await rm(directory, { recursive: true });
  });

  const logBytes = async () => (await stat(`${file}-wal`)).size;
  const write = (bytes: number) =>
    journal.write((tx) => sql`update filler set bytes = randomblob(${bytes})`.execute(tx));

  it("that a long reader made grow gives its space back once the reader has ended", async () => {
    await journal.write((tx) => sql`create table filler as select null as bytes`.execute(tx));
    const reader = new Database(file, { readonly: true });
    try {
      // What it sees stays in the database, so that nothing written later can be moved there.
      reader.exec("begin");
      reader.prepare("select count(*) from filler").get();
      for (let count = 0; count < 10; count++) await write(8 * MiB);
      assert.ok((await logBytes()) > 80 * MiB, "the reader does not hold the log");
      reader.exec("commit");
    } finally {
      reader.close();
    }
    // The first one moves the log into the database, the second one begins the log anew.
    await write(1);
    await write(2);
    assert.equal(await logBytes(), 64 * MiB);
  });
});
