/** Namespaces as those who look after them see them. */
import type { Committer } from "../ingest/committer.ts";
import type { Journal } from "../journal/journal.ts";
import {
  insertNamespace,
  listNamespaces,
  lockNamespace,
  type NamespaceRow,
  updateNamespace,
} from "../journal/namespaces.ts";
import { findEarliestSeqs } from "../journal/trees.ts";

/** A namespace with what is not in its row. */
export interface NamespaceView {
  readonly row: NamespaceRow;
  /** Oldest seq that can be read; one after the newest where nothing is left. */
  readonly earliestSeq: number;
}

/** A page of namespaces, by name. */
export interface NamespaceListPage {
  readonly namespaces: readonly NamespaceView[];
  /** afterName of the next page; undefined on the last one. */
  readonly nextAfterName: string | undefined;
}

/** Lists the namespaces after a name, a page at a time. */
export async function readNamespaces(
  journal: Journal,
  afterName: string,
  pageSize: number,
): Promise<NamespaceListPage> {
  const rows = await listNamespaces(journal.scans, afterName, pageSize + 1);
  const namespaces = await viewsOf(journal, rows.slice(0, pageSize));
  const last = rows.length > pageSize ? namespaces.at(-1) : undefined;
  return { namespaces, nextAfterName: last?.row.name };
}

/**
 * Sets how long a namespace keeps its trees once they have ended; one that does
 * not exist is created, so that it can be set up before its first run.
 *
 * @param retentionMs milliseconds; null keeps them for ever
 */
export async function setRetention(
  journal: Journal,
  committer: Committer,
  name: string,
  retentionMs: number | null,
  nowMs: number,
): Promise<NamespaceView> {
  const row = await committer.alone(name, async (tx) => {
    await insertNamespace(tx, name, nowMs);
    const locked = await lockNamespace(tx, name);
    if (locked === undefined) throw new Error(`namespace ${name} was not created`);
    await updateNamespace(tx, locked.namespace_id, { retention_ms: retentionMs });
    return { ...locked, retention_ms: retentionMs };
  });
  const [view] = await viewsOf(journal, [row]);
  return view!;
}

async function viewsOf(journal: Journal, rows: readonly NamespaceRow[]): Promise<NamespaceView[]> {
  const earliest = await findEarliestSeqs(
    journal.scans,
    rows.map((row) => row.namespace_id),
  );
  return rows.map((row) => {
    return { row, earliestSeq: earliest.get(row.namespace_id) ?? row.last_seq + 1 };
  });
}
