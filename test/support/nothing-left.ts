/**
 * Fails files whose tests leave something behind: a socket, a server, a timer, a child
 * process, a thread or an open database. Each would go on in the files after it.
 */
import { readdir, readFile, readlink } from "node:fs/promises";
import { relative } from "node:path";
import { setTimeout as sleep } from "node:timers/promises";
import { fileURLToPath } from "node:url";
import { stopOwnServer } from "./postgres.ts";

/** Milliseconds for what is about to end: sockets that close, processes that were asked to. */
const graceMs = 20_000;
const pollMs = 20;
const root = fileURLToPath(new URL("../..", import.meta.url));
/** Where Linux lists the files that this process has open. */
const openFiles = "/proc/self/fd";
/** In the environment of what tests start, and of what that starts, whoever its parent is now. */
const mark = "RUNLOG_TEST_PROCESS";
process.env[mark] = `${process.pid}`;

/** The databases that are open in this process. */
async function openDatabases(): Promise<string[]> {
  const files = await readdir(openFiles).catch(() => []);
  const paths = await Promise.all(
    files.map((file) => readlink(`${openFiles}/${file}`).catch(() => "")),
  );
  return paths.filter((path) => /\.db$/.test(path));
}

/** The threads that JavaScript has started here, where Linux tells. */
async function threads(): Promise<string[]> {
  const tasks = await readdir("/proc/self/task").catch(() => []);
  const names = await Promise.all(
    tasks.map((task) => readFile(`/proc/self/task/${task}/comm`, "latin1").catch(() => "")),
  );
  return names.filter((name) => name === "WorkerThread\n").map(() => "thread");
}

/** The processes that run and descend from this one, where Linux tells. */
async function descendants(): Promise<string[]> {
  const pids = (await readdir("/proc").catch(() => [])).filter((name) => /^\d+$/.test(name));
  const found = pids.map(async (pid) => {
    const read = (file: string) => readFile(`/proc/${pid}/${file}`, "latin1").catch(() => "");
    if (!(await read("environ")).split("\0").includes(`${mark}=${process.pid}`)) return [];
    return [`process ${pid} (${(await read("cmdline")).replaceAll("\0", " ").trim()})`];
  });
  return (await Promise.all(found)).flat();
}

/** How many there are of each kind of thing that may be left. */
async function active(): Promise<Map<string, number>> {
  const counts = new Map<string, number>();
  // First what has to be waited for: Mocha's own timer of a hook begins with its first wait.
  const others = [...(await openDatabases()), ...(await threads()), ...(await descendants())];
  for (const kind of [...process.getActiveResourcesInfo(), ...others]) {
    counts.set(kind, (counts.get(kind) ?? 0) + 1);
  }
  return counts;
}

let before = new Map<string, number>();

/** What there is now and was not before the first test. */
async function leftBehind(): Promise<string[]> {
  return [...(await active())].flatMap(([kind, count]) => {
    const more = count - (before.get(kind) ?? 0);
    return more > 0 ? [`${more} × ${kind}`] : [];
  });
}

/** The files whose tests have run: one where files run in parallel. */
function filesOf({ test }: Mocha.Context): string {
  const files = test?.parent?.suites.map(({ file }) => relative(root, file ?? ""));
  return [...new Set(files)].join(", ");
}

/** Root hooks; where files run in parallel they are those of each file. */
export const mochaHooks = {
  async beforeAll(): Promise<void> {
    before = await active();
  },
  async afterAll(this: Mocha.Context): Promise<void> {
    await stopOwnServer();
    const until = performance.now() + graceMs;
    let left = await leftBehind();
    while (left.length > 0) {
      if (performance.now() > until) {
        throw new Error(`${filesOf(this)} left behind: ${left.join(", ")}`);
      }
      // Not counted itself.
      await sleep(pollMs, undefined, { ref: false });
      left = await leftBehind();
    }
  },
};
