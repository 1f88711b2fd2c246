import { findAsked } from "../journal/cancellations.ts";
import type { Journal } from "../journal/journal.ts";
import type { HolderCounts, NamespaceRow } from "../journal/namespaces.ts";
import { findHeldElsewhere, type NodeIdentity } from "../journal/nodes.ts";
import { findSignalled } from "../journal/signals.ts";
import type { Committer } from "./committer.ts";

/** What the watch works with. */
export interface TakeoverWatchOptions {
  readonly journal: Journal;
  readonly committer: Committer;
  readonly node: NodeIdentity;
  /** Called when a read of the journal failed; the next look tries again. */
  readonly onFailure: (error: unknown) => void;
}

/** What producers of a namespace know. */
interface Told {
  counts: HolderCounts;
  /** The namespace's last known state. */
  newest: NamespaceRow | undefined;
  telling: Promise<void> | undefined;
}

/** Runs that were asked to stop, or have signals, of which one query tells. */
const pageRuns = 500;

const none: HolderCounts = { cancel_count: 0, taken_count: 0, signal_count: 0 };

/**
 * Tells producers that are connected here about changes to their runs at other
 * nodes: that somebody asked for them to stop, sent them a signal, or opened them
 * anew. The namespace counts all of it, so nothing is looked for while nothing
 * happens, and no wake-up that is lost keeps it from them.
 */
export class TakeoverWatch {
  readonly #options: TakeoverWatchOptions;
  readonly #told = new Map<string, Told>();
  #isStopped = false;

  constructor(options: TakeoverWatchOptions) {
    this.#options = options;
  }

  /** Told how a namespace is now. */
  onRow(row: NamespaceRow): void {
    const told = this.#toldOf(row.name);
    told.newest = row;
    if (told.telling !== undefined || !isBehind(told.counts, row)) return;
    told.telling = this.#tellUp(told)
      .catch((error: unknown) => {
        if (!this.#isStopped) this.#options.onFailure(error);
      })
      .finally(() => {
        told.telling = undefined;
      });
  }

  /**
   * A producer has opened a run: changes between its commit and now may
   * have been noticed before there was somebody to tell.
   *
   * @param counts as they were in that commit
   */
  onOpened(namespace: string, counts: HolderCounts): void {
    this.#lower(this.#toldOf(namespace), counts);
  }

  /** Namespaces whose producers it tells. */
  get count(): number {
    return this.#told.size;
  }

  /** Drops the namespaces in which this node holds no run any more. */
  dropIdle(): void {
    for (const [namespace, { telling }] of this.#told) {
      if (telling === undefined && !this.#options.committer.holdsRunsIn(namespace)) {
        this.#told.delete(namespace);
      }
    }
  }

  /** The database went back in time: checks all producers of a namespace again. */
  onBack(namespace: string): void {
    const told = this.#told.get(namespace);
    if (told === undefined) return;
    told.counts = none;
    told.newest = undefined;
    this.#options.committer.checkHolders(namespace);
  }

  /** Resolves when nobody is being told any more. */
  async stop(): Promise<void> {
    this.#isStopped = true;
    await Promise.all([...this.#told.values()].flatMap(({ telling }) => telling ?? []));
  }

  #toldOf(namespace: string): Told {
    let told = this.#told.get(namespace);
    if (told === undefined) {
      told = { counts: none, newest: undefined, telling: undefined };
      this.#told.set(namespace, told);
    }
    return told;
  }

  #lower(told: Told, { cancel_count, taken_count, signal_count }: HolderCounts): void {
    told.counts = {
      signal_count: Math.min(told.counts.signal_count, signal_count),
      cancel_count: Math.min(told.counts.cancel_count, cancel_count),
      taken_count: Math.min(told.counts.taken_count, taken_count),
    };
  }

  /** Tells producers about changes until now; one look at a time. */
  async #tellUp(told: Told): Promise<void> {
    for (;;) {
      const { counts, newest } = told;
      if (this.#isStopped || newest === undefined || !isBehind(counts, newest)) return;
      told.counts = newest;
      try {
        await this.#tell(newest, counts);
      } catch (error) {
        this.#lower(told, counts);
        throw error;
      }
    }
  }

  async #tell(
    row: NamespaceRow,
    { cancel_count, taken_count, signal_count }: HolderCounts,
  ): Promise<void> {
    const { journal, committer, node } = this.#options;
    const { name, namespace_id: namespaceId } = row;
    if (row.signal_count > signal_count) await this.#tellOfSignals(row);
    if (row.taken_count > taken_count) {
      const runIds = committer.heldRunIds(name);
      const elsewhere = await findHeldElsewhere(journal.db, namespaceId, runIds, node.nodeKey);
      committer.checkHolders(name, elsewhere);
    }
    if (row.cancel_count <= cancel_count) return;
    for (let afterKey: number | undefined = 0; afterKey !== undefined && !this.#isStopped; ) {
      const page = await findAsked(journal.scans, namespaceId, node.nodeKey, afterKey, pageRuns);
      for (const { run_id: runId, cancel_reason: reason } of page) {
        committer.holderOf(name, runId)?.cancelNoticed(reason ?? "");
      }
      afterKey = page.length < pageRuns ? undefined : page.at(-1)?.run_key;
    }
  }

  async #tellOfSignals({ name, namespace_id: namespaceId }: NamespaceRow): Promise<void> {
    const { journal, committer, node } = this.#options;
    for (let afterKey: number | undefined = 0; afterKey !== undefined && !this.#isStopped; ) {
      const page = await findSignalled(journal.db, namespaceId, node.nodeKey, afterKey, pageRuns);
      for (const { run_id: runId, last_signal_seq: lastSignalSeq } of page) {
        committer.holderOf(name, runId)?.signalled(lastSignalSeq);
      }
      afterKey = page.length < pageRuns ? undefined : page.at(-1)?.run_key;
    }
  }
}

/** Whether something has been done since; answers of the database may overtake each other. */
function isBehind(told: HolderCounts, now: HolderCounts): boolean {
  return (
    now.cancel_count > told.cancel_count ||
    now.taken_count > told.taken_count ||
    now.signal_count > told.signal_count
  );
}
