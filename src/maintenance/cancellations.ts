import type { Committer } from "../ingest/committer.ts";
import {
  type AskedRuns,
  askedToStop,
  askRuns,
  type Cancellation,
  moveCancellation,
  noteCancellation,
  readFamilyStretch,
} from "../journal/cancellations.ts";
import type { Journal } from "../journal/journal.ts";
import { lockNamespace, updateNamespace } from "../journal/namespaces.ts";
import type { NodeIdentity } from "../journal/nodes.ts";
import { findRuns } from "../journal/runs.ts";
import type { Db } from "../journal/schema.ts";
import { isCovered } from "../journal/subtrees.ts";
import { RefusedError } from "../refusal.ts";
import type { Within } from "../subtree.ts";

/** Runs that one transaction looks at: some milliseconds of the database. */
const defaultStepRuns = 256;

/** What requests to stop work with. */
export interface CancellationsOptions {
  readonly journal: Journal;
  readonly committer: Committer;
  readonly node: NodeIdentity;
  /** Runs that one transaction looks at. Default 256. */
  readonly stepRuns?: number;
}

/** Which runs to ask. */
export interface CancelRequest {
  readonly namespace: string;
  readonly runId: string;
  /** Also the run's descendants, and those that start later. */
  readonly includeDescendants: boolean;
  /** For people. */
  readonly reason: string;
  /** Where the caller may cancel; not set: anywhere. */
  readonly within?: Within;
}

/** What one step has come to. */
interface Step {
  readonly asked: AskedRuns;
  /** The family, where some of its runs have not been asked yet. */
  readonly left?: Cancellation;
}

/**
 * Asks runs to stop. The request is durable before any producer gets it, so a
 * producer that is not connected learns of it when it opens its run.
 *
 * A family is asked in steps so short that appends go on in between. Its runs
 * have smaller keys than all that start later, so the steps need not look for
 * newcomers: those find the request when they start, among those to their
 * ancestors. A process that dies in between leaves the request with the key that
 * was reached; whoever finds it goes on.
 *
 * A run that waits ends by being asked: its wait is over, and that is carried out
 * before the request is answered, or by whoever looks for waits that are over.
 */
export class Cancellations {
  readonly #options: CancellationsOptions;
  readonly #stepRuns: number;
  readonly #stopping = new AbortController();
  /** Families that are being asked here, so that no two do it. */
  readonly #active = new Map<string, Promise<number>>();

  constructor(options: CancellationsOptions) {
    this.#options = options;
    this.#stepRuns = options.stepRuns ?? defaultStepRuns;
  }

  /**
   * Asks a run, or a family, to stop, and resolves when all of it has been asked.
   *
   * @returns how many runs were RUNNING or WAITING when they were asked
   * @throws RefusedError run_not_found; draining where the server stops before the
   *   end: the rest of the family is asked all the same
   */
  async cancel(request: CancelRequest): Promise<number> {
    const { namespace } = request;
    const { asked, left } = await this.#step(namespace, request.reason, (tx) =>
      this.#begin(tx, request),
    );
    const count = countOf(asked);
    return left === undefined ? count : count + (await this.#askRest(namespace, left));
  }

  /** Goes on with a request that was begun, or waits for the steps that are under way here. */
  async resume(namespace: string, family: Cancellation): Promise<void> {
    await this.#askRest(namespace, family);
  }

  /** Stops between two steps; whoever resumes it asks the rest. */
  async stop(): Promise<void> {
    this.#stopping.abort();
    await Promise.allSettled(this.#active.values());
  }

  async #begin(tx: Db, request: CancelRequest): Promise<Step> {
    const { namespace, runId, includeDescendants, reason } = request;
    const locked = await lockNamespace(tx, namespace);
    const [run] = locked === undefined ? [] : await findRuns(tx, locked.namespace_id, [runId]);
    const isThere = run !== undefined && (await isCovered(tx, request.within, run));
    if (locked === undefined || !isThere) {
      throw new RefusedError({ reason: "run_not_found", runId });
    }
    const { namespace_id: namespaceId, last_seq: throughKey } = locked;
    const notice = { request: locked.cancel_count + 1, reason };
    await updateNamespace(tx, namespaceId, { cancel_count: notice.request });
    const { run_key: runKey } = run;
    if (!includeDescendants) return { asked: await askRuns(tx, namespaceId, [runKey], notice) };
    const afterKey = runKey - 1;
    const family = { namespaceId, runKey, afterKey, throughKey, ...notice };
    const { askableKeys, reachKey } = await readFamilyStretch(tx, family, afterKey, this.#stepRuns);
    const asked = await askRuns(tx, namespaceId, askableKeys, notice);
    const reached = { ...family, afterKey: reachKey ?? null };
    await noteCancellation(tx, reached, this.#options.node.nodeKey);
    return reachKey === undefined ? { asked } : { asked, left: reached };
  }

  /** Runs a step in its turn, and tells the producers that are connected here. */
  async #step(namespace: string, reason: string, work: (tx: Db) => Promise<Step>): Promise<Step> {
    const { committer } = this.#options;
    const step = await committer.runExclusive(namespace, work, ({ asked }) => {
      for (const runId of [...asked.running, ...asked.waiting]) {
        committer.holderOf(namespace, runId)?.cancelRequested(reason);
      }
    });
    const ending = step.asked.waiting.map((runId) =>
      committer.submit({ kind: "end_wait", namespace, runId, deadlineMs: askedToStop }),
    );
    await Promise.all(ending);
    return step;
  }

  async #askRest(namespace: string, family: Cancellation): Promise<number> {
    const key = keyOf(family);
    const underWay = this.#active.get(key);
    if (underWay !== undefined) return underWay;
    const asking = this.#walk(namespace, family);
    this.#active.set(key, asking);
    try {
      return await asking;
    } finally {
      this.#active.delete(key);
    }
  }

  async #walk(namespace: string, family: Cancellation): Promise<number> {
    const { journal } = this.#options;
    let count = 0;
    for (let afterKey: number | undefined = family.afterKey ?? family.throughKey; ; ) {
      if (this.#stopping.signal.aborted) throw new RefusedError({ reason: "draining" });
      // Read without the lock: runs that have ended meanwhile are left out below.
      const { askableKeys, reachKey } = await readFamilyStretch(
        journal.scans,
        family,
        afterKey,
        this.#stepRuns,
      );
      if (askableKeys.length > 0 || reachKey === undefined) {
        const { asked, left } = await this.#step(namespace, family.reason, (tx) =>
          this.#askSome(tx, namespace, { ...family, afterKey: reachKey ?? null }, askableKeys),
        );
        count += countOf(asked);
        if (left === undefined) return count;
      }
      afterKey = reachKey!;
    }
  }

  async #askSome(
    tx: Db,
    namespace: string,
    reached: Cancellation,
    runKeys: readonly number[],
  ): Promise<Step> {
    const locked = await lockNamespace(tx, namespace);
    // A newer request to the same family asks all of them itself.
    if (locked === undefined || !(await moveCancellation(tx, reached, reached.afterKey))) {
      return { asked: { running: [], waiting: [] } };
    }
    const asked = await askRuns(tx, reached.namespaceId, runKeys, reached);
    await updateNamespace(tx, reached.namespaceId, { cancel_count: locked.cancel_count + 1 });
    return reached.afterKey === null ? { asked } : { asked, left: reached };
  }
}

function countOf({ running, waiting }: AskedRuns): number {
  return running.length + waiting.length;
}

function keyOf({ namespaceId, runKey, request }: Cancellation): string {
  return `${namespaceId}/${runKey}/${request}`;
}
