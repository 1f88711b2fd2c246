import { inputFormat } from "../journal/formats.ts";
import type { Journal } from "../journal/journal.ts";
import { LineageCache } from "../journal/lineage-cache.ts";
import type { NodeIdentity } from "../journal/nodes.ts";
import type { Limits } from "../limits.ts";
import {
  type CommitResult,
  type Committed,
  commitGroup,
  type PipelinedCommit,
  pipelineCommit,
} from "./commit.ts";
import type { Operation } from "./operation.ts";
import { RunCache } from "./run-cache.ts";

/** What groups are written with. */
export interface CommitGroupWriterOptions {
  readonly journal: Journal;
  readonly limits: Pick<Limits, "defaultLeaseMs" | "maxPendingSignals">;
  readonly node: NodeIdentity;
  /** Milliseconds since 1970. */
  readonly now: () => number;
  /**
   * Called when a namespace's newest record_time is ahead of `now`: it stands still,
   * since it never goes back, until the clock is there again.
   */
  readonly onTimeAhead?: ((namespace: string, aheadMs: number) => void) | undefined;
}

/**
 * Writes groups of operations, with what is known from the groups before: what a
 * commit has left need not be read for the next one. On a database that takes a
 * group in one go, the next one is pipelined before that is answered.
 *
 * Of one namespace, one thing is done at a time.
 */
export class CommitGroupWriter {
  readonly #options: CommitGroupWriterOptions;
  readonly #lineages = new LineageCache();
  readonly #cache = new RunCache();

  constructor(options: CommitGroupWriterOptions) {
    this.#options = options;
    options.journal.history.onBack(() => {
      this.#cache.clear();
      this.#lineages.clear();
    });
  }

  /**
   * Sends a group to be written in one go, if that can be; told by `isWritten`.
   *
   * @param before the group that was pipelined last and is not known to be written
   */
  async send(
    namespace: string,
    operations: readonly Operation[],
    before: PipelinedCommit | undefined,
  ): Promise<PipelinedCommit | undefined> {
    const known = this.#cache.namespace(namespace);
    if (before !== undefined && !canFollow(operations, before, known)) return undefined;
    const pipelined = await pipelineCommit(
      this.#options.journal,
      known,
      operations,
      this.#settings(),
    );
    if (pipelined === undefined) return undefined;
    const { history } = this.#options.journal;
    // Where it fails, that is looked at when it is its turn.
    pipelined.isWritten.then(
      (isWritten) => {
        if (isWritten) history.note(pipelined.committed.result.namespace);
      },
      () => undefined,
    );
    this.#keep(pipelined.committed.result);
    return pipelined;
  }

  /**
   * Writes a group in a transaction.
   *
   * @param withinMs milliseconds that it may take, waiting for locks included
   * @throws RefusedError journal_unavailable where the database failed
   */
  async write(
    namespace: string,
    operations: readonly Operation[],
    withinMs: number,
  ): Promise<Committed> {
    const { journal } = this.#options;
    const committed = await journal.write((tx) => {
      // Looked up by each try: what another one found out may not hold any more.
      const known =
        journal.notifications === undefined ? this.#cache.namespace(namespace) : undefined;
      const settings = { ...this.#settings(), known, history: journal.history };
      return commitGroup(tx, namespace, operations, settings);
    }, withinMs);
    if (committed.result !== undefined) {
      journal.history.note(committed.result.namespace);
      this.#keep(committed.result);
    }
    return committed;
  }

  /** Forgets a namespace that has changed, or may have, or whose pipelined group was not written. */
  forget(namespace: string): void {
    this.#cache.forget(namespace);
  }

  /** Namespaces that are kept. */
  get knownNamespaces(): number {
    return this.#cache.count;
  }

  /** Drops what no commit has used since the call before. */
  dropIdle(): void {
    this.#cache.dropIdle();
    this.#lineages.dropIdle();
  }

  /** Forgets everything: any namespace may have changed. */
  forgetAll(): void {
    this.#cache.clear();
    this.#lineages.clear();
  }

  #keep({ namespace, runs, records }: CommitResult): void {
    const { now, onTimeAhead } = this.#options;
    if (onTimeAhead !== undefined && records.length > 0) {
      const aheadMs = namespace.last_time_ms - now();
      if (aheadMs > 0) onTimeAhead(namespace.name, aheadMs);
    }
    this.#cache.keep(namespace, runs);
  }

  #settings() {
    const { now, limits, node, journal } = this.#options;
    return {
      lineages: this.#lineages,
      cache: this.#cache,
      nowMs: now(),
      defaultLeaseMs: limits.defaultLeaseMs,
      maxPendingSignals: limits.maxPendingSignals,
      takesInput: journal.format.active >= inputFormat,
      nodeKey: node.nodeKey,
    };
  }
}

/**
 * Whether a group can be decided on what the one before it leaves. Where the
 * namespace is known otherwise, that one has to be decided anew first. What else
 * than events becomes of a producer, it learns once that is durable; and nobody
 * else takes a run whose events may have to be pipelined again.
 */
function canFollow(
  operations: readonly Operation[],
  { committed: { result, outcomes } }: PipelinedCommit,
  known: CommitResult["namespace"] | undefined,
): boolean {
  return (
    known === result.namespace &&
    outcomes.every(({ t }) => t === "durable") &&
    operations.every(({ kind }) => kind === "append" || kind === "finish")
  );
}
