import assert from "node:assert/strict";
import { create, fromBinary } from "@bufbuild/protobuf";
import fc from "fast-check";
import { IngestRequestSchema } from "../../gen/runlog/v1/ingest_pb.js";
import { SignalSchema } from "../../gen/runlog/v1/record_pb.js";
import { SignalRunRequestSchema } from "../../gen/runlog/v1/run_pb.js";
import { signalRun } from "../../src/ingest/signal-run.ts";
import { Connection } from "../support/connection.ts";
import { type Engine, eventOf, readAll } from "../support/engine.ts";
import { assertHistories } from "../support/histories.ts";
import { deaf, startNodes } from "../support/nodes.ts";

type Step =
  | { readonly kind: "signal"; readonly node: number; readonly again: boolean }
  | { readonly kind: "answer"; readonly count: number }
  | { readonly kind: "die"; readonly node: number }
  | { readonly kind: "turns"; readonly count: number };

const nodeCount = 2;
const node = fc.nat({ max: nodeCount - 1 });
const step: fc.Arbitrary<Step> = fc.oneof(
  {
    weight: 6,
    arbitrary: fc.record({ kind: fc.constant("signal" as const), node, again: fc.boolean() }),
  },
  {
    weight: 4,
    arbitrary: fc.record({
      kind: fc.constant("answer" as const),
      count: fc.integer({ min: 1, max: 4 }),
    }),
  },
  { weight: 2, arbitrary: fc.record({ kind: fc.constant("die" as const), node }) },
  {
    weight: 3,
    arbitrary: fc.record({ kind: fc.constant("turns" as const), count: fc.nat({ max: 20 }) }),
  },
);

/** An agent that answers each signal with one event, and dies now and then. */
class Agent {
  readonly #nodes: readonly Engine[];
  #connection: Connection;
  #attempt = 0n;
  /** Frames that have been looked at. */
  #seen = 0;
  #nextRunSeq: number | undefined;
  /** The last signal that was received, and that was answered, on this connection. */
  #received = 0;
  #answered = 0;
  handled = 0;

  constructor(nodes: readonly Engine[]) {
    this.#nodes = nodes;
    this.#connection = new Connection(nodes[0]!);
  }

  async open(node: number): Promise<void> {
    await this.#connection.lose();
    this.#connection = new Connection(this.#nodes[node]!);
    this.#seen = 0;
    this.#nextRunSeq = undefined;
    // Nothing is answered before this connection has said what is handled.
    this.#received = this.#answered = 0;
    const names = { runId: "run", producerId: "agent", attempt: ++this.#attempt };
    const value = { ...names, create: {}, receiveSignals: true };
    await this.#connection.send(create(IngestRequestSchema, { frame: { case: "open", value } }));
  }

  /** Looks at what came since. */
  look(): void {
    const { frames } = this.#connection;
    for (; this.#seen < frames.length; this.#seen++) {
      const frame = frames[this.#seen]!;
      if (frame.t === "opened") {
        assert.ok(frame.handledSignalSeq >= this.handled, "what was acknowledged is handled");
        this.#nextRunSeq = frame.lastRunSeq + 1;
        this.#received = this.#answered = frame.handledSignalSeq;
        // Where the answer was durable and its acknowledgement was lost.
        this.handled = frame.handledSignalSeq;
      } else if (frame.t === "signal") {
        const { signalSeq } = fromBinary(SignalSchema, frame.signal);
        assert.equal(Number(signalSeq), ++this.#received, "exactly those that are not handled");
      } else if (frame.t === "ack") this.handled = frame.handledSignalSeq;
      else assert.equal(frame.t, "heartbeat");
    }
  }

  /** Answers some of the signals that it has received. */
  async answer(count: number): Promise<void> {
    this.look();
    for (let n = 0; n < count && this.#answered < this.#received; n++) {
      const signalSeq = ++this.#answered;
      const value = {
        runId: "run",
        firstRunSeq: BigInt(this.#nextRunSeq!++),
        events: [eventOf(`to ${signalSeq}`)],
        handledSignalSeq: BigInt(signalSeq),
      };
      const frame = { case: "append" as const, value };
      await this.#connection.send(create(IngestRequestSchema, { frame }));
    }
  }

  /** Answers all signals up to this one. */
  async answerUpTo(signalSeq: number): Promise<void> {
    for (;;) {
      await this.answer(Number.POSITIVE_INFINITY);
      if (this.handled >= signalSeq) return;
      const seen = this.#seen;
      await this.#connection.until(() => this.#connection.frames.length > seen);
    }
  }

  async leave(): Promise<void> {
    await this.#connection.lose();
  }
}

describe("a producer that dies between handling a signal and recording it", () => {
  for (const [name, notifications] of [
    ["on nodes that wake each other", undefined],
    ["on nodes of which every wake-up is lost", deaf],
  ] as const) {
    it(`gets exactly those that are not recorded when it comes back, wherever, ${name}`, async () => {
      await assertHistories(
        15,
        [fc.array(step, { minLength: 20, maxLength: 80, size: "max" })],
        async (steps) => {
          const running = await startNodes(nodeCount, notifications && { notifications });
          const { nodes } = running;
          try {
            const agent = new Agent(nodes);
            await agent.open(0);
            await nodes[0]!.committer.idle();
            const sending: Promise<unknown>[] = [];
            let sent = 0;
            const send = (at: number, n: number) => {
              const event = eventOf(`signal ${n}`);
              const request = { runId: "run", signalId: `signal-${n}`, event };
              const made = create(SignalRunRequestSchema, request);
              sending.push(signalRun(nodes[at]!, made, ""));
            };
            for (const one of steps) {
              if (one.kind === "signal") {
                send(one.node, one.again && sent > 0 ? sent : ++sent);
              } else if (one.kind === "answer") await agent.answer(one.count);
              else if (one.kind === "die") await agent.open(one.node);
              else for (let i = 0; i < one.count; i++) await new Promise((r) => setImmediate(r));
            }
            await Promise.all(sending);
            await agent.open(nodeCount - 1);
            await agent.answerUpTo(sent);
            await agent.leave();
            const records = await readAll(nodes[0]!.journal);
            const events = records.flatMap(({ record, handledSignalSeq }) =>
              record.case === "event"
                ? [[Buffer.from(record.value.data).toString(), Number(handledSignalSeq)]]
                : [],
            );
            const all = Array.from({ length: sent }, (_, index) => index + 1);
            assert.deepEqual(
              events,
              all.map((n) => [`to ${n}`, n]),
              "each signal is answered once in effect, in order",
            );
            const signals = records.flatMap(({ record }) =>
              record.case === "signal" ? [Number(record.value.signalSeq)] : [],
            );
            assert.deepEqual(signals, all);
            assert.deepEqual(running.failures, []);
          } finally {
            await running.remove();
          }
        },
      );
    });
  }
});
