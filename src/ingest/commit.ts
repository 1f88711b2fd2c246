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
import {
  EventSchema,
  RunFinishedSchema,
  RunResumedSchema,
  RunStartedSchema,
} from "../../gen/runlog/v1/event_pb.js";
import {
  RunResultSchema,
  type RunSpec,
  RunSpecSchema,
  RunState,
} from "../../gen/runlog/v1/run_pb.js";
import type { CommittedRecord } from "../journal/committed-record.ts";
import { eventsIn } from "../journal/record-codec.ts";
import { insertRecords, readRunFrom } from "../journal/records.ts";
import type { Refusal } from "../journal/refusal.ts";
import {
  advanceNamespace,
  findRuns,
  insertAncestors,
  insertLabels,
  insertNamespace,
  lockNamespace,
  type NamespaceRow,
  upsertRuns,
} from "../journal/runs.ts";
import type { Db } from "../journal/schema.ts";
import { maxDepth } from "../limits.ts";
import { decideAppend, decideCheck, decideFinish, decideOpen } from "./decide.ts";
import { type Draft, draftOf, hasSpec, opened, standing, viewOf } from "./draft.ts";
import type {
  AppendOperation,
  CheckedEvent,
  CreateOperation,
  FinishOperation,
  OpenOperation,
  Operation,
  Outcome,
  Producer,
} from "./operation.ts";
import { RecordLog } from "./record-log.ts";

/** What a commit left behind, for those who act on it once it is durable. */
export interface Committed {
  /** In the order of the operations. */
  readonly outcomes: readonly Outcome[];
  /** In seq order, without a gap. */
  readonly records: readonly CommittedRecord[];
}

/** The lineage of runs by their keys: immutable, so it may be kept between commits. */
export interface Lineages {
  get(tx: Db, namespaceId: number, runKey: number): Promise<readonly string[]>;
}

/**
 * Commits a group inside the transaction `tx`. All operations name `namespace`.
 *
 * @param nowMs the server's clock; record_time is this or the newest record's, whichever is later
 */
export async function commitGroup(
  tx: Db,
  namespace: string,
  operations: readonly Operation[],
  lineages: Lineages,
  nowMs: number,
): Promise<Committed> {
  const locked = await lockOrCreate(tx, namespace, operations, nowMs);
  if (locked === undefined) {
    const outcomes = operations.map(
      ({ runId }): Outcome => ({ t: "refused", refusal: { reason: "run_not_found", runId } }),
    );
    return { outcomes, records: [] };
  }
  const group = new Group(tx, locked, Math.max(nowMs, locked.last_time_ms), operations);
  await group.load(lineages);
  for (let index = 0; index < operations.length; index++) await group.decide(index);
  return group.flush();
}

async function lockOrCreate(
  tx: Db,
  namespace: string,
  operations: readonly Operation[],
  nowMs: number,
): Promise<NamespaceRow | undefined> {
  const existing = await lockNamespace(tx, namespace);
  if (existing !== undefined || !operations.some((op) => specOf(op) !== undefined)) return existing;
  await insertNamespace(tx, namespace, nowMs);
  return lockNamespace(tx, namespace);
}

class Group {
  readonly #tx: Db;
  readonly #namespaceId: number;
  readonly #timeMs: number;
  readonly #operations: readonly Operation[];
  readonly #outcomes: Outcome[];
  readonly #drafts = new Map<string, Draft>();
  /** What this try has decided about producers; they themselves change after the commit. */
  readonly #epochs = new Map<Producer, number>();
  readonly #rejected = new Set<Producer>();
  readonly #log: RecordLog;

  constructor(tx: Db, namespace: NamespaceRow, timeMs: number, operations: readonly Operation[]) {
    this.#tx = tx;
    this.#namespaceId = namespace.namespace_id;
    this.#timeMs = timeMs;
    this.#operations = operations;
    this.#outcomes = new Array<Outcome>(operations.length);
    this.#log = new RecordLog(namespace.last_seq, timeMs);
  }

