/**
 * Runs as the last commit left them, so that the next one need not read them.
 * A namespace counts the transactions that have locked it: where that is one
 * more than was seen last, nobody else has changed its runs in between.
 */
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
  version: number;
  readonly runs: Map<string, KnownRun>;
}

/** Runs of one namespace, and namespaces, that are kept; those that were used last. */
const maxRuns = 16_384;
const maxNamespaces = 64;

/** See the head of this file. */
export class RunCache {
  readonly #namespaces = new Map<number, KnownNamespace>();

  /** @param version of the namespace, as this transaction's own lock has left it */
  find(namespaceId: number, version: number, runId: string): KnownRun | undefined {
    const known = this.#namespaces.get(namespaceId);
    return known?.version === version - 1 ? known.runs.get(runId) : undefined;
  }

  /** Told how a commit has left the runs that it read, once it is durable. */
  keep(namespaceId: number, version: number, runs: Iterable<KnownRun>): void {
    let known = this.#namespaces.get(namespaceId);
    if (known === undefined) {
      known = { version, runs: new Map() };
    } else if (known.version !== version - 1) {
      known.runs.clear();
    }
    known.version = version;
    for (const run of runs) {
      known.runs.delete(run.row.run_id);
      known.runs.set(run.row.run_id, run);
    }
    dropOldest(known.runs, maxRuns);
    // Last in the map: used last.
    this.#namespaces.delete(namespaceId);
    this.#namespaces.set(namespaceId, known);
    dropOldest(this.#namespaces, maxNamespaces);
  }
}

function dropOldest(map: Map<unknown, unknown>, most: number): void {
  for (const key of map.keys()) {
    if (map.size <= most) return;
    map.delete(key);
  }
}
