import type { NamespaceRow } from "../journal/namespaces.ts";
import type { RunRow } from "../journal/runs.ts";

/** A run that need not be read. */
export interface KnownRun {
  readonly row: RunRow;
  /** The ids of the run and its ancestors, the root last. */
  readonly lineage: readonly string[];
  /** The run that it was forked from. */
  readonly forkRunId: string | null;
}

interface KnownNamespace {
  row: NamespaceRow;
  /** Whether somebody else had changed it before the last commit: that will be so again. */
  isShared: boolean;
  /** Whether there was a commit since dropIdle was called. */
  isRecent: boolean;
  readonly runs: Map<string, KnownRun>;
}

/** Runs of one namespace, and namespaces, that are kept; those that were used last. */
const maxRuns = 16_384;
const maxNamespaces = 64;

/**
 * Namespaces and runs as the last commit left them, so that the next one need
 * not read them. A namespace counts the transactions that have locked it: where
 * that is one more than was seen last, nobody else has changed its runs in
 * between. Where no other process can write, not even the namespace is read.
 */
export class RunCache {
  readonly #namespaces = new Map<string, KnownNamespace>();

  /** A namespace as the last commit left it; undefined where it has probably changed since. */
  namespace(name: string): NamespaceRow | undefined {
    const known = this.#namespaces.get(name);
    return known === undefined || known.isShared ? undefined : known.row;
  }

  /** @param locked the run's namespace, as this transaction's own lock has left it, and nothing else */
  run(locked: NamespaceRow, runId: string): KnownRun | undefined {
    const known = this.#namespaces.get(locked.name);
    // Another history may have as many transactions, of which not one is the same.
    const isOurs =
      known?.row.version === locked.version - 1 && known.row.append_id === locked.append_id;
    return isOurs ? known.runs.get(runId) : undefined;
  }

  /** Told how a commit has left a namespace, and those of its runs that it read, once it is durable. */
  keep(row: NamespaceRow, runs: Iterable<KnownRun>): void {
    let known = this.#namespaces.get(row.name);
    if (known === undefined) {
      known = { row, isShared: false, isRecent: true, runs: new Map() };
    } else {
      known.isShared = known.row.version !== row.version - 1;
      if (known.isShared) known.runs.clear();
    }
    known.row = row;
    known.isRecent = true;
    for (const run of runs) {
      known.runs.delete(run.row.run_id);
      known.runs.set(run.row.run_id, run);
    }
    dropOldest(known.runs, maxRuns);
    // Last in the map: used last.
    this.#namespaces.delete(row.name);
    this.#namespaces.set(row.name, known);
    dropOldest(this.#namespaces, maxNamespaces);
  }

  /** Namespaces that are kept. */
  get count(): number {
    return this.#namespaces.size;
  }

  /** Drops the namespaces without a commit since the call before. */
  dropIdle(): void {
    for (const [name, known] of this.#namespaces) {
      if (!known.isRecent) this.#namespaces.delete(name);
      known.isRecent = false;
    }
  }

  /** The database is not what it was: nothing that was kept is certain. */
  clear(): void {
    this.#namespaces.clear();
  }

  /** Forgets a namespace that has changed, or may have. */
  forget(name: string): void {
    this.#namespaces.delete(name);
  }
}

function dropOldest(map: Map<unknown, unknown>, most: number): void {
  for (const key of map.keys()) {
    if (map.size <= most) return;
    map.delete(key);
  }
}
