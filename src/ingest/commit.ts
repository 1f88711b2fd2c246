/**
 * One transaction for a group of operations on one namespace: it takes the
 * namespace's lock, reads the runs concerned, lets decide.ts decide one
 * operation after the other on drafts of them, and writes what came of it.
 *
 * Everything is derived from what the transaction reads, so running it again
 * after a failure, or after a commit whose outcome is unknown, never doubles an
 * event: what the first try left durable is a duplicate to the second.
 */
import { create, equals, fromBinary, toBinary } from "@bufbuild/protobuf";
import { RunFinishedSchema, RunResumedSchema } from "../../gen/runlog/v1/event_pb.js";
import {
  type RunResult,
  RunResultSchema,
  type RunSpec,
  RunState,
} from "../../gen/runlog/v1/run_pb.js";
import type { CommittedRecord } from "../journal/committed-record.ts";
import {
  type HolderCounts,
  insertNamespace,
  lockKnownNamespace,
  lockNamespace,
  type NamespaceRow,
  updateNamespace,
} from "../journal/namespaces.ts";
import { insertRecords } from "../journal/records.ts";
import type { Refusal } from "../journal/refusal.ts";
import {
  findIdsInDeletion,
  findRuns,
  findRunsByKey,
  insertAncestors,
  insertLabels,
  insertRuns,
  updateRuns,
} from "../journal/runs.ts";
import type { Db } from "../journal/schema.ts";
import { firstConflict } from "./conflict.ts";
import { decideAppend, decideCheck, decideFinish, decideLose, decideOpen } from "./decide.ts";
import {
  type Draft,
  draftOf,
  hasSpec,
  isForkedAt,
  leaseMsOf,
  opened,
  standing,
  viewOf,
} from "./draft.ts";
import type {
  AppendOperation,
  CreateOperation,
  FinishOperation,
  Fork,
  LoseOperation,
  OpenOperation,
  Operation,
  Outcome,
  Producer,
} from "./operation.ts";
import { RecordLog } from "./record-log.ts";
import type { KnownRun, RunCache } from "./run-cache.ts";
import { decideStart, draftOfNew, runStartedBytes } from "./start-run.ts";

/** What a commit left behind, for those who act on it once it is durable. */
export interface Committed {
  /** In the order of the operations. */
  readonly outcomes: readonly Outcome[];
  /** In seq order, without a gap. */
  readonly records: readonly CommittedRecord[];
  /** Trees of the namespace that had been deleted by then. */
  readonly deletionCount: number;
  /** Whether runs were opened that another node had until now: their producers there are fenced. */
  readonly hasTaken: boolean;
  /** As they are after it. */
  readonly holderCounts: HolderCounts;
  /** The namespace as it is after it; undefined while there is none. */
  readonly namespace: NamespaceRow | undefined;
  /** The runs that it read or made, as they are after it. */
  readonly runs: readonly KnownRun[];
}

/** The lineage of runs by their keys: immutable, so it may be kept between commits. */
export interface Lineages {
  get(tx: Db, namespaceId: number, runKey: number): Promise<readonly string[]>;
}

/** What a group is committed with. */
export interface GroupSettings {
  readonly lineages: Lineages;
  readonly cache: Pick<RunCache, "run">;
  /** The namespace as it is, where no other process can have changed it. */
  readonly known: NamespaceRow | undefined;
  /** The server's clock; record_time is this or the newest record's, whichever is later. */
  readonly nowMs: number;
  /** Milliseconds; the lease of a run whose spec has none. */
  readonly defaultLeaseMs: number;
  /** This process among those that serve the journal. */
  readonly nodeKey: number;
}

/** Commits a group inside the transaction `tx`. All operations name `namespace`. */
export async function commitGroup(
  tx: Db,
  namespace: string,
  operations: readonly Operation[],
  settings: GroupSettings,
): Promise<Committed> {
  const locked = await lockOrCreate(tx, namespace, operations, settings);
  if (locked === undefined) {
    const outcomes = operations.map((operation): Outcome => {
      const { runId } = operation;
      const refusal: Refusal =
        operation.kind === "refuse" ? operation.refusal : { reason: "run_not_found", runId };
      return { t: "refused", refusal };
    });
    const holderCounts = { cancel_count: 0, taken_count: 0 };
    return {
      ...{ outcomes, records: [], deletionCount: 0, hasTaken: false, holderCounts },
      ...{ namespace: undefined, runs: [] },
    };
  }
  const group = new Group(tx, locked, operations, settings);
  await group.load(settings);
  for (let index = 0; index < operations.length; index++) await group.decide(index);
  return group.flush();
}

