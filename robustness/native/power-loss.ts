/**
 * What a power loss leaves of files whose changes were logged by disk.c: everything
 * that was synced, and of the rest nothing, or some pages of it.
 *
 * Invariant: each page is left as some state that it has had since the last sync, and
 * pages are independent of each other: disks write them in any order, and tear no page.
 */
import {
  closeSync,
  fstatSync,
  ftruncateSync,
  openSync,
  readdirSync,
  readFileSync,
  rmSync,
  writeSync,
} from "node:fs";
import { join } from "node:path";
import type { Random } from "../random.ts";

const pageBytes = 4096;
const recordHeadBytes = 24;
const kinds = { 1: "write", 2: "create", 3: "truncate" } as const;

/** What becomes of changes that were not synced. */
export type Unsynced = "lost" | "some pages kept";

interface UndoRecord {
  readonly kind: (typeof kinds)[keyof typeof kinds];
  readonly offset: number;
  /** Size of the file before the change. */
  readonly oldSize: number;
  /** What the change overwrote or cut off. */
  readonly old: Buffer;
}

/** Plays the undo logs of a directory back and removes them; returns how many changes were undone. */
export function losePower(undoDirectory: string, unsynced: Unsynced, random: Random): number {
  let undone = 0;
  for (const name of readdirSync(undoDirectory)) {
    const file = join(undoDirectory, name);
    const log = parseUndoLog(readFileSync(file));
    if (log !== undefined) undone += undo(log, unsynced, random);
    rmSync(file);
  }
  return undone;
}

interface UndoLog {
  readonly path: string;
  readonly records: readonly UndoRecord[];
}

/** A record that kill -9 cut off is left out: its change was not made. */
function parseUndoLog(bytes: Buffer): UndoLog | undefined {
  if (bytes.length < 4) return undefined;
  const pathBytes = bytes.readUInt32LE(0);
  const path = bytes.toString("utf8", 4, 4 + pathBytes);
  const records: UndoRecord[] = [];
  for (let at = 4 + pathBytes; at + recordHeadBytes <= bytes.length; ) {
    const kind = kinds[bytes.readUInt32LE(at) as keyof typeof kinds];
    const length = bytes.readUInt32LE(at + 4);
    const end = at + recordHeadBytes + length;
    if (kind === undefined || end > bytes.length) break;
    const offset = Number(bytes.readBigUInt64LE(at + 8));
    const oldSize = Number(bytes.readBigUInt64LE(at + 16));
    records.push({ kind, offset, oldSize, old: bytes.subarray(at + recordHeadBytes, end) });
    at = end;
  }
  return records.length === 0 ? undefined : { path, records };
}

function undo({ path, records }: UndoLog, unsynced: Unsynced, random: Random): number {
  const isWrittenOnly = records.every(({ kind }) => kind === "write");
  const syncedSize = records[0]!.oldSize;
  if (records[0]!.kind === "create" && (unsynced === "lost" || !isWrittenOnly)) {
    rmSync(path, { force: true });
    return records.length;
  }
  let fd: number;
  try {
    fd = openSync(path, "r+");
  } catch {
    return 0;
  }
  try {
    if (unsynced === "some pages kept" && isWrittenOnly) return undoPages(fd, records, random);
    for (const { kind, offset, oldSize, old } of records.toReversed()) {
      if (kind === "create") continue;
      writeSync(fd, old, 0, old.length, offset);
      ftruncateSync(fd, oldSize);
    }
    ftruncateSync(fd, syncedSize);
    return records.length;
  } finally {
    closeSync(fd);
  }
}

/**
 * Each page of what was synced goes back by its newest changes, by some, all or none; what
 * was added behind is cut somewhere. Returns the changes of pages that were undone.
 */
function undoPages(fd: number, records: readonly UndoRecord[], random: Random): number {
  const changesLeft = new Map<number, number>();
  for (const { offset, old } of records) {
    for (const page of pagesOf(offset, old.length)) {
      changesLeft.set(page, (changesLeft.get(page) ?? 0) + 1);
    }
  }
  const keptOf = new Map([...changesLeft].map(([page, all]) => [page, random.between(0, all)]));
  let undone = 0;
  for (const { offset, old } of records.toReversed()) {
    for (const page of pagesOf(offset, old.length)) {
      const change = changesLeft.get(page)!;
      changesLeft.set(page, change - 1);
      if (change <= keptOf.get(page)!) continue;
      const from = Math.max(offset, page * pageBytes);
      const to = Math.min(offset + old.length, (page + 1) * pageBytes);
      writeSync(fd, old, from - offset, to - from, from);
      undone++;
    }
  }
  const { oldSize: syncedSize, kind } = records[0]!;
  const { size } = fstatSync(fd);
  const firstPage = Math.ceil((kind === "create" ? 0 : syncedSize) / pageBytes);
  const cut = random.between(firstPage, Math.ceil(size / pageBytes)) * pageBytes;
  if (cut < size) ftruncateSync(fd, Math.max(syncedSize, cut));
  return undone + (cut < size ? 1 : 0);
}

function* pagesOf(offset: number, length: number): Generator<number> {
  if (length === 0) return;
  const last = Math.floor((offset + length - 1) / pageBytes);
  for (let page = Math.floor(offset / pageBytes); page <= last; page++) yield page;
}
