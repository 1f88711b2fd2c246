/** Files that are read again and again, and may have become something that has no end. */
import { stat } from "node:fs/promises";

/**
 * Whether a read of a path may never end, and so keep every later one waiting: that of a FIFO
 * without a writer, or of a device. A path that is not there is for the reader to find.
 */
export async function isEndless(path: string): Promise<boolean> {
  const found = await stat(path).catch(() => undefined);
  return found !== undefined && !found.isFile() && !found.isDirectory();
}