async function lockOrCreate(
  tx: Db,
  namespace: string,
  operations: readonly Operation[],
  { known, nowMs }: GroupSettings,
): Promise<NamespaceRow | undefined> {
  if (known !== undefined) return lockKnownNamespace(tx, known);
  const existing = await lockNamespace(tx, namespace);
  if (existing !== undefined || !operations.some((op) => specOf(op) !== undefined)) return existing;
  await insertNamespace(tx, namespace, nowMs);
  return lockNamespace(tx, namespace);
}

class Group {
  readonly #tx: Db;
  readonly #namespace: NamespaceRow;
  readonly #namespaceId: number;
  readonly #timeMs: number;
  readonly #defaultLeaseMs: number;
  readonly #nodeKey: number;
  readonly #operations: readonly Operation[];
  readonly #outcomes: Outcome[];
  readonly #drafts = new Map<string, Draft>();
  /** Ids that are not free yet, although their runs are not there any more. */
  #idsInDeletion: ReadonlySet<string> = new Set();
  /** How this group changes the namespace's counts. */
  readonly #counts = { runs: 0, running: 0, eventBytes: 0, taken: 0 };
  /** What this try has decided about producers; they themselves change after the commit. */
  readonly #epochs = new Map<Producer, number>();
  readonly #rejected = new Set<Producer>();
  readonly #log: RecordLog;

  constructor(
    tx: Db,
    namespace: NamespaceRow,
    operations: readonly Operation[],
    { nowMs, defaultLeaseMs, nodeKey }: GroupSettings,
  ) {
    this.#tx = tx;
    this.#namespace = namespace;
    this.#namespaceId = namespace.namespace_id;
    this.#timeMs = Math.max(nowMs, namespace.last_time_ms);
    this.#defaultLeaseMs = defaultLeaseMs;
    this.#nodeKey = nodeKey;
    this.#operations = operations;
    this.#outcomes = new Array<Outcome>(operations.length);
    this.#log = new RecordLog(namespace.last_seq, this.#timeMs);
  }

