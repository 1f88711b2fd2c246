/** What an outcome changes for producers and for runs that nobody holds, once it is durable. */
import { RunState } from "../../gen/runlog/v1/run_pb.js";
import type { HolderCounts } from "../journal/namespaces.ts";
import type { RunView } from "../journal/runs.ts";
import type { Leases } from "./leases.ts";
import type { Operation, Outcome, Producer } from "./operation.ts";
import type { ProducerRegistry } from "./producer-registry.ts";

/** The listeners to outcomes. */
export interface OutcomeListeners {
  readonly producers: ProducerRegistry;
  /** Of runs that nobody holds. */
  readonly leases: Leases;
  /** Told once a producer holds a run of a namespace, with the counts of the commit that said so. */
  readonly onOpened?: ((namespace: string, counts: HolderCounts) => void) | undefined;
}

/** @param counts the namespace's, as the commit left them; undefined where there is none */
export function applyOutcome(
  operation: Operation,
  outcome: Outcome,
  counts: HolderCounts | undefined,
  listeners: OutcomeListeners,
): void {
  const { namespace, runId } = operation;
  const { producers, leases } = listeners;
  switch (operation.kind) {
    case "create":
      if (outcome.t !== "created" || outcome.leaseMs === undefined) return;
      if (leases.has(namespace, runId)) return;
      leases.start({ namespace, runId, epoch: 0, leaseMs: outcome.leaseMs });
      return;
    case "abandon":
      if (outcome.t !== "abandoned" || producers.of(namespace, runId) !== undefined) return;
      if (leases.has(namespace, runId)) return;
      leases.start({ namespace, runId, epoch: outcome.epoch, leaseMs: outcome.leaseMs });
      return;
    case "signal":
      if (outcome.t !== "signalled") return;
      producers.of(namespace, runId)?.signalled(outcome.lastSignalSeq);
      return;
    case "end_wait":
      if (outcome.t === "ended") applyEndOfWait(namespace, outcome.run, producers);
      return;
    case "lose":
      return;
    default:
      applyTo(operation.producer, operation, outcome, counts, listeners);
  }
}

/** Tells the run's producer of its end at once: it may be quiet until its signal comes. */
function applyEndOfWait(namespace: string, run: RunView, producers: ProducerRegistry): void {
  const { run_id: runId, state } = run;
  const holder = producers.of(namespace, runId);
  if (holder === undefined) return;
  holder.reject({ reason: state === RunState.LOST ? "run_lost" : "run_finished", runId });
  producers.release(namespace, holder);
}

function applyTo(
  producer: Producer,
  { namespace, kind }: Operation,
  outcome: Outcome,
  counts: HolderCounts | undefined,
  { producers, onOpened }: OutcomeListeners,
): void {
  switch (outcome.t) {
    case "opened":
      producer.epoch = outcome.epoch;
      producer.leaseMs = outcome.leaseMs;
      if (kind === "open") producers.take(namespace, producer, outcome.epoch);
      else producers.keep(namespace, producer);
      if (counts !== undefined) onOpened?.(namespace, counts);
      return;
    case "durable":
      if (outcome.leaseMs !== undefined) producers.resume(namespace, producer, outcome.leaseMs);
      return;
    case "waiting":
      producers.pause(namespace, producer);
      return;
    case "ended":
      // Still held: an equal FinishRun is answered again.
      producer.leaseMs = undefined;
      return;
    case "refused":
      // Asked about before its stream opened the run again: that one is not refused.
      if (kind === "check" && producer.isFollowedBy(producers.of(namespace, producer.runId)))
        return;
      if (outcome.cancelReason !== undefined) producer.cancelNoticed(outcome.cancelReason);
      producer.reject(outcome.refusal);
      producers.release(namespace, producer);
      return;
    default:
  }
}
