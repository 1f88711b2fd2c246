/** What is read of files and processes. */
import { open, readdir, readFile, stat } from "node:fs/promises";
import { join } from "node:path";

/** Bytes in a directory and below. */
export async function bytesIn(directory: string): Promise<number> {
  const entries = await readdir(directory, { recursive: true, withFileTypes: true });
  const sizes = entries
    .filter((entry) => entry.isFile())
    .map(async (entry) => (await stat(join(entry.parentPath, entry.name))).size);
  return (await Promise.all(sizes)).reduce((sum, size) => sum + size, 0);
}

const fsyncs = 200;
const blockBytes = 4_096;

/** Milliseconds of an fdatasync after a block of 4 KiB was written, again and again. */
export async function fsyncMs(directory: string): Promise<number[]> {
  const file = await open(join(directory, "fsync"), "w");
  const block = Buffer.alloc(blockBytes, 1);
  const times: number[] = [];
  for (let i = 0; i < fsyncs; i++) {
    await file.write(block);
    const start = performance.now();
    await file.datasync();
    times.push(performance.now() - start);
  }
  await file.close();
  return times;
}

/** Linux counts a process's time in hundredths of a second. */
const ticksPerSecond = 100;
/** Places in /proc/PID/stat behind the program's name. */
const parentPid = 1;
const times = { own: [11, 12], ofEndedChildren: [13, 14] } as const;

/** What the kernel tells of a process; undefined where it has ended. */
async function statOf(pid: number): Promise<readonly number[] | undefined> {
  try {
    const text = await readFile(`/proc/${pid}/stat`, "utf8");
    const fields = text.slice(text.lastIndexOf(")") + 2).split(" ");
    return fields.map(Number);
  } catch {
    return undefined;
  }
}

function msIn(stat: readonly number[] | undefined, places: readonly number[]): number {
  const ticks = places.reduce((sum, place) => sum + (stat?.[place] ?? 0), 0);
  return (ticks / ticksPerSecond) * 1_000;
}

/** Milliseconds of CPU that a process has used; needs Linux, and the process to be there. */
export async function cpuMs(pid: number): Promise<number> {
  const stat = await statOf(pid);
  if (stat === undefined) throw new Error(`there is no process ${pid}`);
  return msIn(stat, times.own);
}

/** The same for a process and its children, those that have ended included. */
export async function treeCpuMs(pid: number): Promise<number> {
  const pids = (await readdir("/proc")).map(Number).filter((one) => one > 0 && one !== pid);
  const children = (await Promise.all(pids.map(statOf))).filter(
    (stat) => stat?.[parentPid] === pid,
  );
  const own = msIn(await statOf(pid), [...times.own, ...times.ofEndedChildren]);
  return children.reduce((sum, stat) => sum + msIn(stat, times.own), own);
}

/** KiB of memory that a process has resident; needs Linux. */
export async function residentKiB(pid: number): Promise<number> {
  const text = await readFile(`/proc/${pid}/status`, "utf8");
  return Number(/^VmRSS:\s*(\d+)/m.exec(text)?.[1]);
}
