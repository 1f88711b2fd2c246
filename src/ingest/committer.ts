/**
 * Group commit: what arrives for a namespace while a commit is under way goes
 * into the next one. Operations of one namespace are decided in the order in
 * which they were submitted; an outcome is given only after the commit that
 * holds it.
 */

import { yieldToEventLoop } from "../event-loop.ts";
import type { CommittedRecord } from "../journal/committed-record.ts";
import type { Journal } from "../journal/journal.ts";
import type { NodeIdentity } from "../journal/nodes.ts";
import type { Notifications } from "../journal/postgres/notifications.ts";
import type { Db } from "../journal/schema.ts";
import type { Limits } from "../limits.ts";
import { isUnavailable, RefusedError } from "../refusal.ts";
import { applyOutcome, type OutcomeListeners } from "./apply-outcome.ts";
import { CommitGroupWriter } from "./commit-group-writer.ts";
import {
  CommitRetries,
  type Done,
  fail,
  type Impossible,
  noCallbacks,
  type OperationCallbacks,
  type PipelinedGroup,
  type Waiting,
} from "./commit-retries.ts";
import type { UnheldRun } from "./leases.ts";
import type { Operation, Outcome, Producer } from "./operation.ts";
import { ProducerRegistry } from "./producer-registry.ts";

/** What the committer works with. */
export interface CommitterOptions extends Omit<OutcomeListeners, "producers"> {
  readonly journal: Journal;
  readonly limits: Pick<
    Limits,
    | "maxCommitBytes"
    | "maxCommitOps"
    | "defaultLeaseMs"
    | "databaseWaitMs"
    | "lockTimeoutMs"
    | "maxPendingSignals"
  >;
  readonly node: NodeIdentity;
  /** Milliseconds since 1970. */
  readonly now: () => number;
  /**
   * Called after each commit, in the order of this process's commits and before the
   * outcomes are given.
   *
   * @param deletionCount trees of the namespace that had been deleted by then
   */
  readonly onCommitted: (
    namespace: string,
    records: readonly CommittedRecord[],
    deletionCount: number,
  ) => void;
  /** Called after a failed commit whose outcome is unknown. */
  readonly onUncertain: (namespace: string) => void;
  /** Called with the error of an operation that the database refuses for good, or that hit a fault of ours. */
  readonly onImpossible?: ((error: unknown) => void) | undefined;
  /** Called with the error of each failed try. */
  readonly onFailedTry?: ((error: unknown) => void) | undefined;
  /** See CommitGroupWriterOptions. */
  readonly onTimeAhead?: ((namespace: string, aheadMs: number) => void) | undefined;
  /** Notifies other nodes. */
  readonly notifications?: Pick<Notifications, "tell"> | undefined;
}

/** Something that has a transaction for itself; never rejects. */
interface ExclusiveWork {
  readonly run: () => Promise<void>;
}

/** One namespace's queue; `running` is the loop that empties it. */
interface NamespaceQueue {
  readonly waiting: (Waiting | ExclusiveWork)[];
  running: Promise<void> | undefined;
  /** Called when something arrives. */
  onArrival: () => void;
}

/** Takes operations and commits them in groups. */
export class Committer {
  readonly #options: CommitterOptions;
  readonly #writer: CommitGroupWriter;
  readonly #retries: CommitRetries;
  readonly #queues = new Map<string, NamespaceQueue>();
  readonly #producers: ProducerRegistry;
  readonly #listeners: OutcomeListeners;
  readonly #stopping = new AbortController();

