/** Every backend on which the suites of the domain run. */
import { mkdtemp, rm, stat } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { sql } from "kysely";
import type { Journal } from "../../src/journal/journal.ts";
import { openJournal } from "../../src/journal/open.ts";

/** A journal of a test's own. */
export interface TestJournal {
  readonly journal: Journal;
  /** Bytes that it takes on the disk. */
  sizeBytes(): Promise<number>;
  /** Closes it and opens it again, as a restart does. */
  reopen(): Promise<TestJournal>;
  /** Closes it and removes what it stored. */
  remove(): Promise<void>;
}

async function openSqlite(directory: string): Promise<TestJournal> {
  const journal = await openJournal(`sqlite:${join(directory, "journal.db")}`, {
    lockTimeoutMs: 1_000,
  });
  return {
    journal,
    async sizeBytes() {
      // What was committed is in the log until it is written back.
      await sql`pragma wal_checkpoint(truncate)`.execute(journal.db);
      return (await stat(join(directory, "journal.db"))).size;
    },
    async reopen() {
      await journal.close();
      return openSqlite(directory);
    },
    async remove() {
      await journal.close();
      await rm(directory, { recursive: true });
    },
  };
}

const backends: Readonly<Record<string, () => Promise<TestJournal>>> = {
  async SQLite() {
    return openSqlite(await mkdtemp(join(tmpdir(), "runlog-test-")));
  },
};

/** Runs a suite over every backend; `open` makes a new journal. */
export function describeJournal(
  name: string,
  suite: (open: () => Promise<TestJournal>) => void,
): void {
  for (const [backend, open] of Object.entries(backends)) {
    describe(`${name} on ${backend}`, () => {
      suite(open);
    });
  }
}
