/** Every backend on which the suites of the domain run. */
import { access, constants, mkdtemp, rm, stat, statfs } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { sql } from "kysely";
import type { Journal } from "../../src/journal/journal.ts";
import { type OpenOptions, openJournal } from "../../src/journal/open.ts";
import { defaultLimits } from "../../src/limits.ts";
import { giveBackDatabase, takeDatabase } from "./postgres.ts";
import { counted } from "./quiet.ts";

const settings = { ...defaultLimits, lockTimeoutMs: 1_000 };

/** How a journal is opened again. */
type Reopening = Pick<OpenOptions, "holdFormat">;

/** A journal of a test's own. */
export interface TestJournal {
  readonly journal: Journal;
  /** Bytes that it takes on the disk. */
  sizeBytes(): Promise<number>;
  /** Closes it and opens it again, as a restart does. */
  reopen(options?: Reopening): Promise<TestJournal>;
  /** Closes it and removes what it stored. */
  remove(): Promise<void>;
}

/** Bytes that the journals of these suites take together, at most. */
const neededBytes = 1 << 30;

/** Where a journal is made that is gone with its test: in memory, where that has room. */
async function temporaryDirectory(): Promise<string> {
  const memory = "/dev/shm";
  const left = await access(memory, constants.W_OK)
    .then(() => statfs(memory))
    .then(
      ({ bavail, bsize }) => bavail * bsize,
      () => 0,
    );
  return mkdtemp(join(left >= neededBytes ? memory : tmpdir(), "runlog-test-"));
}

async function openSqlite(directory: string, options?: Reopening): Promise<TestJournal> {
  const journal = counted(
    await openJournal(`sqlite:${join(directory, "journal.db")}`, { ...settings, ...options }),
  );
  return {
    journal,
    async sizeBytes() {
      // What was committed is in the log until it is written back.
      await sql`pragma wal_checkpoint(truncate)`.execute(journal.db);
      return (await stat(join(directory, "journal.db"))).size;
    },
    async reopen(options) {
      await journal.close();
      return openSqlite(directory, options);
    },
    async remove() {
      await journal.close();
      await rm(directory, { recursive: true });
    },
  };
}

async function openPostgres(url: string, options?: Reopening): Promise<TestJournal> {
  const journal = counted(await openJournal(url, { ...settings, ...options }));
  return {
    journal,
    async sizeBytes() {
      const { rows } = await sql<{ size: number }>`
        select pg_database_size(current_database()) as size`.execute(journal.db);
      return rows[0]!.size;
    },
    async reopen(options) {
      await journal.close();
      return openPostgres(url, options);
    },
    async remove() {
      await journal.close();
      await giveBackDatabase(url);
    },
  };
}

/** A database that journals are tested on. */
export interface Backend {
  readonly name: string;
  /** Opens a new journal. */
  readonly open: () => Promise<TestJournal>;
  /** How many histories are run where SQLite runs `count`: a server takes longer for each. */
  readonly histories: (count: number) => number;
}

const backends: readonly Backend[] = [
  {
    name: "SQLite",
    open: async () => openSqlite(await temporaryDirectory()),
    histories: (count) => count,
  },
  {
    name: "PostgreSQL",
    open: async () => openPostgres(await takeDatabase()),
    histories: (count) => Math.ceil(count / 3),
  },
];

/** Runs a suite over every backend; `open` makes a new journal. */
export function describeJournal(
  name: string,
  suite: (open: Backend["open"], backend: Backend) => void,
): void {
  for (const backend of backends) {
    describe(`${name} on ${backend.name}`, () => {
      suite(backend.open, backend);
    });
  }
}
