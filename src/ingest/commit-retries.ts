import pRetry from "p-retry";
import { Deadline } from "../journal/deadline.ts";
import type { Limits } from "../limits.ts";
import { isUnavailable, RefusedError } from "../refusal.ts";
import type { Committed, PipelinedCommit } from "./commit.ts";
import type { CommitGroupWriter } from "./commit-group-writer.ts";
import type { Operation, Outcome } from "./operation.ts";
import type { ProducerRegistry } from "./producer-registry.ts";

/** Milliseconds between tries of a commit while the database is away. */
const minRetryMs = 50;
const maxRetryMs = 1_000;

/** The callbacks of an operation; one of the two is called once, in the order of the operations. */
export interface OperationCallbacks {
  /** Called after the commit. */
  readonly onOutcome: (outcome: Outcome, operation: Operation) => void;
  /** Called where the database failed, with RefusedError journal_unavailable for one. */
  readonly onFailure: (error: unknown, operation: Operation) => void;
  /** Whether the caller has left; without it, the caller never does. */
  readonly hasLeft?: () => boolean;
}

/** An operation that waits for its commit. */
export interface Waiting {
  readonly operation: Operation;
  readonly callbacks: OperationCallbacks;
}

/** A group that was pipelined and is not known to be written. */
export interface PipelinedGroup extends PipelinedCommit {
  readonly group: readonly Waiting[];
}

/** What groups are tried with. */
export interface CommitRetriesOptions {
  readonly writer: CommitGroupWriter;
  readonly producers: ProducerRegistry;
  readonly limits: Pick<Limits, "databaseWaitMs" | "lockTimeoutMs">;
  /** Once it aborts, a database that is away is not waited for. */
  readonly stopping: AbortSignal;
  /** Called after each failed try: its outcome is unknown. */
  readonly onUncertain: (namespace: string) => void;
  /** Called with the error of each failed try. */
  readonly onFailedTry?: ((error: unknown) => void) | undefined;
}

/** A durable group, without the operations that were dropped. */
export interface Done {
  readonly t: "done";
  readonly group: readonly Waiting[];
  readonly committed: Committed;
}

/** A group that cannot be committed, now or later; this try made none of it durable. */
export interface Impossible {
  readonly t: "impossible";
  readonly group: readonly Waiting[];
  readonly error: unknown;
}

/**
 * Commits a group of operations: again and again while the database is away, for
 * as long as the callers are there.
 *
 * A caller that left may have asked another node for the same run by now. What takes or
 * makes a run is therefore dropped before each try once its caller has left; an
 * earlier try may have been written without an answer, and if so nobody holds
 * the run that it took: its lease begins.
 */
export class CommitRetries {
  readonly #options: CommitRetriesOptions;

  constructor(options: CommitRetriesOptions) {
    this.#options = options;
  }

  /**
   * The operations of a group whose callers still wait; answers the others.
   *
   * @param wasTried whether a try may have been written without an answer
   */
  wanted(group: readonly Waiting[], wasTried = false): readonly Waiting[] {
    if (group.every((waiting) => this.#isWanted(waiting))) return group;
    return group.flatMap((waiting): Waiting[] => {
      if (this.#isWanted(waiting)) return [waiting];
      const { operation, callbacks } = waiting;
      callbacks.onOutcome({ t: "discarded" }, operation);
      if (!wasTried || operation.kind === "lose") return [];
      const { namespace, runId } = operation;
      return [{ operation: { kind: "abandon", namespace, runId }, callbacks: noCallbacks }];
    });
  }

  #isWanted({ operation, callbacks }: Waiting): boolean {
    switch (operation.kind) {
      case "open":
      case "create":
        return callbacks.hasLeft?.() !== true;
      case "lose":
        // Its producer has come back since, perhaps with the epoch that it had.
        return this.#options.producers.of(operation.namespace, operation.runId) === undefined;
      default:
        return true;
    }
  }

  /**
   * Commits a group; what a try left durable is a duplicate to the next one.
   * Undefined where the database stays away: the callers have the error.
   *
   * @param pipelined the first try, where it was pipelined already
   */
  async commit(
    namespace: string,
    taken: readonly Waiting[],
    pipelined: PipelinedGroup | undefined,
  ): Promise<Done | Impossible | undefined> {
    const { writer, limits, stopping, onUncertain, onFailedTry } = this.#options;
    // Of all tries together; one that waits for no database has time for a lock all the same.
    const deadline = new Deadline(Math.max(limits.databaseWaitMs, limits.lockTimeoutMs));
    let group = taken;
    let tries = 0;
    try {
      return await pRetry(
        async (): Promise<Done> => {
          tries++;
          if (tries === 1 && pipelined !== undefined) {
            if (await isWritten(pipelined))
              return { t: "done", group, committed: pipelined.committed };
            writer.forget(namespace);
          }
          group = this.wanted(group, tries > 1 || pipelined !== undefined);
          const operations = group.map(({ operation }) => operation);
          const committed = await writer.write(namespace, operations, deadline.leftMs);
          return { t: "done", group, committed };
        },
        {
          retries: Number.POSITIVE_INFINITY,
          minTimeout: minRetryMs,
          maxTimeout: maxRetryMs,
          maxRetryTime: limits.databaseWaitMs,
          signal: stopping,
          shouldRetry: ({ error }) => isUnavailable(error),
          onFailedAttempt: ({ error }) => {
            writer.forget(namespace);
            onUncertain(namespace);
            if (!isUnavailable(error)) return;
            onFailedTry?.(error);
            // Nobody could have opened these either: their leases begin anew.
            const isLapse = ({ operation }: Waiting) => operation.kind === "lose";
            fail(group.filter(isLapse), error);
            group = group.filter((waiting) => !isLapse(waiting));
          },
        },
      );
    } catch (error) {
      writer.forget(namespace);
      onUncertain(namespace);
      if (!stopping.aborted && !isUnavailable(error)) return { t: "impossible", group, error };
      fail(group, stopping.aborted ? unavailable(error) : error);
      return undefined;
    }
  }
}

async function isWritten(pipelined: PipelinedCommit): Promise<boolean> {
  try {
    return await pipelined.isWritten;
  } catch (error) {
    if (isUnavailable(error)) throw error;
    // The transaction finds the same, and tells it.
    return false;
  }
}

/** For operations without a caller. */
export const noCallbacks: OperationCallbacks = {
  onOutcome: () => undefined,
  onFailure: () => undefined,
};

/** Tells the callers that their operations failed. */
export function fail(group: readonly Waiting[], error: unknown): void {
  for (const { operation, callbacks } of group) callbacks.onFailure(error, operation);
}

function unavailable(cause: unknown): RefusedError {
  return new RefusedError({ reason: "journal_unavailable" }, { cause });
}
