import { create, equals, fromBinary, toBinary } from "@bufbuild/protobuf";
import { RunFinishedSchema, RunResumedSchema } from "../../gen/runlog/v1/record_pb.js";
import {
  type RunResult,
  RunResultSchema,
  type RunSpec,
  RunSpecSchema,
  RunState,
} from "../../gen/runlog/v1/run_pb.js";
import type { CancelNotice } from "../journal/cancellations.ts";
import type { NamespaceRow } from "../journal/namespaces.ts";
import type { Db } from "../journal/schema.ts";
import { isDataLoss, type Refusal } from "../refusal.ts";
import { firstConflict } from "./conflict.ts";
import {
  type Claim,
  decideAppend,
  decideCheck,
  decideFinish,
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
  FinishOperation,
  Fork,
  LoseOperation,
  OpenOperation,
  Operation,
  Outcome,
  Producer,
} from "./operation.ts";
import { RecordBuilder } from "./record-builder.ts";
import {
  hasSpec,
  isForkedAt,
  leaseMsOf,
  opened,
  type StagedRun,
  standing,
  viewOf,
} from "./staged-run.ts";
import { decideStart, runStartedBytes, stageNewRun } from "./start-run.ts";

/** What a group is decided by, besides its runs. */
export interface CommitGroupSettings {
  /** The server's clock; record_time is this or the newest record's, whichever is later. */
  readonly nowMs: number;
  /** Milliseconds; the lease of a run whose spec has none. */
  readonly defaultLeaseMs: number;
  /** This process among those that serve the journal. */
  readonly nodeKey: number;
}

/** How a group changes what a namespace counts. */
export interface CommitGroupCounts {
  readonly runs: number;
  readonly running: number;
  readonly eventBytes: number;
  /** Runs that were opened and that another node had until now. */
  readonly taken: number;
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
  /** For a run that has to be told apart from its own past: the database, to read. */
  readonly #tx: Db;
  readonly #namespaceId: number;
  readonly #idsInDeletion: ReadonlySet<string>;
  /** What parents pass on to runs that start; runs of this group pass on what they were given. */
  readonly #notices: Map<string, CancelNotice>;
  readonly #defaultLeaseMs: number;
  readonly #nodeKey: number;
  readonly #outcomes: Outcome[] = [];
  readonly #counts = { runs: 0, running: 0, eventBytes: 0, taken: 0 };
  /** What this try has decided about producers; they themselves change after the commit. */
  readonly #epochs = new Map<Producer, number>();
  readonly #rejected = new Set<Producer>();
  /** Runs whose producers have opened them, or shown that they hold them. */
  readonly #attended = new Set<StagedRun>();

  constructor(
    tx: Db,
    namespace: NamespaceRow,
    { runs, idsInDeletion, notices }: StagedRuns,
    { nowMs, defaultLeaseMs, nodeKey }: CommitGroupSettings,
  ) {
    this.#tx = tx;
    this.#namespaceId = namespace.namespace_id;
    this.stagedRuns = runs;
    this.#idsInDeletion = idsInDeletion;
    this.#notices = new Map(notices);
    this.#defaultLeaseMs = defaultLeaseMs;
    this.#nodeKey = nodeKey;
    this.builder = new RecordBuilder(namespace.last_seq, Math.max(nowMs, namespace.last_time_ms));
  }

  /** How the group changes what the namespace counts. */
  get counts(): CommitGroupCounts {
    return this.#counts;
  }

  /** Decides operations; their outcomes hold once what came of them is durable. */
  async decide(operations: readonly Operation[]): Promise<readonly Outcome[]> {
    for (let index = 0; index < operations.length; index++) {
      const decision = this.#decide(index, operations[index]!);
      if (decision !== undefined) await decision;
    }
    // An append has its outcome once its record is whole.
    this.builder.sealAll();
    return this.#outcomes;
  }

