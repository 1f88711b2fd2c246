/**
 * Group commit: what arrives for a namespace while a commit is under way goes
 * into the next one. Operations of one namespace are decided in the order in
 * which they were submitted; an outcome is given only after the commit that
 * holds it.
 */
import type { CommittedRecord } from "../journal/committed-record.ts";
import type { Journal } from "../journal/journal.ts";
import { LineageCache } from "../journal/lineage-cache.ts";
import type { Limits } from "../limits.ts";
import { type Committed, commitGroup } from "./commit.ts";
import type { Operation, Outcome, Producer } from "./operation.ts";

/** What the committer works with. */
export interface CommitterOptions {
  readonly journal: Journal;
  readonly limits: Pick<Limits, "maxCommitBytes" | "maxCommitOps">;
  /** Milliseconds since 1970. */
  readonly now: () => number;
  /** Told after each commit, in seq order and before the outcomes are given. */
  readonly onCommitted: (namespace: string, records: readonly CommittedRecord[]) => void;
  /** Told after a commit that failed: whether it is durable is unknown. */
  readonly onUncertain: (namespace: string) => void;
}

/** Who asked for an operation; one of the two is called once, in the order of the operations. */
export interface Asker {
  /** Called after the commit. */
  readonly onOutcome: (outcome: Outcome) => void;
  /** Called where the database failed, with RefusedError journal_unavailable for one. */
  readonly onFailure: (error: unknown) => void;
}

interface Waiting {
  readonly operation: Operation;
  readonly asker: Asker;
}

/** One namespace's queue; `running` is the loop that empties it. */
interface Lane {
  readonly waiting: Waiting[];
  running: Promise<void> | undefined;
}

/** Takes operations and commits them in groups. */
export class Committer {
  readonly #options: CommitterOptions;
  readonly #lineages = new LineageCache();
  readonly #lanes = new Map<string, Lane>();
  /** Who holds which run, as far as this process knows. */
  readonly #holders = new Map<string, Producer>();

  constructor(options: CommitterOptions) {
    this.#options = options;
  }

  /** Queues an operation. A refusal is an outcome, not a failure. */
  enqueue(operation: Operation, asker: Asker): void {
    let lane = this.#lanes.get(operation.namespace);
    if (lane === undefined) {
      lane = { waiting: [], running: undefined };
      this.#lanes.set(operation.namespace, lane);
    }
    lane.waiting.push({ operation, asker });
    lane.running ??= this.#run(operation.namespace, lane);
  }

  /**
   * Queues an operation and waits for its outcome.
   *
   * @throws RefusedError journal_unavailable where the database failed; whether
   *   the operation took effect is then unknown, and it may be submitted again
   */
  submit(operation: Operation): Promise<Outcome> {
    return new Promise((onOutcome, onFailure) => {
      this.enqueue(operation, { onOutcome, onFailure });
    });
  }

  /** Forgets a producer whose stream has ended. */
  release(namespace: string, producer: Producer): void {
    const key = holderKey(namespace, producer.runId);
    if (this.#holders.get(key) === producer) this.#holders.delete(key);
  }

  /** Resolves when nothing is queued any more. */
  async idle(): Promise<void> {
    for (const lane of this.#lanes.values()) await lane.running;
  }

  async #run(namespace: string, lane: Lane): Promise<void> {
    while (lane.waiting.length > 0) {
      // One turn of the event loop, so that frames which have arrived by now
      // join this commit instead of the next one.
      await new Promise<void>((resolve) => setImmediate(resolve));
      const group = this.#take(lane);
      try {
        await this.#commit(namespace, group);
      } catch (error) {
        this.#options.onUncertain(namespace);
        for (const { asker } of group) asker.onFailure(error);
      }
    }
    this.#lanes.delete(namespace);
  }

  #take(lane: Lane): Waiting[] {
    const { maxCommitBytes, maxCommitOps } = this.#options.limits;
    let bytes = 0;
    let count = 0;
    while (count < lane.waiting.length && count < maxCommitOps) {
      const { operation } = lane.waiting[count]!;
      bytes += operation.kind === "append" ? operation.bytes : 0;
      if (count > 0 && bytes > maxCommitBytes) break;
      count++;
    }
    return lane.waiting.splice(0, count);
  }

  async #commit(namespace: string, group: readonly Waiting[]): Promise<void> {
    const { journal, now, onCommitted } = this.#options;
    const operations = group.map((waiting) => waiting.operation);
    const committed: Committed = await journal.write((tx) =>
      commitGroup(tx, namespace, operations, this.#lineages, now()),
    );
    if (committed.records.length > 0) onCommitted(namespace, committed.records);
    for (let index = 0; index < group.length; index++) {
      const { operation, asker } = group[index]!;
      const outcome = committed.outcomes[index]!;
      this.#apply(operation, outcome);
      asker.onOutcome(outcome);
    }
  }

  #apply(operation: Operation, outcome: Outcome): void {
    if (operation.kind === "create") return;
    const { producer } = operation;
    if (outcome.t === "refused") producer.reject(outcome.refusal);
    if (operation.kind !== "open" || outcome.t !== "opened") return;
    producer.epoch = outcome.epoch;
    const key = holderKey(operation.namespace, producer.runId);
    const before = this.#holders.get(key);
    this.#holders.set(key, producer);
    if (before?.owner !== producer.owner)
      before?.reject({ reason: "fenced", epoch: outcome.epoch });
  }
}

function holderKey(namespace: string, runId: string): string {
  return `${namespace}\n${runId}`;
}
