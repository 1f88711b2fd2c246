/** What a process and its children use. */
import { readdir, readFile } from "node:fs/promises";

/** Linux counts a process's time in hundredths of a second. */
const ticksPerSecond = 100;
/** Places in /proc/PID/stat behind the program's name. */
const parentPid = 1;
const userTime = 11;
const systemTime = 12;
/** Of children that have ended. */
const endedUserTime = 13;
const endedSystemTime = 14;

/** Milliseconds of CPU that a process and its children have used, those that have ended included; needs Linux. */
export async function treeCpuMs(pid: number): Promise<number> {
  const pids = (await readdir("/proc")).map(Number).filter((one) => one > 0);
  const times = pids.map(async (one) => {
    const fields = await statOf(one);
    if (fields === undefined) return 0;
    if (one !== pid && fields[parentPid] !== pid) return 0;
    return (
      fields[userTime]! +
      fields[systemTime]! +
      (one === pid ? fields[endedUserTime]! + fields[endedSystemTime]! : 0)
    );
  });
  const ticks = (await Promise.all(times)).reduce((sum, one) => sum + one, 0);
  return (ticks / ticksPerSecond) * 1_000;
}

/** The numbers that the kernel tells of a process; undefined where it has ended meanwhile. */
async function statOf(pid: number): Promise<number[] | undefined> {
  try {
    const text = await readFile(`/proc/${pid}/stat`, "utf8");
    return text
      .slice(text.lastIndexOf(")") + 2)
      .split(" ")
      .map(Number);
  } catch {
    return undefined;
  }
}
