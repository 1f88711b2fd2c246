/** Namespaces as those who look after them see them. */
import type { Journal } from "../journal/journal.ts";
import {
  insertNamespace,
  listNamespaces,
  type NamespaceRow,
  setNamespaceRetention,
} from "../journal/namespaces.ts";
import type { Db } from "../journal/schema.ts";
import { findEarliestSeqs } from "../journal/trees.ts";

/** A namespace with figures that are not in its row. */
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

/**
 * Lists the namespaces after a name, a page at a time.
 *
 * @param only the names that may be listed; undefined: all
 */
export async function readNamespaces(
  journal: Journal,
  afterName: string,
  pageSize: number,
  only?: readonly string[],
): Promise<NamespaceListPage> {
  const rows = await listNamespaces(journal.scans, afterName, pageSize + 1, only);
  const namespaces = await viewsOf(journal, rows.slice(0, pageSize));
  const last = rows.length > pageSize ? namespaces.at(-1) : undefined;
  return { namespaces, nextAfterName: last?.row.name };
}

/**
 * The names of the namespaces, in order, at most `limit`.
 *
 * @param only those that may be listed; undefined: all
 */
export async function readNamespaceNames(
  journal: Journal,
  limit: number,
  only: readonly string[] | undefined,
): Promise<readonly string[]> {
  if (only?.length === 0) return [];
  const rows = await listNamespaces(journal.scans, "", limit, only);
  return rows.map(({ name }) => name);
}

/** Namespaces whose retention one transaction sets: some milliseconds of the database. */
const settingsPerCommit = 64;

/** A retention that waits to be set. */
interface Setting {
  readonly name: string;
  /** Milliseconds; null keeps trees for ever. */
  readonly retentionMs: number | null;
  readonly nowMs: number;
  readonly settled: PromiseWithResolvers<NamespaceView>;
}

/**
 * Sets how long namespaces keep their trees once they have ended. What is asked for
 * while a commit is under way goes into the next one, so that hundreds of settings
 * do not hold up everybody's commits for one of the disk's each.
 */
export class RetentionSettings {
  readonly #journal: Journal;
  readonly #waiting: Setting[] = [];
  #isWriting = false;

  constructor(journal: Journal) {
    this.#journal = journal;
  }

  /**
   * Sets a namespace's retention; one that does not exist is created, so that it
   * can be set up before its first run.
   *
   * @param retentionMs milliseconds; null keeps trees for ever
   * @throws RefusedError journal_unavailable where the database failed
   */
  set(name: string, retentionMs: number | null, nowMs: number): Promise<NamespaceView> {
    const settled = Promise.withResolvers<NamespaceView>();
    this.#waiting.push({ name, retentionMs, nowMs, settled });
    if (!this.#isWriting) void this.#writeAll();
    return settled.promise;
  }

  /** Never rejects: each caller gets the error. */
  async #writeAll(): Promise<void> {
    this.#isWriting = true;
    while (this.#waiting.length > 0) {
      const some = this.#waiting.splice(0, settingsPerCommit);
      try {
        const rows = await this.#journal.write((tx) => writeSettings(tx, some));
        const views = await viewsOf(this.#journal, rows);
        for (const [index, { settled }] of some.entries()) settled.resolve(views[index]!);
      } catch (error) {
        for (const { settled } of some) settled.reject(error);
      }
    }
    this.#isWriting = false;
  }
}

async function writeSettings(tx: Db, settings: readonly Setting[]): Promise<NamespaceRow[]> {
  // In the order of their names, as every node does it: none waits for another in a circle.
  const order = settings.toSorted((a, b) => (a.name < b.name ? -1 : Number(a.name > b.name)));
  const rows = new Map<Setting, NamespaceRow>();
  for (const setting of order) {
    const { name, retentionMs, nowMs } = setting;
    await insertNamespace(tx, name, nowMs);
    rows.set(setting, await setNamespaceRetention(tx, name, retentionMs));
  }
  return settings.map((setting) => rows.get(setting)!);
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
