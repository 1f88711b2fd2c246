/**
 * Group commit: what arrives for a namespace while a commit is under way goes
 * into the next one. Operations of one namespace are decided in the order in
 * which they were submitted; an outcome is given only after the commit that
 * holds it.
 */
import pRetry from "p-retry";
import type { CommittedRecord } from "../journal/committed-record.ts";
import type { Journal } from "../journal/journal.ts";
import { LineageCache } from "../journal/lineage-cache.ts";
import type { HolderCounts } from "../journal/namespaces.ts";
import type { NodeIdentity } from "../journal/nodes.ts";
import { RefusedError } from "../journal/refusal.ts";
import type { Db } from "../journal/schema.ts";
import type { WakeUps } from "../journal/wake-ups.ts";
import type { Limits } from "../limits.ts";
import { nextTurn } from "../turn.ts";
import { type Committed, commitGroup, commitKnown } from "./commit.ts";
import { Holders } from "./holders.ts";
import type { Leases, UnheldRun } from "./leases.ts";
import type { Operation, Outcome, Producer } from "./operation.ts";
import { RunCache } from "./run-cache.ts";

/** What the committer works with. */
export interface CommitterOptions {
  readonly journal: Journal;
  readonly limits: Pick<
    Limits,
    "maxCommitBytes" | "maxCommitOps" | "defaultLeaseMs" | "databaseWaitMs"
  >;
  readonly node: NodeIdentity;
  /** Told of runs that nobody holds. */
  readonly leases: Leases;
  /** Milliseconds since 1970. */
  readonly now: () => number;
  /**
   * Told after each commit, in the order of this process's commits and before the
   * outcomes are given.
   *
   * @param deletionCount trees of the namespace that had been deleted by then
   */
  readonly onCommitted: (
    namespace: string,
    records: readonly CommittedRecord[],
    deletionCount: number,
  ) => void;
  /** Told after a commit that failed: whether it is durable is unknown. */
  readonly onUncertain: (namespace: string) => void;
  /** Told once a producer holds a run of a namespace, with the counts of the commit that said so. */
  readonly onOpened?: ((namespace: string, counts: HolderCounts) => void) | undefined;
  /** Where other nodes have to be told something. */
  readonly wakeUps?: Pick<WakeUps, "tell"> | undefined;
}

/** Milliseconds between tries of a commit while the database is away. */
const minRetryMs = 50;
const maxRetryMs = 1_000;

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

/** Something that has a transaction for itself; never rejects. */
interface Alone {
  readonly run: () => Promise<void>;
}

/** One namespace's queue; `running` is the loop that empties it. */
interface Lane {
  readonly waiting: (Waiting | Alone)[];
  running: Promise<void> | undefined;
}

/** Takes operations and commits them in groups. */
export class Committer {
  readonly #options: CommitterOptions;
  readonly #lineages = new LineageCache();
  readonly #cache = new RunCache();
  readonly #lanes = new Map<string, Lane>();
  readonly #holders: Holders;
  readonly #stopping = new AbortController();

  constructor(options: CommitterOptions) {
    this.#options = options;
    this.#holders = new Holders(options.leases);
  }

  /** Queues an operation. A refusal is an outcome, not a failure. */
  enqueue(operation: Operation, asker: Asker): void {
    this.#queue(operation.namespace, { operation, asker });
  }

  #queue(namespace: string, one: Waiting | Alone): void {
    let lane = this.#lanes.get(namespace);
    if (lane === undefined) {
      lane = { waiting: [], running: undefined };
      this.#lanes.set(namespace, lane);
    }
    lane.waiting.push(one);
    lane.running ??= this.#run(namespace, lane);
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