  /** A promise only where something has to be read: most of what is decided is not worth one. */
  #decide(index: number, operation: Operation): Promise<void> | undefined {
    if (operation.kind === "create") {
      this.#outcomes[index] = this.#create(operation);
      return undefined;
    }
    if (operation.kind === "lose") {
      this.#outcomes[index] = this.#lose(operation);
      return undefined;
    }
    if (operation.kind === "abandon") {
      this.#outcomes[index] = this.#abandon(operation);
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
    const staged = this.stagedRuns.get(runId);
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
        this.#settle(index, producer, this.#finish(operation, staged, claim));
        return undefined;
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
    this.#lookAfter(staged);
    return this.#opened(staged);
  }

  /** The producer is here, so this node is the one that notices when it goes. */
  #lookAfter(staged: StagedRun): void {
    if (staged.row.node_key === this.#nodeKey) return;
    staged.row.node_key = this.#nodeKey;
    staged.changed = true;
  }

  #opened(staged: StagedRun): Outcome {
    return opened(staged, this.#defaultLeaseMs);
  }

  #create({ runId, spec, fork }: CreateOperation): Outcome {
    const staged = this.stagedRuns.get(runId);
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
    const started = this.#startRun("spec", runId, spec, fork);
    if ("refusal" in started) return started;
    const leaseMs = leaseMsOf(spec, this.#defaultLeaseMs);
    return { t: "created", run: viewOf(started), leaseMs };
  }

  #openRun({ runId, spec, producer: { attempt } }: OpenOperation): Outcome {
    let staged = this.stagedRuns.get(runId);
    const relation = relationOf(spec, staged);
    const decision = decideOpen(runId, staged && standing(staged), relation, attempt);
    if (decision.t === "refused") return decision;
    if (decision.t === "create") {
      const started = this.#startRun("open.create", runId, spec!, undefined);
      if ("refusal" in started) return started;
      staged = started;
    }
    // Its last event has a seq before it is told.
    this.builder.seal(staged!);
    if (decision.t === "create" || !decision.repeated) staged!.row.epoch++;
    staged!.row.producer_id = attempt?.producerId ?? null;
    staged!.row.producer_attempt = attempt?.number ?? null;
    staged!.changed = true;
    this.#attended.add(staged!);
    if (staged!.row.node_key !== this.#nodeKey) this.#counts.taken++;
    this.#lookAfter(staged!);
    if (decision.t === "take" && decision.resumed) this.#resumeRun(staged!);
    return this.#opened(staged!);
  }

