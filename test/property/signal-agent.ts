/** An agent on nodes in this process, and the history of every answer to it and its senders, for the rig's checker. */
import assert from "node:assert/strict";
import { create, fromBinary, type MessageInitShape } from "@bufbuild/protobuf";
import { IngestRequestSchema } from "../../gen/runlog/v1/ingest_pb.js";
import { type Signal, SignalSchema } from "../../gen/runlog/v1/record_pb.js";
import { RunState, SignalRunRequestSchema, WaitSchema } from "../../gen/runlog/v1/run_pb.js";
import type { Entry, NewEntry } from "../../robustness/history/entry.ts";
import { crcOf, eventAt, signalEvent } from "../../robustness/load/event-bytes.ts";
import { stateName } from "../../robustness/load/runs.ts";
import type { IngestFrame } from "../../src/ingest/frames.ts";
import { signalRun } from "../../src/ingest/signal-run.ts";
import { type Refusal, RefusedError } from "../../src/refusal.ts";
import type { Engine } from "../../src/server/engine.ts";
import { Connection } from "../support/connection.ts";

/** The only run. */
export const run = "run";
const by = "agent";
/** A deadline that does not pass by itself. */
const far = { seconds: 100_000_000_000n };

/** The name of a refusal's reason on the wire. */
function nameOf({ reason }: Refusal): string {
  return reason === "run_lost" ? "RUN_NOT_OPEN" : reason.toUpperCase();
}

/** A history in the order in which it happened. */
export class Log {
  readonly entries: Entry[] = [];

  add(entry: NewEntry): void {
    this.entries.push({ at: this.entries.length, ...entry } as Entry);
  }

  /** Sends a signal; what is refused leaves no trace but its entry. */
  async signal(engine: Engine, id: string, variant: number): Promise<void> {
    const event = signalEvent(run, id, variant);
    const common = { run, by: "sender", id, crc: crcOf(event) };
    this.add({ t: "signalling", node: "", ...common });
    try {
      const request = create(SignalRunRequestSchema, { runId: run, signalId: id, event });
      const { seq, signalSeq } = await signalRun(engine, request, "");
      this.add({ t: "signalled", seq, signalSeq, ...common });
    } catch (error) {
      if (!(error instanceof RefusedError)) throw error;
      const reason = nameOf(error.refusal);
      this.add({ t: "refused", run, by: "sender", reason, message: error.message });
    }
  }

  /** Asks the run to stop. */
  async cancel({ cancellations }: Engine): Promise<void> {
    this.add({ t: "cancelling", run, by: "sender" });
    const request = { namespace: "default", runId: run, includeDescendants: false, reason: "" };
    const count = await cancellations.cancel(request);
    if (count > 0) this.add({ t: "cancelled", run, by: "sender" });
  }
}

/** A producer that answers signals, waits, ends, and dies now and then. */
export class Agent {
  readonly #nodes: readonly Engine[];
  readonly #log: Log;
  #connection: Connection;
  #attempt = 0;
  /** Frames that have been looked at. */
  #seen = 0;
  #state: "opening" | "open" | "over" = "opening";
  #sent = 0;
  #received = 0;
  #handled = 0;
  #waits = 0;
  #isAway = false;

  constructor(nodes: readonly Engine[], log: Log) {
    this.#nodes = nodes;
    this.#log = log;
    this.#connection = new Connection(nodes[0]!);
  }