  /**
   * Runs `work` in a transaction of its own, in its turn among the namespace's
   * operations: what was queued before has been committed and told, and nothing
   * that was queued after has begun.
   *
   * @param onCommitted called before the next group, with what `work` returned
   * @throws what `work` throws, and RefusedError journal_unavailable where the database failed
   */
  alone<T>(
    namespace: string,
    work: (tx: Db) => Promise<T>,
    onCommitted: (result: T) => void = () => undefined,
  ): Promise<T> {
    return new Promise((resolve, reject) => {
      const run = async () => {
        this.#cache.forget(namespace);
        try {
          const result = await this.#options.journal.write(work);
          onCommitted(result);
          this.#options.wakeUps?.tell(namespace);
          resolve(result);
        } catch (error) {
          // A refusal of `work` itself has rolled the transaction back.
          const isRefusal = error instanceof RefusedError && !isUnavailable(error);
          if (!isRefusal) this.#options.onUncertain(namespace);
          reject(error);
        }
      };
      this.#queue(namespace, { run });
    });
  }

  /** The producer that holds a run, as far as this process knows. */
  holderOf(namespace: string, runId: string): Producer | undefined {
    return this.#holders.of(namespace, runId);
  }

  /** The namespaces in which this process holds runs. */
  heldNamespaces(): Iterable<string> {
    return this.#holders.namespaces();
  }

  /** The runs of a namespace that this process holds. */
  heldRunIds(namespace: string): string[] {
    return this.#holders.in(namespace).map(({ runId }) => runId);
  }

  /** Asks whether producers still hold their runs, and tells those that do not; this node's again are those that do. */
  checkHolders(namespace: string, runIds?: readonly string[]): void {
    for (const runId of runIds ?? this.heldRunIds(namespace)) {
      const producer = this.holderOf(namespace, runId);
      if (producer === undefined) continue;
      const asker = { onOutcome: () => undefined, onFailure: () => undefined };
      this.enqueue({ kind: "check", namespace, runId, producer }, asker);
    }
  }

  /** A producer's stream has ended: the lease of what it held begins. */
  release(namespace: string, producer: Producer): void {
    this.#holders.release(namespace, producer);
  }

  /**
   * Ends a run whose lease has lapsed as LOST, unless a producer has opened it
   * since.
   *
   * @throws RefusedError journal_unavailable where the database failed
   */
  async lose({ namespace, runId, epoch }: UnheldRun): Promise<void> {
    if (this.holderOf(namespace, runId) !== undefined) return;
    await this.submit({ kind: "lose", namespace, runId, epoch });
  }

  /** Resolves when nothing is queued any more. */
  async idle(): Promise<void> {
    for (const lane of this.#lanes.values()) await lane.running;
  }

  /** Waits no longer for a database that is away; resolves when nothing is queued any more. */
  async stop(): Promise<void> {
    this.#stopping.abort();
    await this.idle();
  }

  async #run(namespace: string, lane: Lane): Promise<void> {
    while (lane.waiting.length > 0) {
      // One turn of the event loop, so that frames which have arrived by now
      // join this commit instead of the next one.
      await nextTurn();
      const [first] = lane.waiting;
      if (first !== undefined && "run" in first) {
        lane.waiting.shift();
        await first.run();
        continue;
      }
      await this.#commitOrFail(namespace, this.#take(lane));
    }
    this.#lanes.delete(namespace);
  }

  /**
   * Commits a group, again and again while the database is away: producers wait
   * meanwhile, and what a try left durable is a duplicate to the next one.
   */
  async #commitOrFail(namespace: string, taken: readonly Waiting[]): Promise<void> {
    let group = taken;
    const fail = (failed: readonly Waiting[], error: unknown) => {
      for (const { asker } of failed) asker.onFailure(error);
    };
    try {
      const { committed, operations } = await pRetry(
        async () => {
          const tried = group;
          return { committed: await this.#write(namespace, tried), operations: tried };
        },
        {
          retries: Number.POSITIVE_INFINITY,
          minTimeout: minRetryMs,
          maxTimeout: maxRetryMs,
          maxRetryTime: this.#options.limits.databaseWaitMs,
          signal: this.#stopping.signal,
          shouldRetry: ({ error }) => isUnavailable(error),
          onFailedAttempt: ({ error }) => {
            this.#cache.forget(namespace);
            this.#options.onUncertain(namespace);
            // Nobody could have opened these either: their leases begin anew.
            const isLapse = ({ operation }: Waiting) => operation.kind === "lose";
            fail(group.filter(isLapse), error);
            group = group.filter((waiting) => !isLapse(waiting));
          },
        },
      );
      this.#settle(namespace, operations, committed);
    } catch (error) {
      this.#cache.forget(namespace);
      this.#options.onUncertain(namespace);
      fail(group, this.#stopping.signal.aborted ? unavailable(error) : error);
    }
  }

  #take(lane: Lane): Waiting[] {
    const { maxCommitBytes, maxCommitOps } = this.#options.limits;
    const group: Waiting[] = [];
    let bytes = 0;
    for (const one of lane.waiting) {
      if ("run" in one || group.length === maxCommitOps) break;
      bytes += one.operation.kind === "append" ? one.operation.bytes : 0;
      if (group.length > 0 && bytes > maxCommitBytes) break;
      group.push(one);
    }
    lane.waiting.splice(0, group.length);
    return group;
  }