  async load({ lineages, cache }: GroupSettings): Promise<void> {
    const wanted = new Set<string>();
    const created: string[] = [];
    for (const operation of this.#operations) {
      wanted.add(operation.runId);
      const spec = specOf(operation);
      if (spec !== undefined) created.push(operation.runId);
      if (spec !== undefined && spec.parentRunId !== "") wanted.add(spec.parentRunId);
      if (operation.kind === "create" && operation.fork !== undefined) {
        wanted.add(operation.fork.sourceRunId);
      }
    }
    const unknown: string[] = [];
    for (const runId of wanted) {
      const known = cache.run(this.#namespace, runId);
      if (known === undefined) unknown.push(runId);
      else this.#drafts.set(runId, draftOf(known.row, known.lineage, known.forkRunId));
    }
    if (unknown.length > 0) await this.#read(unknown, lineages);
    const absent = created.filter((runId) => !this.#drafts.has(runId));
    if (this.#namespace.deletion_count > 0 && absent.length > 0) {
      this.#idsInDeletion = await findIdsInDeletion(this.#tx, this.#namespaceId, absent);
    }
  }

  async #read(runIds: readonly string[], lineages: Lineages): Promise<void> {
    const rows = await findRuns(this.#tx, this.#namespaceId, runIds);
    const forkKeys = rows.flatMap(({ fork_key: key }) => (key === null ? [] : [key]));
    const sources = new Map<number, string>();
    for (const source of await findRunsByKey(this.#tx, this.#namespaceId, forkKeys)) {
      sources.set(source.run_key, source.run_id);
    }
    for (const row of rows) {
      const lineage = await lineages.get(this.#tx, row.namespace_id, row.run_key);
      const forkRunId = row.fork_key === null ? null : (sources.get(row.fork_key) ?? null);
      this.#drafts.set(row.run_id, draftOf(row, lineage, forkRunId));
    }
  }

  async decide(index: number): Promise<void> {
    const operation = this.#operations[index]!;
    if (operation.kind === "create") {
      this.#outcomes[index] = this.#create(operation);
      return;
    }
    if (operation.kind === "lose") {
      this.#outcomes[index] = this.#lose(operation);
      return;
    }
    const { producer, runId } = operation;
    if (operation.kind === "open") {
      this.#settle(index, producer, this.#openRun(operation));
      return;
    }
    if (producer.rejected || this.#rejected.has(producer)) {
      this.#outcomes[index] = { t: "discarded" };
      return;
    }
    if (operation.kind === "refuse") {
      this.#settle(index, producer, { t: "refused", refusal: operation.refusal });
      return;
    }
    const draft = this.#drafts.get(runId);
    const epoch = this.#epochs.get(producer) ?? producer.epoch;
    if (draft === undefined || epoch === undefined) {
      const reason = draft === undefined ? "run_not_found" : "run_not_open";
      this.#settle(index, producer, { t: "refused", refusal: { reason, runId } });
      return;
    }
    switch (operation.kind) {
      case "append":
        await this.#append(index, operation, draft, epoch);
        return;
      case "check":
        this.#log.seal(draft);
        this.#settle(index, producer, this.#check(draft, epoch));
        return;
      case "finish":
        this.#settle(index, producer, this.#finish(operation, draft, epoch));
    }
  }

  #settle(index: number, producer: Producer, outcome: Outcome): void {
    this.#outcomes[index] = outcome;
    if (outcome.t === "refused") this.#rejected.add(producer);
    if (outcome.t === "opened") this.#epochs.set(producer, outcome.epoch);
  }

  #check(draft: Draft, epoch: number): Outcome {
    const refused = decideCheck(standing(draft), epoch);
    if (refused !== undefined) return refused;
    this.#lookAfter(draft);
    return this.#opened(draft);
  }

  /** The producer is here, so this node is the one that notices when it goes. */
  #lookAfter(draft: Draft): void {
    if (draft.row.node_key === this.#nodeKey) return;
    draft.row.node_key = this.#nodeKey;
    draft.changed = true;
  }

  #opened(draft: Draft): Outcome {
    return opened(draft, this.#defaultLeaseMs);
  }

  #create({ runId, spec, fork }: CreateOperation): Outcome {
    const draft = this.#drafts.get(runId);
    if (draft !== undefined) {
      if (!hasSpec(draft, spec) || !isForkedAt(draft, fork)) {
        return { t: "refused", refusal: { reason: "run_exists", runId } };
      }
      // It may be ours by a try of this transaction of which we were not told.
      const { epoch, node_key: nodeKey } = draft.row;
      const isWaiting = epoch === 0 && nodeKey === this.#nodeKey;
      const leaseMs = isWaiting ? leaseMsOf(spec, this.#defaultLeaseMs) : undefined;
      return { t: "created", run: viewOf(draft), leaseMs };
    }
    const started = this.#startRun("spec", runId, spec, fork);
    if ("refusal" in started) return started;
    const leaseMs = leaseMsOf(spec, this.#defaultLeaseMs);
    return { t: "created", run: viewOf(started), leaseMs };
  }

  #openRun({ runId, spec }: OpenOperation): Outcome {
    let draft = this.#drafts.get(runId);
    const decision = decideOpen(runId, draft && standing(draft), relationOf(spec, draft));
    if (decision.t === "refused") return decision;
    if (decision.t === "create") {
      const started = this.#startRun("open.create", runId, spec!, undefined);
      if ("refusal" in started) return started;
      draft = started;
    }
    // Its last event has a seq before it is told.
    this.#log.seal(draft!);
    draft!.row.epoch++;
    draft!.changed = true;
    if (draft!.row.node_key !== this.#nodeKey) this.#counts.taken++;
    this.#lookAfter(draft!);
    if (decision.t === "take" && decision.resumed) this.#resumeRun(draft!);
    return this.#opened(draft!);
  }

  #resumeRun(draft: Draft): void {
    this.#counts.running++;
    draft.row.state = RunState.RUNNING;
    draft.row.result = null;
    draft.row.end_time_ms = null;
    const resumed = create(RunResumedSchema, { lastRunSeq: BigInt(draft.row.last_run_seq) });
    this.#log.addFact(draft, "run_resumed", toBinary(RunResumedSchema, resumed));
  }

  #startRun(
    field: string,
    runId: string,
    spec: RunSpec,
    fork: Fork | undefined,
  ): Draft | { readonly t: "refused"; readonly refusal: Refusal } {
    const parent = this.#drafts.get(spec.parentRunId);
    const source = fork && this.#drafts.get(fork.sourceRunId);
    const newRun = { runId, spec, parent, fork, source };
    const refusal: Refusal | undefined = this.#idsInDeletion.has(runId)
      ? { reason: "run_in_deletion", runId }
      : decideStart(field, newRun);
    if (refusal !== undefined) return { t: "refused", refusal };
    // The run's key is the seq of its first record, so nothing may come in between.
    this.#log.sealAll();
    const draft = draftOfNew(newRun, {
      namespaceId: this.#namespaceId,
      runKey: this.#log.lastSeq + 1,
      timeMs: this.#timeMs,
      nodeKey: this.#nodeKey,
    });
    this.#drafts.set(runId, draft);
    this.#counts.runs++;
    this.#counts.running++;
    this.#log.addFact(draft, "run_started", runStartedBytes(draft));
    return draft;
  }

  async #append(
    index: number,
    { producer, firstRunSeq, events }: AppendOperation,
    draft: Draft,
    epoch: number,
  ): Promise<void> {
    const decision = decideAppend(standing(draft), epoch, firstRunSeq, events.length);
    if (decision.t === "refused") {
      this.#settle(index, producer, decision);
      return;
    }
    this.#lookAfter(draft);
    const skip = decision.t === "duplicate" ? events.length : decision.skip;
    const runSeq = await firstConflict(this.#tx, draft, firstRunSeq, events.slice(0, skip));
    if (runSeq !== undefined) {
      const expectedRunSeq = draft.row.last_run_seq + 1;
      const refusal: Refusal = { reason: "conflict", runSeq, expectedRunSeq };
      this.#settle(index, producer, { t: "refused", refusal });
      return;
    }
    for (let i = skip; i < events.length; i++) {
      const event = events[i]!;
      this.#counts.eventBytes += event.bytes.length;
      this.#log.addEvent(draft, event);
    }
    this.#log.whenPlaced(draft, (placedRunSeq, seq) => {
      this.#outcomes[index] = { t: "durable", runSeq: placedRunSeq, seq };
    });
  }

  #finish(operation: FinishOperation, draft: Draft, epoch: number): Outcome {
    const { row } = draft;
    const { result, lastRunSeq = row.last_run_seq } = operation;
    const isSame =
      row.result !== null &&
      equals(RunResultSchema, fromBinary(RunResultSchema, row.result), result);
    const decision = decideFinish(standing(draft), epoch, lastRunSeq, isSame);
    if (decision.t === "refused") return decision;
    if (decision.t === "finish") this.#endRun(draft, result);
    return { t: "ended", run: viewOf(draft) };
  }

  #lose({ runId, epoch }: LoseOperation): Outcome {
    const draft = this.#drafts.get(runId);
    if (draft === undefined || !decideLose(standing(draft), epoch, this.#nodeKey)) {
      return { t: "discarded" };
    }
    this.#endRun(draft, create(RunResultSchema, { state: RunState.LOST }));
    return { t: "ended", run: viewOf(draft) };
  }

  #endRun(draft: Draft, result: RunResult): void {
    const { row } = draft;
    this.#counts.running--;
    row.state = result.state;
    row.result = toBinary(RunResultSchema, result);
    row.end_time_ms = this.#timeMs;
    draft.changed = true;
    const lastRunSeq = BigInt(row.last_run_seq);
    const finished = create(RunFinishedSchema, { result, lastRunSeq });
    this.#log.addFact(draft, "run_finished", toBinary(RunFinishedSchema, finished));
  }

  async flush(): Promise<Committed> {
    this.#log.sealAll();
    const changed = [...this.#drafts.values()].filter((draft) => draft.changed);
    const rowsOf = (drafts: readonly Draft[]) => drafts.map(({ row }) => row);
    const [created, known] = partition(changed, ({ newSpec }) => newSpec !== undefined);
    await insertRuns(this.#tx, rowsOf(created));
    await updateRuns(this.#tx, rowsOf(known));
    for (const { row, newSpec } of created) {
      if (newSpec === undefined) continue;
      await insertAncestors(this.#tx, this.#namespaceId, row.run_key, row.parent_key);
      await insertLabels(this.#tx, this.#namespaceId, row.run_key, newSpec.labels);
    }
    const { rows, records, lastSeq } = this.#log;
    const { runs, running, eventBytes, taken } = this.#counts;
    const { run_count, running_count, event_bytes, cancel_count, taken_count } = this.#namespace;
    const takenCount = taken_count + taken;
    if (rows.length > 0) await insertRecords(this.#tx, rows);
    const change = {
      last_seq: lastSeq,
      last_time_ms: rows.length > 0 ? this.#timeMs : this.#namespace.last_time_ms,
      run_count: run_count + runs,
      running_count: running_count + running,
      event_bytes: event_bytes + eventBytes,
      taken_count: takenCount,
    };
    if (rows.length > 0 || taken > 0) await updateNamespace(this.#tx, this.#namespaceId, change);
    return {
      outcomes: this.#outcomes,
      records,
      deletionCount: this.#namespace.deletion_count,
      hasTaken: taken > 0,
      holderCounts: { cancel_count, taken_count: takenCount },
      namespace: { ...this.#namespace, ...change },
      // Without the events that were added.
      runs: [...this.#drafts.values()].map(({ row, lineage, forkRunId }) => {
        return { row, lineage, forkRunId };
      }),
    };
  }
}

function partition<T>(items: readonly T[], is: (item: T) => boolean): [T[], T[]] {
  return [items.filter(is), items.filter((item) => !is(item))];
}

function specOf(operation: Operation): RunSpec | undefined {
  return operation.kind === "create" || operation.kind === "open" ? operation.spec : undefined;
}

function relationOf(
  spec: RunSpec | undefined,
  draft: Draft | undefined,
): "absent" | "equal" | "different" {
  if (spec === undefined) return "absent";
  return draft !== undefined && hasSpec(draft, spec) ? "equal" : "different";
}
