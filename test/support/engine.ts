/** The domain put together as the server does it, without the wire. */
import { create, fromBinary, toBinary } from "@bufbuild/protobuf";
import { type Event, EventSchema } from "../../gen/runlog/v1/event_pb.js";
import type { IngestRequest } from "../../gen/runlog/v1/ingest_pb.js";
import type { SequencedEvent } from "../../gen/runlog/v1/record_pb.js";
import { RunSpecSchema, SignalRunRequestSchema } from "../../gen/runlog/v1/run_pb.js";
import { EventBatchSchema } from "../../gen/runlog/v1/subscribe_pb.js";
import type { Scope } from "../../src/delivery/filter.ts";
import type { SubscriptionFrame } from "../../src/delivery/frames.ts";
import { subscribe } from "../../src/delivery/subscribe.ts";
import type { DeliveryOptions, SubscriptionSpec } from "../../src/delivery/subscription-spec.ts";
import { Tails } from "../../src/delivery/tails.ts";
import { TypeFilter } from "../../src/delivery/type-filter.ts";
import { Committer } from "../../src/ingest/committer.ts";
import { checkEvents } from "../../src/ingest/event-bytes.ts";
import type { IngestRequestBytes } from "../../src/ingest/frames.ts";
import { Leases } from "../../src/ingest/leases.ts";
import { type Outcome, Producer } from "../../src/ingest/operation.ts";
import { type SentSignal, signalRun } from "../../src/ingest/signal-run.ts";
import type { Journal } from "../../src/journal/journal.ts";
import { onlyNode } from "../../src/journal/nodes.ts";
import { defaultLimits, type Limits } from "../../src/limits.ts";
import { MemoryBudget } from "../../src/memory-budget.ts";
import { toFrameBytes } from "../../src/server/ingest-bytes.ts";

/** Ingest and delivery over one journal. */
export interface Engine extends DeliveryOptions {
  readonly memory: MemoryBudget;
  readonly committer: Committer;
  readonly leases: Leases;
}

/** Puts the domain together; `limits` where they differ from the defaults. */
export function engineOver(
  journal: Journal,
  limits: Partial<Limits> = {},
  now: () => number = Date.now,
): Engine {
  const all: Limits = { ...defaultLimits, ...limits };
  const tails = new Tails(all.tailBytes);
  const leases = new Leases();
  const committer = new Committer({
    journal,
    leases,
    limits: all,
    node: onlyNode,
    now,
    onCommitted: (namespace, records, count) => tails.publish(namespace, records, count),
    onUncertain: (namespace) => tails.forget(namespace),
  });
  const memory = new MemoryBudget(all.memoryBytes, (bytes) => {
    tails.setMaxBytes(Math.min(all.tailBytes, bytes));
  });
  return { journal, tails, memory, limits: all, committer, leases };
}

/** An event with a payload that names it. */
export function eventOf(text: string, type = "test"): Event {
  return create(EventSchema, { type, data: Buffer.from(text) });
}

/** Opens a run, creating it where there is a parent or a spec is wanted. */
export async function openRun(
  { committer }: Engine,
  runId: string,
  parentRunId = "",
): Promise<Producer> {
  const producer = new Producer(runId);
  const spec = create(RunSpecSchema, { parentRunId });
  const outcome = await committer.submit({
    kind: "open",
    namespace: "default",
    runId,
    producer,
    spec,
  });
  if (outcome.t !== "opened") throw new Error(`open was answered ${JSON.stringify(outcome)}`);
  return producer;
}

/** Appends events; resolves with the outcome after its commit. */
export function append(
  { committer, limits }: Engine,
  producer: Producer,
  firstRunSeq: number,
  events: readonly Event[],
): Promise<Outcome> {
  const encoded = events.map((event) => toBinary(EventSchema, event));
  const checked = checkEvents("events", encoded, limits);
  const { runId } = producer;
  return committer.submit({
    kind: "append",
    namespace: "default",
    runId,
    producer,
    firstRunSeq,
    ...checked,
  });
}

/** Sends a signal to a run. */
export function signal(engine: Engine, runId: string, event: Event): Promise<SentSignal> {
  return signalRun(engine, create(SignalRunRequestSchema, { runId, event }), "");
}

/** A subscription to the namespace "default", with what differs from the usual. */
export function subscriptionTo(
  scope: Scope,
  rest: Partial<SubscriptionSpec> = {},
  eventTypes: readonly string[] = [],
): SubscriptionSpec {
  return {
    namespace: "default",
    filter: {
      scope,
      types: TypeFilter.parse("event_types", eventTypes),
      kinds: undefined,
    },
    start: { t: "after", seq: 0 },
    stop: "never",
    progressIntervalMs: 60_000,
    allowMissing: true,
    journalId: "",
    ...rest,
  };
}

/** The records in a frame. */
export function recordsIn(frame: SubscriptionFrame): SequencedEvent[] {
  return frame.t === "events"
    ? fromBinary(EventBatchSchema, Buffer.concat(frame.parts)).events
    : [];
}

/** Everything that is durable for a scope after a seq, read from the journal alone. */
export async function readAll(
  journal: Journal,
  scope: Scope = { kind: "all" },
  afterSeq = 0,
): Promise<SequencedEvent[]> {
  const records: SequencedEvent[] = [];
  const memory = new MemoryBudget(defaultLimits.memoryBytes);
  const options = { journal, tails: new Tails(0), memory, limits: defaultLimits };
  const subscription = subscriptionTo(scope, {
    start: { t: "after", seq: afterSeq },
    stop: "caught_up",
  });
  for await (const frame of subscribe(options, subscription, new AbortController().signal)) {
    records.push(...recordsIn(frame));
  }
  return records;
}

/** A stream's frames, one at a time, as they come from the wire. */
export async function* toIngestBytes(
  requests: AsyncIterable<IngestRequest>,
): AsyncGenerator<readonly IngestRequestBytes[]> {
  for await (const request of requests) yield [toFrameBytes(request)];
}
