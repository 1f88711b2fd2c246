/** Disks that fail, for a while. */
import { appendFile, rm } from "node:fs/promises";
import { join } from "node:path";
import type { DiskFailure } from "../native/control.ts";
import type { Nemesis } from "./nemesis.ts";

/** A nemesis that makes operations of the journal's files fail, and then no longer. */
function failing(name: string, what: string, failures: readonly DiskFailure[]): Nemesis {
  return {
    name,
    what,
    journal: "sqlite",
    hits: ["disk"],
    mayEnd: true,
    async strike({ disk: { control } }, { random, wait, isAlone, found }) {
      const before = control.counts.failures;
      // All of them, or some.
      const permille = random.pick([1000, 300]);
      for (const failure of failures) control.fail({ ...failure, permille });
      await wait(800, 4_000);
      control.heal();
      if (isAlone && control.counts.failures === before) {
        found("the fault was made", `${name} hit nothing`);
      }
    },
  };
}

/** Failing disks, by how they fail. */
export const diskFailures: readonly Nemesis[] = [
  failing("eio-writes", "writes of the journal's files fail with EIO", [
    { of: "write", error: "EIO" },
  ]),
  failing("eio-syncs", "syncs of the journal's files fail with EIO", [
    { of: "sync", error: "EIO" },
  ]),
  failing("no-space", "writes fail with ENOSPC", [{ of: "write", error: "ENOSPC" }]),
  failing("read-only-disk", "writes and opens for writing fail with EROFS", [
    { of: "write", error: "EROFS" },
    { of: "open", error: "EROFS" },
  ]),
];

/** Slow syncs. */
export const slowSyncs: Nemesis = {
  name: "slow-syncs",
  what: "each sync takes up to a second longer",
  journal: "sqlite",
  hits: ["disk"],
  async strike({ disk: { control } }, { random, wait }) {
    control.slowSyncs(random.between(100, 1_000));
    await wait(2_000, 5_000);
    control.heal();
  },
};

/** A disk that is really full. */
export const fullDisk: Nemesis = {
  name: "full-disk",
  what: "the journal's small file system is filled up, and emptied again",
  journal: "sqlite",
  hits: ["disk"],
  needs: { smallDiskMiB: 96 },
  mayEnd: true,
  async strike({ disk: { directory } }, { wait }) {
    await fillFor(directory, 96, () => wait(1_000, 4_000));
  },
};

/** The same under PostgreSQL. */
export const postgresFullDisk: Nemesis = {
  name: "postgres-full-disk",
  what: "the file system of PostgreSQL is filled up, and emptied again",
  journal: "postgres",
  hits: ["database"],
  needs: { smallDiskMiB: 200 },
  async strike({ database: { primary, directory } }, { wait }) {
    if (directory === undefined) return;
    await fillFor(directory, 200, () => wait(1_000, 4_000));
    // Where its log of changes did not fit it has ended, as it does; an operator starts it again.
    if (primary.pid === undefined || !isRunning(primary.pid)) await primary.start();
  },
};

async function fillFor(directory: string, mebibytes: number, wait: () => Promise<void>) {
  const filler = join(directory, "filler");
  await appendFile(filler, Buffer.alloc(mebibytes * 2 ** 20)).catch((error: unknown) => {
    if ((error as NodeJS.ErrnoException).code !== "ENOSPC") throw error;
  });
  await wait();
  await rm(filler);
}

function isRunning(pid: number): boolean {
  try {
    process.kill(pid, 0);
    return true;
  } catch {
    return false;
  }
}
