/** Keeps lineages between commits; they never change, unless the database goes back. */
import { readLineage } from "./runs.ts";
import type { Db } from "./schema.ts";

/** Lineages kept; one costs a reference per ancestor. */
const maxLineages = 100_000;

/** The ids of runs and their ancestors, by the runs' keys. */
export class LineageCache {
  readonly #lineages = new Map<string, readonly string[]>();

  /** The database went back in time: other runs may have these keys now. */
  clear(): void {
    this.#lineages.clear();
  }

  /** Reads the lineage of a run that is visible to `tx`; index 0 is the run itself. */
  async get(tx: Db, namespaceId: number, runKey: number): Promise<readonly string[]> {
    const key = `${namespaceId}/${runKey}`;
    const known = this.#lineages.get(key);
    if (known !== undefined) return known;
    const lineage = await readLineage(tx, namespaceId, runKey);
    if (this.#lineages.size >= maxLineages) this.#lineages.clear();
    this.#lineages.set(key, lineage);
    return lineage;
  }
}