  #resumeRun(staged: StagedRun): void {
    this.#counts.running++;
    staged.row.state = RunState.RUNNING;
    staged.row.result = null;
    staged.row.end_time_ms = null;
    const resumed = create(RunResumedSchema, { lastRunSeq: BigInt(staged.row.last_run_seq) });
    this.builder.addFact(staged, "run_resumed", toBinary(RunResumedSchema, resumed));
  }

  #startRun(
    field: string,
    runId: string,
    spec: RunSpec,
    fork: Fork | undefined,
  ): StagedRun | { readonly t: "refused"; readonly refusal: Refusal } {
    const parent = this.stagedRuns.get(spec.parentRunId);
    const source = fork && this.stagedRuns.get(fork.sourceRunId);
    const notice = this.#notices.get(spec.parentRunId);
    const newRun = { runId, spec, parent, fork, source, notice };
    const refusal: Refusal | undefined = this.#idsInDeletion.has(runId)
      ? { reason: "run_in_deletion", runId }
      : decideStart(field, newRun);
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
    this.#counts.running++;
    this.builder.addFact(staged, "run_started", runStartedBytes(staged));
    return staged;
  }

  #append(
    index: number,
    operation: AppendOperation,
    staged: StagedRun,
    claim: Claim,
  ): Promise<void> | undefined {
    const { producer, firstRunSeq, events } = operation;
    const decision = decideAppend(standing(staged), claim, firstRunSeq, events.length);
    if (decision.t === "refused") {
      this.#settle(index, producer, decision);
      return undefined;
    }
    this.#lookAfter(staged);
    const skip = decision.t === "duplicate" ? events.length : decision.skip;
    if (skip > 0) return this.#appendBehind(index, operation, staged, skip);
    this.#add(index, operation, staged, 0);
    return undefined;
  }

  /** Adds events of which the first ones are sent again. */
  async #appendBehind(
    index: number,
    operation: AppendOperation,
    staged: StagedRun,
    skip: number,
  ): Promise<void> {
    const { producer, firstRunSeq } = operation;
    const refusal = await this.#refusalOfRepeated(operation, staged, firstRunSeq, skip);
    if (refusal === undefined) this.#add(index, operation, staged, skip);
    else this.#settle(index, producer, { t: "refused", refusal });
  }

  /** Why the first `skip` events are not those that are durable, if they are not. */
  async #refusalOfRepeated(
    { events }: AppendOperation,
    staged: StagedRun,
    firstRunSeq: number,
    skip: number,
  ): Promise<Refusal | undefined> {
    try {
      const runSeq = await firstConflict(this.#tx, staged, firstRunSeq, events.slice(0, skip));
      if (runSeq === undefined) return undefined;
      return { reason: "conflict", runSeq, expectedRunSeq: staged.row.last_run_seq + 1 };
    } catch (error) {
      // One run's damage is not the other operations'.
      if (isDataLoss(error)) return error.refusal;
      throw error;
    }
  }

  #add(index: number, { events }: AppendOperation, staged: StagedRun, skip: number): void {
    for (let i = skip; i < events.length; i++) {
      const event = events[i]!;
      this.#counts.eventBytes += event.bytes.length;
      this.builder.addEvent(staged, event);
    }
    this.builder.whenPlaced(staged, (runSeq, seq) => {
      this.#outcomes[index] = { t: "durable", runSeq, seq };
    });
  }

  #finish(operation: FinishOperation, staged: StagedRun, claim: Claim): Outcome {
    const { row } = staged;
    const { result, lastRunSeq = row.last_run_seq } = operation;
    const isSame =
      row.result !== null &&
      equals(RunResultSchema, fromBinary(RunResultSchema, row.result), result);
    const decision = decideFinish(standing(staged), claim, lastRunSeq, isSame);
    if (decision.t === "refused") return decision;
    if (decision.t === "finish") this.#endRun(staged, result);
    return { t: "ended", run: viewOf(staged) };
  }

  #abandon({ runId }: AbandonOperation): Outcome {
    const staged = this.stagedRuns.get(runId);
    if (staged === undefined || !isLookedAfter(standing(staged), this.#nodeKey)) {
      return { t: "discarded" };
    }
    const { epoch, spec } = staged.row;
    const leaseMs = leaseMsOf(fromBinary(RunSpecSchema, spec), this.#defaultLeaseMs);
    return { t: "abandoned", epoch, leaseMs };
  }

  #lose({ runId, epoch }: LoseOperation): Outcome {
    const staged = this.stagedRuns.get(runId);
    // Who opened it in this group may have the epoch that it had before.
    if (staged === undefined || this.#attended.has(staged)) return { t: "discarded" };
    if (!decideLose(standing(staged), epoch, this.#nodeKey)) return { t: "discarded" };
    this.#endRun(staged, create(RunResultSchema, { state: RunState.LOST }));
    return { t: "ended", run: viewOf(staged) };
  }

  #endRun(staged: StagedRun, result: RunResult): void {
    const { row } = staged;
    this.#counts.running--;
    row.state = result.state;
    row.result = toBinary(RunResultSchema, result);
    row.end_time_ms = this.builder.timeMs;
    staged.changed = true;
    const lastRunSeq = BigInt(row.last_run_seq);
    const finished = create(RunFinishedSchema, { result, lastRunSeq });
    this.builder.addFact(staged, "run_finished", toBinary(RunFinishedSchema, finished));
  }
}

function relationOf(
  spec: RunSpec | undefined,
  staged: StagedRun | undefined,
): "absent" | "equal" | "different" {
  if (spec === undefined) return "absent";
  return staged !== undefined && hasSpec(staged, spec) ? "equal" : "different";
}