  /** Comes back at a node, on a new connection. */
  async open(node: number): Promise<void> {
    if (!this.#isAway) await this.#connection.lose();
    this.#isAway = false;
    this.#connection = new Connection(this.#nodes[node]!);
    this.#seen = 0;
    this.#state = "opening";
    const attempt = ++this.#attempt;
    this.#log.add({ t: "opening", run, by, node: String(node), attempt });
    const names = { runId: run, producerId: by, attempt: BigInt(attempt) };
    await this.#send({ case: "open", value: { ...names, create: {}, receiveSignals: true } });
  }

  /** Appends events and says that some of the signals are handled, or only that. */
  async append(count: number, signals: number): Promise<void> {
    this.#look();
    if (this.#state !== "open") return;
    const handled = Math.min(this.#received, this.#handled + signals);
    const hasMoved = handled > this.#handled;
    if (count === 0 && !hasMoved) return;
    const from = this.#sent + 1;
    const to = this.#sent + count;
    const events = Array.from({ length: count }, (_, i) => eventAt(run, from + i, by));
    this.#log.add({ t: "sent", run, by, from, to, ...(hasMoved ? { handled } : {}) });
    this.#sent = to;
    this.#handled = handled;
    const handledSignalSeq = hasMoved ? BigInt(handled) : 0n;
    const value = { runId: run, firstRunSeq: BigInt(from), events, handledSignalSeq };
    await this.#send({ case: "append", value });
  }

  async wait(isBounded: boolean): Promise<void> {
    this.#look();
    if (this.#state !== "open") return;
    const code = `${this.#attempt}.${++this.#waits}`;
    this.#log.add({ t: "waits", run, by, code, handled: this.#handled });
    const wait = { code, ...(isBounded ? { deadline: far } : {}) };
    await this.#send({ case: "wait", value: { wait, ...this.#pause() } });
  }

  async finish(): Promise<void> {
    this.#look();
    if (this.#state !== "open") return;
    const lastRunSeq = this.#sent;
    const state = RunState.SUCCEEDED;
    const common = { run, by, lastRunSeq, output: "", handled: this.#handled };
    const isConditional = true;
    this.#log.add({ t: "finishing", state: stateName(state), isConditional, ...common });
    await this.#send({ case: "finish", value: { result: { state }, ...this.#pause() } });
  }

  /** Goes away; what it has sent may become durable all the same. */
  async leave(): Promise<void> {
    this.#look();
    await this.#connection.lose();
    this.#isAway = true;
    this.#look();
  }

  /** Resolves once the open is answered. */
  async opened(): Promise<void> {
    await this.#connection.until(() => {
      this.#look();
      return this.#state !== "opening";
    });
  }

  #send(frame: NonNullable<MessageInitShape<typeof IngestRequestSchema>["frame"]>): Promise<void> {
    return this.#connection.send(create(IngestRequestSchema, { frame }));
  }

  #pause() {
    return {
      runId: run,
      lastRunSeq: BigInt(this.#sent),
      handledSignalSeq: BigInt(this.#handled),
      requireSignalsHandled: true,
    };
  }

  /** Notes what came since. */
  #look(): void {
    const { frames } = this.#connection;
    for (; this.#seen < frames.length; this.#seen++) this.#take(frames[this.#seen]!);
  }

  #take(frame: IngestFrame): void {
    const attempt = this.#attempt;
    switch (frame.t) {
      case "opened": {
        const { epoch, lastRunSeq, handledSignalSeq: handled } = frame;
        this.#log.add({ t: "opened", run, by, attempt, epoch, lastRunSeq, handled });
        this.#sent = lastRunSeq;
        this.#received = this.#handled = handled;
        this.#state = "open";
        break;
      }
      case "signal": {
        const signal: Signal = fromBinary(SignalSchema, frame.signal);
        const signalSeq = Number(signal.signalSeq);
        const { seq } = frame;
        const crc = crcOf(signal.event!);
        this.#log.add({ t: "inbox", run, by, attempt, seq, signalSeq, id: signal.signalId, crc });
        this.#received = signalSeq;
        break;
      }
      case "ack": {
        const { runSeq, seq, handledSignalSeq: handled } = frame;
        this.#log.add({ t: "acked", run, by, runSeq, seq, handled });
        break;
      }
      case "waiting": {
        const { code } = fromBinary(WaitSchema, frame.run.waiting!);
        this.#log.add({ t: "waiting", run, by, code });
        break;
      }
      case "ended": {
        this.#log.add({ t: "ended", run, by, state: stateName(frame.run.state), output: "" });
        this.#state = "over";
        break;
      }
      case "rejected": {
        const reason = nameOf(frame.refusal);
        this.#log.add({ t: "refused", run, by, reason, message: JSON.stringify(frame.refusal) });
        this.#state = "over";
        break;
      }
      default:
        assert.ok(["heartbeat", "cancel_requested", "signals_pending"].includes(frame.t), frame.t);
    }
  }
}