  constructor(options: CommitterOptions) {
    this.#options = options;
    this.#writer = new CommitGroupWriter(options);
    this.#producers = new ProducerRegistry(options.leases);
    this.#listeners = { ...options, producers: this.#producers };
    this.#retries = new CommitRetries({
      writer: this.#writer,
      producers: this.#producers,
      limits: options.limits,
      stopping: this.#stopping.signal,
      onUncertain: options.onUncertain,
      onFailedTry: options.onFailedTry,
    });
  }

  /** Queues an operation. A refusal is an outcome, not a failure. */
  enqueue(operation: Operation, callbacks: OperationCallbacks): void {
    this.#queue(operation.namespace, { operation, callbacks });
  }

  #queue(namespace: string, one: Waiting | ExclusiveWork): void {
    let queue = this.#queues.get(namespace);
    if (queue === undefined) {
      queue = { waiting: [], running: undefined, onArrival: () => undefined };
      this.#queues.set(namespace, queue);
    }
    queue.waiting.push(one);
    queue.onArrival();
    queue.running ??= this.#run(namespace, queue);
  }

  /**
   * Queues an operation and waits for its outcome.
   *
   * @param signal aborts once nobody waits for it any more: what would take or make
   *   a run is then dropped where that can be, with the outcome `discarded`
   * @throws RefusedError journal_unavailable where the database failed; whether
   *   the operation took effect is then unknown, and it may be submitted again
   */
  submit(operation: Operation, signal?: AbortSignal): Promise<Outcome> {
    return new Promise((onOutcome, onFailure) => {
      const hasLeft = () => signal?.aborted === true;
      this.enqueue(operation, { onOutcome, onFailure, hasLeft });
    });
  }

  /**
   * Runs `work` in a transaction of its own, in its turn among the namespace's
   * operations: all that was queued before is committed and published, and nothing
   * that was queued after has begun.
   *
   * @param onCommitted called before the next group, with what `work` returned
   * @throws what `work` throws, and RefusedError journal_unavailable where the database failed
   */
  runExclusive<T>(
    namespace: string,
    work: (tx: Db) => Promise<T>,
    onCommitted: (result: T) => void = () => undefined,
  ): Promise<T> {
    return new Promise((resolve, reject) => {
      const run = async () => {
        this.#writer.forget(namespace);
        try {
          const result = await this.#options.journal.write(work);
          onCommitted(result);
          this.#options.notifications?.tell(namespace);
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

  /** Namespaces that have a queue, and those that are kept for their next commit. */
  get counts(): { readonly queues: number; readonly known: number } {
    return { queues: this.#queues.size, known: this.#writer.knownNamespaces };
  }

  /** Drops what no commit has used since the call before. */
  dropIdle(): void {
    this.#writer.dropIdle();
  }

  /** Forgets everything: somebody else has written to the journal. */
  forgetAll(): void {
    this.#writer.forgetAll();
  }

  /** The producer of this process that holds a run. */
  holderOf(namespace: string, runId: string): Producer | undefined {
    return this.#producers.of(namespace, runId);
  }

  /** The namespaces in which this process holds runs. */
  heldNamespaces(): Iterable<string> {
    return this.#producers.namespaces();
  }

  /** Whether this process holds runs of a namespace. */
  holdsRunsIn(namespace: string): boolean {
    return this.#producers.has(namespace);
  }

  /** The runs of a namespace that this process holds. */
  heldRunIds(namespace: string): string[] {
    return this.#producers.in(namespace).map(({ runId }) => runId);
  }

  /** Asks whether producers still hold their runs, and tells those that do not; this node's again are those that do. */
  checkHolders(namespace: string, runIds?: readonly string[]): void {
    for (const runId of runIds ?? this.heldRunIds(namespace)) {
      const producer = this.holderOf(namespace, runId);
      if (producer === undefined) continue;
      this.enqueue({ kind: "check", namespace, runId, producer, mustRun: true }, noCallbacks);
    }
  }

  /** A producer's stream has ended: the lease of what it held begins. */
  release(namespace: string, producer: Producer): void {
    this.#producers.release(namespace, producer);
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
    for (const queue of this.#queues.values()) await queue.running;
  }

  /** Waits no longer for a database that is away; resolves when nothing is queued any more. */
  async stop(): Promise<void> {
    this.#stopping.abort();
    await this.idle();
  }

  async #run(namespace: string, queue: NamespaceQueue): Promise<void> {
    /** The group that is being written while the next one is decided. */
    let writing: PipelinedGroup | undefined;
    while (queue.waiting.length > 0 || writing !== undefined) {
      if (writing !== undefined) await this.#arrivalsOr(writing.isWritten, queue);
      // One turn of the event loop, so that frames which have arrived by now
      // join this commit instead of the next one.
      if (queue.waiting.length > 0) await yieldToEventLoop();
      const group = this.#take(queue);
      const sent = await this.#send(namespace, group, writing);
      if (writing !== undefined) await this.#commit(namespace, writing.group, writing);
      writing = sent;
      if (sent !== undefined) continue;
      // It could not be sent ahead: nothing is being written now, so it is its turn.
      if (group.length > 0) await this.#commit(namespace, group);
      else await takeExclusive(queue)?.run();
    }
    this.#queues.delete(namespace);
  }

  /** Resolves when enough is waiting to be sent ahead, or the answer has come. */
  #arrivalsOr(answer: Promise<unknown>, queue: NamespaceQueue): Promise<void> {
    const { minPipelinedOps = 1 } = this.#options.journal;
    return new Promise((resolve) => {
      queue.onArrival = () => {
        if (queue.waiting.length >= minPipelinedOps) resolve();
      };
      queue.onArrival();
      void answer.catch(() => undefined).finally(resolve);
    });
  }

  async #send(
    namespace: string,
    group: readonly Waiting[],
    before: PipelinedGroup | undefined,
  ): Promise<PipelinedGroup | undefined> {
    if (group.length === 0) return undefined;
    try {
      const pipelined = await this.#writer.send(namespace, operationsOf(group), before);
      return pipelined && { ...pipelined, group };
    } catch {
      // The transaction finds the same, and tells it.
      return undefined;
    }
  }

  async #commit(
    namespace: string,
    group: readonly Waiting[],
    pipelined?: PipelinedGroup,
  ): Promise<void> {
    const tried = await this.#retries.commit(namespace, group, pipelined);
    if (tried === undefined) return;
    if (tried.t === "impossible") {
      await this.#separate(namespace, tried);
      return;
    }
    try {
      this.#settle(namespace, tried);
    } catch (error) {
      this.#writer.forget(namespace);
      this.#options.onUncertain(namespace);
      fail(tried.group, error);
    }
  }

  /** Commits the halves of a group by themselves, until what cannot be committed is alone. */
  async #separate(namespace: string, { group, error }: Impossible): Promise<void> {
    if (group.length > 1) {
      const middle = group.length >> 1;
      await this.#commit(namespace, group.slice(0, middle));
      await this.#commit(namespace, group.slice(middle));
      return;
    }
    for (const { operation, callbacks } of group) {
      const { kind } = operation;
      if (kind === "lose" || kind === "abandon" || kind === "end_wait") {
        callbacks.onFailure(error, operation);
        continue;
      }
      this.#options.onImpossible?.(error);
      const refusal =
        error instanceof RefusedError ? error.refusal : ({ reason: "internal" } as const);
      const outcome: Outcome = { t: "refused", refusal };
      // What its producer sent behind it is discarded.
      applyOutcome(operation, outcome, undefined, this.#listeners);
      callbacks.onOutcome(outcome, operation);
    }
  }

  /** Takes the next group; it ends before exclusive work. */
  #take(queue: NamespaceQueue): readonly Waiting[] {
    const { maxCommitBytes, maxCommitOps } = this.#options.limits;
    const group: Waiting[] = [];
    let bytes = 0;
    for (const one of queue.waiting) {
      if ("run" in one || group.length === maxCommitOps) break;
      bytes += eventBytesOf(one.operation);
      if (group.length > 0 && bytes > maxCommitBytes) break;
      group.push(one);
    }
    queue.waiting.splice(0, group.length);
    return this.#retries.wanted(group);
  }

  #settle(namespace: string, { group, committed }: Done): void {
    const { onCommitted, notifications } = this.#options;
    const { outcomes, result } = committed;
    if (result !== undefined) {
      const { records, hasTaken } = result;
      if (records.length > 0) onCommitted(namespace, records, result.namespace.deletion_count);
      if (records.length > 0 || hasTaken) notifications?.tell(namespace);
    }
    for (let index = 0; index < group.length; index++) {
      const { operation, callbacks } = group[index]!;
      const outcome = outcomes[index]!;
      applyOutcome(operation, outcome, result?.namespace, this.#listeners);
      callbacks.onOutcome(outcome, operation);
    }
  }
}

/** Takes exclusive work, where it is next. */
function takeExclusive(queue: NamespaceQueue): ExclusiveWork | undefined {
  const [first] = queue.waiting;
  if (first === undefined || !("run" in first)) return undefined;
  queue.waiting.shift();
  return first;
}

function eventBytesOf(operation: Operation): number {
  if (operation.kind === "append") return operation.bytes;
  return operation.kind === "signal" ? operation.event.bytes.length : 0;
}

function operationsOf(group: readonly Waiting[]): Operation[] {
  return group.map(({ operation }) => operation);
}
