import { create } from "@bufbuild/protobuf";
import { RunResultSchema, type RunSpec, RunState } from "../../gen/runlog/v1/run_pb.js";
import type { CancelNotice } from "../journal/cancellations.ts";
import type { NamespaceRow } from "../journal/namespaces.ts";
import type { Db } from "../journal/schema.ts";
import type { Refusal } from "../refusal.ts";
import type { Within } from "../subtree.ts";
import { covers } from "./covers.ts";
import {
  type Claim,
  decideCheck,
  decideHold,
  decideLose,
  decideOpen,
  isLookedAfter,
} from "./decide.ts";
import type { StagedRuns } from "./load-runs.ts";
import type {
  AbandonOperation,
  AppendOperation,
  CheckOperation,
  CreateOperation,
  EndWaitOperation,
  Fork,
  LoseOperation,
  OpenOperation,
  Operation,
  Outcome,
  Producer,
  ProducerOperation,
} from "./operation.ts";
import { cancelled, ProducerFrames } from "./producer-frames.ts";
import { RecordBuilder } from "./record-builder.ts";
import { RunFacts } from "./run-facts.ts";
import {
  hasSpec,
  isForkedAt,
  leaseMsOf,
  lookAfter,
  opened,
  type StagedRun,
  specOfRun,
  standing,
  viewOf,
} from "./staged-run.ts";
import { StagedSignals } from "./staged-signals.ts";
import { decideStart, stageNewRun } from "./start-run.ts";

/** What a group is decided by, besides its runs. */
export interface CommitGroupSettings {
  /** The server's clock; record_time is this or the newest record's, whichever is later. */
  readonly nowMs: number;
  /** Milliseconds; the lease of a run whose spec has none. */
  readonly defaultLeaseMs: number;
  /** This process among those that serve the journal. */
  readonly nodeKey: number;
  /** Signals of one run that may await handling. */
  readonly maxPendingSignals: number;
  /** Whether every node knows signals and waits. */
  readonly takesInput: boolean;
}

/** How a group changes what a namespace counts. */
export interface CommitGroupCounts {
  readonly runs: number;
  readonly running: number;
  readonly waiting: number;
  readonly eventBytes: number;
  /** Runs that were opened, or ended, and that another node had until now. */
  readonly taken: number;
  readonly signals: number;
}

/**
 * A group of operations on one namespace, decided one after the other on stagedRuns
 * of the runs that they concern. It writes nothing.
 */
export class CommitGroup {
  /** The runs that were read or made, by their ids, as they are to be written. */
  readonly stagedRuns: Map<string, StagedRun>;
  /** The records that came of it. */
  readonly builder: RecordBuilder;
  /** The signals that were added. */
  readonly signals: StagedSignals;
  readonly #facts: RunFacts;
  readonly #frames: ProducerFrames;
  readonly #namespaceId: number;
  readonly #idsInDeletion: ReadonlySet<string>;
  /** What parents pass on to runs that start; runs of this group pass on what they were given. */
  readonly #notices: Map<string, CancelNotice>;
  readonly #defaultLeaseMs: number;
  readonly #nodeKey: number;
  readonly #takesInput: boolean;
  readonly #outcomes: Outcome[] = [];
  readonly #counts = { runs: 0, taken: 0 };
  /** What this try has decided about producers; they themselves change after the commit. */
  readonly #epochs = new Map<Producer, number>();
  readonly #rejected = new Set<Producer>();
  /** Runs whose producers have opened them, or shown that they hold them. */
  readonly #attended = new Set<StagedRun>();

  constructor(
    tx: Db,
    namespace: NamespaceRow,
    { runs, idsInDeletion, notices, signals }: StagedRuns,
    { nowMs, defaultLeaseMs, nodeKey, maxPendingSignals, takesInput }: CommitGroupSettings,
  ) {
    this.#namespaceId = namespace.namespace_id;
    this.stagedRuns = runs;
    this.#idsInDeletion = idsInDeletion;
    this.#notices = new Map(notices);
    this.#defaultLeaseMs = defaultLeaseMs;
    this.#nodeKey = nodeKey;
    this.#takesInput = takesInput;
    this.builder = new RecordBuilder(namespace.last_seq, Math.max(nowMs, namespace.last_time_ms));
    this.signals = new StagedSignals(signals, this.builder, maxPendingSignals);
    this.#facts = new RunFacts(this.builder);
    const { builder } = this;
    const facts = this.#facts;
    this.#frames = new ProducerFrames({ tx, builder, facts, nodeKey, defaultLeaseMs });
  }

  /** How the group changes what the namespace counts. */
  get counts(): CommitGroupCounts {
    const { running, waiting } = this.#facts;
    const { added } = this.signals;
    return {
      ...this.#counts,
      running,
      waiting,
      eventBytes: this.#frames.eventBytes + this.signals.eventBytes,
      signals: added.length,
    };
  }

