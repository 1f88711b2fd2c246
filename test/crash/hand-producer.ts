import assert from "node:assert/strict";
import type { MessageInitShape } from "@bufbuild/protobuf";
import type { IngestRequestSchema, IngestResponse } from "../../gen/runlog/v1/ingest_pb.js";
import { RunState } from "../../gen/runlog/v1/run_pb.js";
import { type Connection, eventAt, type Promised } from "./history.ts";
import type { Random } from "./random.ts";

type Request = MessageInitShape<typeof IngestRequestSchema>;

/** Events of a run that await their acknowledgement at most. */
const unackedWindow = 32;
const maxBatch = 8;

/** Requests that are pushed by answers. */
class Requests {
  readonly #waiting: Request[] = [];
  #isClosed = false;
  #wake: (() => void) | undefined;

  push(request: Request): void {
    this.#waiting.push(request);
    this.#wake?.();
  }

  close(): void {
    this.#isClosed = true;
    this.#wake?.();
  }

  async *[Symbol.asyncIterator](): AsyncGenerator<Request> {
    for (;;) {
      const request = this.#waiting.shift();
      if (request !== undefined) {
        yield request;
      } else if (this.#isClosed) {
        return;
      } else {
        await new Promise<void>((resolve) => {
          this.#wake = resolve;
        });
      }
    }
  }
}

/** One run of the producer. */
export class HandRun implements Promised {
  readonly runId: string;
  /** Events that it shall have in the end. */
  readonly planned: number;
  /** Whether FinishRun follows the last Append at once, or its acknowledgement. */
  readonly finishesAtOnce: boolean;
  sent = 0;
  acked = 0;
  ackedSeq = 0;
  isEnded = false;
  /** Of the current stream. */
  next = 0;
  isFinishSent = false;

  constructor(runId: string, planned: number, finishesAtOnce: boolean) {
    this.runId = runId;
    this.planned = planned;
    this.finishesAtOnce = finishesAtOnce;
  }
}

/**
 * A producer by hand: several runs on one Ingest stream, pipelined, which
 * keeps what it was promised and trusts nothing else. It rebases on
 * RunOpened.last_run_seq and asserts the contract on each answer.
 */
export class HandProducer {
  readonly runs: HandRun[] = [];
  readonly #random: Random;

  constructor(random: Random) {
    this.#random = random;
  }

  /**
   * Opens its runs on one stream and goes on where they are, until all have
   * ended. Rejects where the stream breaks; call again on another connection.
   */
  async produce(connection: Connection, onAck: () => void): Promise<void> {
    const requests = new Requests();
    const open = new Map<string, HandRun>();
    for (const run of this.runs) {
      if (run.isEnded) continue;
      run.next = 0;
      run.isFinishSent = false;
      open.set(run.runId, run);
      const value = { runId: run.runId, create: { agentId: "hand" } };
      requests.push({ frame: { case: "open", value } });
    }
    if (open.size === 0) return;
    try {
      for await (const response of connection.ingest.ingest(requests)) {
        this.#onResponse(response, open, requests, onAck);
        if (open.size === 0) requests.close();
      }
      assert.equal(open.size, 0, "the stream ended before its runs");
    } finally {
      requests.close();
    }
  }

  #onResponse(
    { frame }: IngestResponse,
    open: Map<string, HandRun>,
    requests: Requests,
    onAck: () => void,
  ): void {
    switch (frame.case) {
      case "opened": {
        const run = open.get(frame.value.runId)!;
        const lastRunSeq = Number(frame.value.lastRunSeq);
        assert.ok(lastRunSeq >= run.acked, `${run.runId} went back behind its acknowledgement`);
        assert.ok(lastRunSeq <= run.sent, `${run.runId} has more than was sent`);
        // Durable as well, but its seq is not told.
        if (lastRunSeq > run.acked) run.ackedSeq = 0;
        run.acked = lastRunSeq;
        run.next = lastRunSeq + 1;
        this.#fill(run, requests);
        return;
      }
      case "ack": {
        const run = open.get(frame.value.runId)!;
        const runSeq = Number(frame.value.runSeq);
        assert.ok(runSeq >= run.acked && runSeq <= run.sent, `${run.runId}: odd acknowledgement`);
        run.acked = runSeq;
        run.ackedSeq = Number(frame.value.seq);
        this.#fill(run, requests);
        onAck();
        return;
      }
      case "ended": {
        const ended = frame.value.run!;
        const run = open.get(ended.runId)!;
        assert.equal(ended.state, RunState.SUCCEEDED);
        assert.equal(ended.lastRunSeq, BigInt(run.planned));
        assert.equal(run.acked, run.planned, `${run.runId} ended before its events`);
        run.isEnded = true;
        open.delete(run.runId);
        return;
      }
      default:
        assert.fail(
          `unexpected ${JSON.stringify(frame, (_, v) => (typeof v === "bigint" ? `${v}` : v))}`,
        );
    }
  }

  /** Sends as much of a run as its window takes. */
  #fill(run: HandRun, requests: Requests): void {
    const { runId, planned } = run;
    while (run.next <= planned && run.next - 1 - run.acked < unackedWindow) {
      const room = Math.min(planned - run.next + 1, unackedWindow - (run.next - 1 - run.acked));
      const count = Math.min(room, this.#random.between(1, maxBatch));
      const events = Array.from({ length: count }, (_, i) => eventAt(runId, run.next + i));
      const value = { runId, firstRunSeq: BigInt(run.next), events };
      requests.push({ frame: { case: "append", value } });
      run.next += count;
      run.sent = Math.max(run.sent, run.next - 1);
    }
    const isDone = run.next > planned && (run.finishesAtOnce || run.acked === planned);
    if (!isDone || run.isFinishSent) return;
    run.isFinishSent = true;
    const value = { runId, lastRunSeq: BigInt(planned), result: { state: RunState.SUCCEEDED } };
    requests.push({ frame: { case: "finish", value } });
  }
}