  async #write(namespace: string, group: readonly Waiting[]): Promise<Committed> {
    const { journal, now, limits, node } = this.#options;
    const operations = group.map((waiting) => waiting.operation);
    const settings = {
      lineages: this.#lineages,
      cache: this.#cache,
      nowMs: now(),
      defaultLeaseMs: limits.defaultLeaseMs,
      nodeKey: node.nodeKey,
    };
    const last = this.#cache.namespace(namespace);
    const atOnce = await commitKnown(journal, last, operations, settings);
    if (atOnce !== undefined) return atOnce;
    const known = journal.wakeUps === undefined ? last : undefined;
    return journal.write((tx) => commitGroup(tx, namespace, operations, { ...settings, known }));
  }

  #settle(namespace: string, group: readonly Waiting[], committed: Committed): void {
    const { onCommitted, wakeUps } = this.#options;
    const { outcomes, left } = committed;
    if (left !== undefined) {
      const { records, hasTaken } = left;
      this.#cache.keep(left.namespace, left.runs);
      if (records.length > 0) onCommitted(namespace, records, left.namespace.deletion_count);
      if (records.length > 0 || hasTaken) wakeUps?.tell(namespace);
    }
    for (let index = 0; index < group.length; index++) {
      const { operation, asker } = group[index]!;
      const outcome = outcomes[index]!;
      this.#apply(operation, outcome, left?.namespace);
      asker.onOutcome(outcome);
    }
  }

  #apply(operation: Operation, outcome: Outcome, counts: HolderCounts | undefined): void {
    const { namespace, runId } = operation;
    switch (operation.kind) {
      case "create":
        if (outcome.t !== "created" || outcome.leaseMs === undefined) return;
        if (this.#options.leases.has(namespace, runId)) return;
        this.#options.leases.start({ namespace, runId, epoch: 0, leaseMs: outcome.leaseMs });
        return;
      case "lose":
        return;
      default:
        this.#applyTo(operation.producer, operation, outcome, counts);
    }
  }

  #applyTo(
    producer: Producer,
    { namespace, kind }: Operation,
    outcome: Outcome,
    counts: HolderCounts | undefined,
  ): void {
    switch (outcome.t) {
      case "opened":
        producer.epoch = outcome.epoch;
        producer.leaseMs = outcome.leaseMs;
        if (kind === "open") this.#holders.take(namespace, producer, outcome.epoch);
        else this.#holders.keep(namespace, producer);
        if (counts !== undefined) this.#options.onOpened?.(namespace, counts);
        return;
      case "ended":
        // Still held: an equal FinishRun is answered again.
        producer.leaseMs = undefined;
        return;
      case "refused":
        producer.reject(outcome.refusal);
        this.#holders.release(namespace, producer);
        return;
      default:
    }
  }
}

function isUnavailable(error: unknown): boolean {
  return error instanceof RefusedError && error.refusal.reason === "journal_unavailable";
}

function unavailable(cause: unknown): RefusedError {
  return new RefusedError({ reason: "journal_unavailable" }, { cause });
}