  async load(lineages: Lineages): Promise<void> {
    const wanted = new Set<string>();
    for (const operation of this.#operations) {
      wanted.add(operation.runId);
      const parentRunId = specOf(operation)?.parentRunId ?? "";
      if (parentRunId !== "") wanted.add(parentRunId);
    }
    for (const row of await findRuns(this.#tx, this.#namespaceId, [...wanted])) {
      const lineage = await lineages.get(this.#tx, row.namespace_id, row.run_key);
      this.#drafts.set(row.run_id, draftOf(row, lineage));
    }
  }

  async decide(index: number): Promise<void> {
    const operation = this.#operations[index]!;
    if (operation.kind === "create") {
      this.#outcomes[index] = this.#create(operation);
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
        this.#settle(index, producer, decideCheck(standing(draft), epoch) ?? opened(draft));
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

  #create({ runId, spec }: CreateOperation): Outcome {
    const draft = this.#drafts.get(runId);
    if (draft !== undefined) {
      return hasSpec(draft, spec)
        ? { t: "created", run: viewOf(draft) }
        : { t: "refused", refusal: { reason: "run_exists", runId } };
    }
    const started = this.#startRun("spec", runId, spec);
    return "refusal" in started ? started : { t: "created", run: viewOf(started) };
  }

  #openRun({ runId, spec }: OpenOperation): Outcome {
    let draft = this.#drafts.get(runId);
    const decision = decideOpen(runId, draft && standing(draft), relationOf(spec, draft));
    if (decision.t === "refused") return decision;
    if (decision.t === "create") {
      const started = this.#startRun("open.create", runId, spec!);
      if ("refusal" in started) return started;
      draft = started;
    }
    // Its last event has a seq before it is told.
    this.#log.seal(draft!);
    draft!.row.epoch++;
    draft!.changed = true;
    if (decision.t === "take" && decision.resumed) this.#resumeRun(draft!);
    return opened(draft!);
  }

  #resumeRun(draft: Draft): void {
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
  ): Draft | { readonly t: "refused"; readonly refusal: Refusal } {
    const { parentRunId } = spec;
    const parent = parentRunId === "" ? undefined : this.#drafts.get(parentRunId);
    if (parentRunId !== "" && parent === undefined) {
      return { t: "refused", refusal: { reason: "parent_not_found", parentRunId } };
    }
    const depth = parent === undefined ? 0 : parent.row.depth + 1;
    if (depth > maxDepth) {
      const refusal: Refusal = {
        reason: "invalid_field",
        field: `${field}.parent_run_id`,
        problem: `a tree is at most ${maxDepth} edges deep`,
        limit: maxDepth,
      };
      return { t: "refused", refusal };
    }
    // The run's key is the seq of its first record, so nothing may come in between.
    this.#log.sealAll();
    const runKey = this.#log.lastSeq + 1;
    const lineage = [runId, ...(parent?.lineage ?? [])];
    const row = {
      namespace_id: this.#namespaceId,
      run_key: runKey,
      run_id: runId,
      parent_key: parent?.row.run_key ?? null,
      root_key: parent?.row.root_key ?? runKey,
      depth,
      conversation_id: spec.conversationId,
      spec: toBinary(RunSpecSchema, spec),
      fork_key: null,
      fork_run_seq: null,
      create_time_ms: this.#timeMs,
      epoch: 0,
      state: RunState.RUNNING,
      last_run_seq: 0,
      last_event_seq: 0,
      last_seq: runKey,
      event_bytes: 0,
      result: null,
      end_time_ms: null,
    };
    const draft: Draft = { ...draftOf(row, lineage), newSpec: spec, changed: true };
    this.#drafts.set(runId, draft);
    const started = create(RunStartedSchema, { spec, rootRunId: lineage.at(-1) ?? runId, depth });
    this.#log.addFact(draft, "run_started", toBinary(RunStartedSchema, started));
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
    const skip = decision.t === "duplicate" ? events.length : decision.skip;
    const runSeq = await this.#firstConflict(draft, firstRunSeq, events.slice(0, skip));
    if (runSeq !== undefined) {
      const expectedRunSeq = draft.row.last_run_seq + 1;
      const refusal: Refusal = { reason: "conflict", runSeq, expectedRunSeq };
      this.#settle(index, producer, { t: "refused", refusal });
      return;
    }
    for (let i = skip; i < events.length; i++) this.#log.addEvent(draft, events[i]!);
    this.#log.whenPlaced(draft, (placedRunSeq, seq) => {
      this.#outcomes[index] = { t: "durable", runSeq: placedRunSeq, seq };
    });
  }

  /** run_seq of the first event that differs from the durable one of the same run_seq. */
  async #firstConflict(
    draft: Draft,
    firstRunSeq: number,
    events: readonly CheckedEvent[],
  ): Promise<number | undefined> {
    let index = 0;
    while (index < events.length && firstRunSeq + index <= draft.durableRunSeq) {
      const runSeq = firstRunSeq + index;
      const [record] = await readRunFrom(this.#tx, this.#namespaceId, draft.row, runSeq, 1);
      if (record === undefined) throw new Error(`run_seq ${runSeq} is missing in the journal`);
      for (const durable of eventsIn(record.data, runSeq - record.first_run_seq)) {
        if (index === events.length) break;
        if (!isSameEvent(durable, events[index]!.bytes)) return firstRunSeq + index;
        index++;
      }
    }
    for (; index < events.length; index++) {
      const added = draft.added[firstRunSeq + index - draft.durableRunSeq - 1];
      if (added === undefined || !isSameEvent(added.bytes, events[index]!.bytes)) {
        return firstRunSeq + index;
      }
    }
    return undefined;
  }

  #finish(operation: FinishOperation, draft: Draft, epoch: number): Outcome {
    const { row } = draft;
    const { result, lastRunSeq = row.last_run_seq } = operation;
    const isSame =
      row.result !== null &&
      equals(RunResultSchema, fromBinary(RunResultSchema, row.result), result);
    const decision = decideFinish(standing(draft), epoch, lastRunSeq, isSame);
    if (decision.t === "refused") return decision;
    if (decision.t === "finish") {
      row.state = result.state;
      row.result = toBinary(RunResultSchema, result);
      row.end_time_ms = this.#timeMs;
      draft.changed = true;
      const finished = create(RunFinishedSchema, { result, lastRunSeq: BigInt(lastRunSeq) });
      this.#log.addFact(draft, "run_finished", toBinary(RunFinishedSchema, finished));
    }
    return { t: "ended", run: viewOf(draft) };
  }

  async flush(): Promise<Committed> {
    this.#log.sealAll();
    const changed = [...this.#drafts.values()].filter((draft) => draft.changed);
    if (changed.length > 0) {
      await upsertRuns(
        this.#tx,
        changed.map((draft) => draft.row),
      );
    }
    for (const { row, newSpec } of changed) {
      if (newSpec === undefined) continue;
      await insertAncestors(this.#tx, this.#namespaceId, row.run_key, row.parent_key);
      await insertLabels(this.#tx, this.#namespaceId, row.run_key, newSpec.labels);
    }
    const { rows, records, lastSeq } = this.#log;
    if (rows.length > 0) {
      await insertRecords(this.#tx, rows);
      await advanceNamespace(this.#tx, this.#namespaceId, lastSeq, this.#timeMs);
    }
    return { outcomes: this.#outcomes, records };
  }
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

/** Equal bytes, or equal messages: a client may order a map anew each time it encodes it. */
function isSameEvent(durable: Uint8Array, sent: Uint8Array): boolean {
  if (Buffer.compare(durable, sent) === 0) return true;
  return equals(EventSchema, fromBinary(EventSchema, durable), fromBinary(EventSchema, sent));
}
