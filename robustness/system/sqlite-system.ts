/** One server on a SQLite journal, whose disk and wall clock are the rig's. */
import { mkdir, realpath } from "node:fs/promises";
import { join } from "node:path";
import type { History } from "../history/history.ts";
import { buildLibrary } from "../native/build.ts";
import { DiskControl } from "../native/control.ts";
import { ServerNode } from "./server-node.ts";
import { mountSmallDisk } from "./small-disk.ts";
import type { Needs, System } from "./system.ts";

/** Starts it; all its files are in a directory. */
export async function startSqliteSystem(
  directory: string,
  history: History,
  needs: Needs,
  maxRssBytes: number,
): Promise<System> {
  const base = await realpath(directory);
  const diskDirectory = join(base, "disk");
  const undoDirectory = join(base, "undo");
  await mkdir(diskDirectory);
  await mkdir(undoDirectory);
  const { smallDiskMiB } = needs;
  const unmount =
    smallDiskMiB === undefined ? undefined : await mountSmallDisk(diskDirectory, smallDiskMiB);
  const control = new DiskControl(join(base, "control"));
  const journalFile = join(diskDirectory, "journal.db");
  const node = new ServerNode({
    name: "node-0",
    journal: `sqlite:${journalFile}`,
    history,
    directory: base,
    maxRssBytes,
    environment: {
      LD_PRELOAD: await buildLibrary(),
      RIG_CONTROL: control.path,
      RIG_DISK: diskDirectory,
      RIG_UNDO: undoDirectory,
    },
  });
  const close = async () => {
    await node.close();
    control.close();
    await unmount?.();
  };
  try {
    await node.start();
  } catch (error) {
    await close();
    throw error;
  }
  const disk = { control, directory: diskDirectory, undoDirectory, journalFile };
  return { kind: "sqlite", nodes: [node], disk, close };
}
