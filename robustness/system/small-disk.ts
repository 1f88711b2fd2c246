/** A file system with little room, in memory. */
import { execFile } from "node:child_process";
import { promisify } from "node:util";

const run = promisify(execFile);

/** Whether this process may mount file systems. */
export const canMount = process.platform === "linux" && process.getuid?.() === 0;

/** Mounts one; the function that is returned takes it away again. */
export async function mountSmallDisk(
  directory: string,
  mebibytes: number,
): Promise<() => Promise<void>> {
  await run("mount", ["-t", "tmpfs", "-o", `size=${mebibytes}m`, "tmpfs", directory]);
  return async () => {
    await run("umount", ["--lazy", directory]);
  };
}