  /** Decides operations; their outcomes hold once the commit is durable. */
  async decide(operations: readonly Operation[]): Promise<readonly Outcome[]> {
    for (let index = 0; index < operations.length; index++) {
      const decision = this.#decide(index, operations[index]!);
      if (decision !== undefined) await decision;
    }
    // Appends have their places once their records are whole.
    this.builder.sealAll();
    return this.#outcomes;
  }

  /** A promise only where something has to be read: most decisions need none. */
  #decide(index: number, operation: Operation): Promise<void> | undefined {
    if (!("producer" in operation)) {
      this.#outcomes[index] = this.#decideForNobody(operation);
      return undefined;
    }
    const { producer, runId } = operation;
    if (operation.kind === "open") {
      this.#settle(index, producer, this.#openRun(operation));
      return undefined;
    }
    if (producer.rejected || this.#rejected.has(producer)) {
      this.#outcomes[index] = { t: "discarded" };
      return undefined;
    }
    if (operation.kind === "refuse") {
      this.#settle(index, producer, { t: "refused", refusal: operation.refusal });
      return undefined;
    }
    const within = operation.kind === "check" ? operation.within : undefined;
    const staged = this.#visible(runId, within);
    const epoch = this.#epochs.get(producer) ?? producer.epoch;
    if (staged === undefined || epoch === undefined) {
      const reason = staged === undefined ? "run_not_found" : "run_not_open";
      this.#settle(index, producer, { t: "refused", refusal: { reason, runId } });
      return undefined;
    }
    const claim: Claim = { epoch, producerId: producer.attempt?.producerId };
    switch (operation.kind) {
      case "append":
        return this.#append(index, operation, staged, claim);
      case "check":
        this.builder.seal(staged);
        this.#settle(index, producer, this.#check(operation, staged, claim));
        return undefined;
      case "finish":
        this.#settle(index, producer, this.#frames.finish(operation, staged, claim));
        return undefined;
      case "wait":
        this.#settle(
          index,
          producer,
          this.#takesInput ? this.#frames.wait(operation, staged, claim) : formatInactive,
        );
        return undefined;
    }
  }

  #append(
    index: number,
    operation: AppendOperation,
    staged: StagedRun,
    claim: Claim,
  ): Promise<void> | undefined {
    const { producer } = operation;
    const outcome = this.#frames.append(operation, staged, claim);
    if (outcome instanceof Promise) {
      return outcome.then((read) => {
        this.#settle(index, producer, read);
      });
    }
    this.#settle(index, producer, outcome);
    return undefined;
  }

  /** Decides operations of callers that are no producers. */
  #decideForNobody(operation: Exclude<Operation, ProducerOperation>): Outcome {
    switch (operation.kind) {
      case "create":
        return this.#create(operation);
      case "lose":
        return this.#lose(operation);
      case "abandon":
        return this.#abandon(operation);
      case "signal":
        return this.#takesInput
          ? this.signals.signal(operation, this.#visible(operation.runId, operation.within))
          : formatInactive;
      case "end_wait":
        return this.#endWait(operation);
    }
  }

  #settle(index: number, producer: Producer, outcome: Outcome): void {
    this.#outcomes[index] = outcome;
    if (outcome.t === "refused") this.#rejected.add(producer);
    if (outcome.t === "opened") this.#epochs.set(producer, outcome.epoch);
  }

  #check({ mustRun }: CheckOperation, staged: StagedRun, claim: Claim): Outcome {
    const refused = (mustRun ? decideHold : decideCheck)(standing(staged), claim);
    if (refused !== undefined) return refused;
    this.#attended.add(staged);
    lookAfter(staged, this.#nodeKey);
    return this.#opened(staged);
  }

  #opened(staged: StagedRun): Outcome {
    return opened(staged, this.#defaultLeaseMs);
  }

  /** The run with this id, if it exists where the caller may act. */
  #visible(runId: string, within: Within): StagedRun | undefined {
    const staged = this.stagedRuns.get(runId);
    return staged !== undefined && covers(within, staged, this.stagedRuns) ? staged : undefined;
  }

  #create(operation: CreateOperation): Outcome {
    const { runId, spec, fork, within } = operation;
    const staged = this.#visible(runId, within);
    if (staged !== undefined) {
      if (!hasSpec(staged, spec) || !isForkedAt(staged, fork)) {
        return { t: "refused", refusal: { reason: "run_exists", runId } };
      }
      // It may be ours by a try of this transaction of which we were not told.
      const { epoch, node_key: nodeKey } = staged.row;
      const isWaiting = epoch === 0 && nodeKey === this.#nodeKey;
      const leaseMs = isWaiting ? leaseMsOf(spec, this.#defaultLeaseMs) : undefined;
      return { t: "created", run: viewOf(staged), leaseMs };
    }
    const started = this.#startRun("spec", operation, spec, fork);
    if ("refusal" in started) return started;
    const leaseMs = leaseMsOf(spec, this.#defaultLeaseMs);
    return { t: "created", run: viewOf(started), leaseMs };
  }

  #openRun(operation: OpenOperation): Outcome {
    const { runId, spec, within, producer } = operation;
    const { attempt } = producer;
    let staged = this.#visible(runId, within);
    const relation = relationOf(spec, staged);
    const decision = decideOpen(runId, staged && standing(staged), relation, attempt);
    if (decision.t === "refused") return decision;
    if (decision.t === "create") {
      const started = this.#startRun("open.create", operation, spec!, undefined);
      if ("refusal" in started) return started;
      staged = started;
    }
    // Its last event has a seq before the outcome is given.
    this.builder.seal(staged!);
    if (decision.t === "create" || !decision.repeated) staged!.row.epoch++;
    staged!.row.producer_id = attempt?.producerId ?? null;
    staged!.row.producer_attempt = attempt?.number ?? null;
    staged!.changed = true;
    this.#attended.add(staged!);
    this.#take(staged!);
    if (decision.t === "take" && decision.resumed) this.#facts.resumed(staged!);
    return this.#opened(staged!);
  }

  /** This node has the run from now on; a node that had it before gets a notification. */
  #take(staged: StagedRun): void {
    if (staged.row.node_key !== this.#nodeKey) this.#counts.taken++;
    lookAfter(staged, this.#nodeKey);
  }

  #startRun(
    field: string,
    { runId, within, creation }: CreateOperation | OpenOperation,
    spec: RunSpec,
    fork: Fork | undefined,
  ): StagedRun | { readonly t: "refused"; readonly refusal: Refusal } {
    const parent = this.#visible(spec.parentRunId, within);
    const source = fork && this.#visible(fork.sourceRunId, fork.within);
    const notice = this.#notices.get(spec.parentRunId);
    const newRun = { runId, spec, parent, fork, source, notice };
    const refusal: Refusal | undefined = this.#idsInDeletion.has(runId)
      ? { reason: "run_in_deletion", runId }
      : (decideStart(field, newRun, within) ?? this.#refusalOfId(runId) ?? creation?.run());
    if (refusal !== undefined) return { t: "refused", refusal };
    // The run's key is the seq of its first record, so nothing may come in between.
    this.builder.sealAll();
    const staged = stageNewRun(newRun, {
      namespaceId: this.#namespaceId,
      runKey: this.builder.lastSeq + 1,
      timeMs: this.builder.timeMs,
      nodeKey: this.#nodeKey,
    });
    this.stagedRuns.set(runId, staged);
    if (notice !== undefined) this.#notices.set(runId, notice);
    this.#counts.runs++;
    this.#facts.started(staged);
    return staged;
  }

  /** Ids are unique in the namespace, so a caller learns of a run outside that has the one it wants. */
  #refusalOfId(runId: string): Refusal | undefined {
    return this.stagedRuns.has(runId) ? { reason: "run_exists", runId } : undefined;
  }

  #endWait({ runId, deadlineMs }: EndWaitOperation): Outcome {
    const staged = this.stagedRuns.get(runId);
    if (staged?.row.state !== RunState.WAITING || staged.row.wait_deadline_ms !== deadlineMs) {
      return { t: "discarded" };
    }
    const { cancel_reason: cancelReason, waiting } = staged.row;
    this.#facts.ended(staged, cancelReason === null ? expired : cancelled, waiting);
    // The node that has its producer notices.
    this.#take(staged);
    return { t: "ended", run: viewOf(staged) };
  }

  #abandon({ runId }: AbandonOperation): Outcome {
    const staged = this.stagedRuns.get(runId);
    if (staged === undefined || !isLookedAfter(standing(staged), this.#nodeKey)) {
      return { t: "discarded" };
    }
    const leaseMs = leaseMsOf(specOfRun(staged), this.#defaultLeaseMs);
    return { t: "abandoned", epoch: staged.row.epoch, leaseMs };
  }

  #lose({ runId, epoch }: LoseOperation): Outcome {
    const staged = this.stagedRuns.get(runId);
    // Who opened it in this group may have the epoch that it had before.
    if (staged === undefined || this.#attended.has(staged)) return { t: "discarded" };
    if (!decideLose(standing(staged), epoch, this.#nodeKey)) return { t: "discarded" };
    this.#facts.ended(staged, lost);
    return { t: "ended", run: viewOf(staged) };
  }
}

/** The answer to what older nodes would misread. */
const formatInactive: Outcome = { t: "refused", refusal: { reason: "format_inactive" } };

/** How runs end that no producer ends. */
const lost = create(RunResultSchema, { state: RunState.LOST });
const expired = create(RunResultSchema, {
  state: RunState.LOST,
  failure: { code: "wait_expired", message: "the deadline of the run's wait passed" },
});

function relationOf(
  spec: RunSpec | undefined,
  staged: StagedRun | undefined,
): "absent" | "equal" | "different" {
  if (spec === undefined) return "absent";
  return staged !== undefined && hasSpec(staged, spec) ? "equal" : "different";
}
