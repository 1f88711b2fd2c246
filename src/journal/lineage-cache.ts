/** Keeps lineages between commits; they never change, unless the database goes back. */
import { readLineage } from "./runs.ts";
import type { Db } from "./schema.ts";

/** Lineages kept; one costs a reference per ancestor. */
const maxLineages = 100_000;

type Lineages = Map<string, readonly string[]>;

/** The ids of runs and their ancestors, by the runs' keys. */
export class LineageCache {
  /** Those that were used since dropIdle was called, and those that were used before that. */
  #recent: Lineages = new Map();
  #older: Lineages = new Map();

  /** Lineages that are kept; one that was used in both periods counts twice. */
  get count(): number {
    return this.#recent.size + this.#older.size;
  }

  /** The database went back in time: other runs may have these keys now. */
  clear(): void {
    this.#recent = new Map();
    this.#older = new Map();
  }

  /** Drops the lineages that were not used since the call before. Costs the same however many there are. */
  dropIdle(): void {
    this.#older = this.#recent;
    this.#recent = new Map();
  }

  /** Reads the lineage of a run that is visible to `tx`; index 0 is the run itself. */
  async get(tx: Db, namespaceId: number, runKey: number): Promise<readonly string[]> {
    const key = `${namespaceId}/${runKey}`;
    const recent = this.#recent.get(key);
    if (recent !== undefined) return recent;
    if (this.#recent.size >= maxLineages / 2) this.dropIdle();
    // What is read before the caches are cleared must not be in them afterwards.
    const kept = this.#recent;
    const lineage = this.#older.get(key) ?? (await readLineage(tx, namespaceId, runKey));
    kept.set(key, lineage);
    return lineage;
  }
}
