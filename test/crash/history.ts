/**
 * What was sent and what is there: events that can be computed again from
 * their place, and a check of the whole journal against what was promised.
 */
import assert from "node:assert/strict";
import { create, toBinary } from "@bufbuild/protobuf";
import { timestampFromMs } from "@bufbuild/protobuf/wkt";
import { type Client, createClient, type Transport } from "@connectrpc/connect";
import { createGrpcTransport, Http2SessionManager } from "@connectrpc/connect-node";
import { type Event, EventSchema } from "../../gen/runlog/v1/event_pb.js";
import { IngestService } from "../../gen/runlog/v1/ingest_pb.js";
import type { SequencedEvent } from "../../gen/runlog/v1/record_pb.js";
import { RunService, RunState } from "../../gen/runlog/v1/run_pb.js";
import { StopPolicy, SubscribeService } from "../../gen/runlog/v1/subscribe_pb.js";

/** A connection with the clients on it. */
export interface Connection {
  readonly transport: Transport;
  readonly ingest: Client<typeof IngestService>;
  readonly runs: Client<typeof RunService>;
  readonly subscribe: Client<typeof SubscribeService>;
  /** Cuts it. */
  close(): void;
}

/** Connects over gRPC. */
export function connect(url: string): Connection {
  const sessionManager = new Http2SessionManager(url);
  const transport = createGrpcTransport({ baseUrl: url, sessionManager });
  return {
    transport,
    ingest: createClient(IngestService, transport),
    runs: createClient(RunService, transport),
    subscribe: createClient(SubscribeService, transport),
    close: () => sessionManager.abort(),
  };
}

/** The event at a place of a run: always the same bytes, of many sizes. */
export function eventAt(runId: string, runSeq: number): Event {
  const padding = "x".repeat((runSeq * 7919) % 700);
  return create(EventSchema, {
    type: `step.${runSeq % 3}`,
    data: Buffer.from(`${runId}#${runSeq}#${padding}`),
    contentType: "text/plain",
    time: timestampFromMs(1_700_000_000_000 + runSeq),
    attributes: { place: `${runSeq}` },
  });
}

/** What a producer was promised about a run, and what it did. */
export interface Promised {
  readonly runId: string;
  /** Highest run_seq that was ever sent. */
  readonly sent: number;
  /** Highest run_seq that was acknowledged. */
  readonly acked: number;
  /** The seq that came with that acknowledgement; 0 where there is none. */
  readonly ackedSeq: number;
  /** Whether RunEnded came. */
  readonly isEnded: boolean;
}

/** Milliseconds; a replay that does not come to its end fails by itself. */
const replayTimeoutMs = 20_000;

/** Everything in the journal, from its beginning. */
export async function replay({ subscribe }: Connection): Promise<SequencedEvent[]> {
  const records: SequencedEvent[] = [];
  const request = {
    filter: { scope: { case: "all" as const, value: {} } },
    start: { case: "afterSeq" as const, value: 0n },
    stop: StopPolicy.CAUGHT_UP,
  };
  for await (const { frame } of subscribe.subscribe(request, { timeoutMs: replayTimeoutMs })) {
    if (frame.case === "events") records.push(...frame.value.events);
  }
  return records;
}

/** Checks that seqs are 1, 2, 3, …. */
function assertDense(records: readonly SequencedEvent[]): void {
  for (const [index, { seq }] of records.entries()) assert.equal(seq, BigInt(index + 1));
}

/**
 * Checks the whole journal: dense seqs; each run started once, its events in
 * order, complete and as they were sent, finished at most once and last; and
 * all that was promised kept.
 */
export async function assertPromisesKept(
  connection: Connection,
  promises: readonly Promised[],
): Promise<SequencedEvent[]> {
  const records = await replay(connection);
  assertDense(records);
  const byRun = Map.groupBy(records, (record) => record.runId);
  for (const promised of promises) {
    const { runId } = promised;
    const run = byRun.get(runId) ?? [];
    byRun.delete(runId);
    const events = assertWellFormed(runId, run);
    assert.ok(events.length >= promised.acked, `${runId}: acknowledged events are missing`);
    assert.ok(events.length <= promised.sent, `${runId} has events that nobody sent`);
    if (promised.ackedSeq > 0) {
      assert.equal(events[promised.acked - 1]?.seq, BigInt(promised.ackedSeq));
    }
    const isFinished = run.at(-1)?.record.case === "runFinished";
    if (promised.isEnded) assert.ok(isFinished, `${runId}: the acknowledged end is missing`);
    if (run.length === 0) continue;
    const { run: stored } = await connection.runs.getRun({ runId });
    assert.equal(stored?.lastRunSeq, BigInt(events.length));
    assert.equal(stored.state, isFinished ? RunState.SUCCEEDED : RunState.RUNNING);
    assert.equal(stored.lastSeq, run.at(-1)?.seq);
  }
  assert.deepEqual([...byRun.keys()], [], "runs that nobody started");
  return records;
}

/** Checks one run's records and returns its events. */
function assertWellFormed(runId: string, run: readonly SequencedEvent[]): SequencedEvent[] {
  const events = run.filter((record) => record.record.case === "event");
  for (const [index, { runSeq, record }] of events.entries()) {
    assert.equal(runSeq, BigInt(index + 1), `${runId}: run_seq is not dense`);
    const sent = toBinary(EventSchema, eventAt(runId, index + 1));
    const kept = toBinary(EventSchema, record.value as Event);
    assert.ok(Buffer.compare(sent, kept) === 0, `${runId}: event ${runSeq} differs`);
  }
  const facts = run.filter((record) => record.record.case !== "event");
  if (run.length > 0) assert.equal(run[0]?.record.case, "runStarted");
  const finishes = facts.slice(1);
  assert.ok(finishes.length <= 1, `${runId} has more than a start and an end`);
  const [finish] = finishes;
  if (finish?.record.case === "runFinished") {
    assert.equal(finish, run.at(-1), `${runId} goes on after its end`);
    assert.equal(finish.record.value.lastRunSeq, BigInt(events.length));
  } else {
    assert.equal(finish, undefined);
  }
  return events;
}
