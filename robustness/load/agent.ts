import type { MessageInitShape } from "@bufbuild/protobuf";
import { timestampFromMs } from "@bufbuild/protobuf/wkt";
import type { ClientDuplexStream } from "@grpc/grpc-js";
import {
  type IngestRequestSchema,
  type IngestResponse,
  IngestService,
} from "../../gen/runlog/v1/ingest_pb.js";
import { RunState } from "../../gen/runlog/v1/run_pb.js";
import type { Random } from "../random.ts";
import { backoffMs, noteRefusal, pause, type Stage, withChannel } from "./actor.ts";
import { type Channel, reasonName } from "./channel.ts";
import { crcOf, eventAt } from "./event-bytes.ts";
import { type Plan, resultOf, specOf, stateName } from "./runs.ts";

/** What an agent does. */
export interface AgentOptions {
  readonly name: string;
  readonly random: Random;
  readonly nextPlan: () => Plan;
  /** Runs that others may send signals to: the agent adds its own once it is there. */
  readonly reachable: Set<string>;
}

type Call = ClientDuplexStream<MessageInitShape<typeof IngestRequestSchema>, IngestResponse>;

/** Milliseconds between what it does. */
const paceMs = { min: 15, max: 80 };
const perAppend = { min: 1, max: 6 };
const maxAhead = 32;
/** Milliseconds without any frame after which a stream is given up. */
const patienceMs = { min: 3_000, max: 8_000 };
/** Of its run: shorter than many of its waits, which must not end by it. */
const leaseSeconds = 3n;
/** Milliseconds that a wait has, where it has a deadline. */
const deadlineMs = { min: 500, max: 4_000 };
/** One choice in so many. */
const oneIn = {
  wait: 12,
  deadline: 3,
  quiet: 2,
  bare: 5,
  leave: 40,
  goOn: 120,
  lastGoOn: 4,
  giveUp: 200,
};
/** Milliseconds that it stays away from a run that waits. */
const awayMs = { min: 100, max: 5_000 };
const streamDeadlineMs = 120_000;
/** Reasons after which it opens the run again. */
const passing = new Set(["JOURNAL_UNAVAILABLE", "DRAINING", "OVERLOADED", "RUN_NOT_OPEN"]);

/**
 * A producer that receives signals: it reports them as handled in the append that answers
 * them, or in one without events; it waits, leaves its run waiting, comes back at a node of its
 * choice and goes on; and it ends only when every signal is handled.
 */
export class Agent {
  readonly #stage: Stage;
  readonly #options: AgentOptions;
  #plan: Plan;
  #state: "absent" | "opening" | "open" | "asking" | "waiting" | "finishing" | "over" = "absent";
  #sent = 0;
  #acked = 0;
  /** The last signal that was received, and that was reported as handled, on this stream. */
  #received = 0;
  #handled = 0;
  #attempt = 0;
  #waits = 0;
  #isAskedToStop = false;
  /** The stream that is being read; what others still bring is of an earlier attempt. */
  #call: Call | undefined;

  constructor(stage: Stage, options: AgentOptions) {
    this.#stage = stage;
    this.#options = options;
    this.#plan = options.nextPlan();
  }

  /** Produces run after run, until it is asked to close and has ended the last one. */
  async run(): Promise<void> {
    const { random, reachable, nextPlan } = this.#options;
    const { closing, ending } = this.#stage;
    while (!ending.aborted) {
      const isLeft = await withChannel(this.#stage, random, (channel, node) =>
        this.#stream(channel, node),
      );
      if (this.#state === "over") {
        reachable.delete(this.#plan.run);
        if (closing.aborted) return;
        this.#plan = nextPlan();
        this.#isAskedToStop = false;
      }
      this.#state = "absent";
      const away = isLeft && !closing.aborted ? awayMs : backoffMs;
      await pause(random.between(away.min, away.max), ending);
    }
  }

  /** @returns whether it left a run that waits */
  async #stream(channel: Channel, node: string): Promise<boolean> {
    const { random, name } = this.#options;
    const { history, ending } = this.#stage;
    const call = channel.duplex(IngestService.method.ingest, streamDeadlineMs) as Call;
    this.#call = call;
    const over = new AbortController();
    const patience = random.between(patienceMs.min, patienceMs.max);
    let heardMs = performance.now();
    call.on("data", (response: IngestResponse) => {
      if (this.#call !== call) return;
      heardMs = performance.now();
      if (response.frame.case === "goAway") over.abort();
      else this.#take(response);
    });
    call.on("error", (error) => {
      noteRefusal(this.#stage, name, error);
      over.abort();
    });
    call.on("end", () => over.abort());
    const stop = AbortSignal.any([over.signal, ending]);
    let isLeft = false;
    while (!stop.aborted && this.#state !== "over") {
      this.#step(call, node);
      isLeft = this.#state === "waiting" && this.#is(oneIn.leave);
      if (isLeft || this.#is(oneIn.giveUp)) break;
      // A run that waits is silent.
      if (this.#state === "waiting") heardMs = performance.now();
      if (performance.now() - heardMs > patience) break;
      await pause(random.between(paceMs.min, paceMs.max), stop);
    }
    this.#call = undefined;
    history.flush();
    call.cancel();
    return isLeft;
  }

  #is(one: number): boolean {
    return this.#options.random.between(1, one) === 1;
  }

  /** Does what is next. */
  #step(call: Call, node: string): void {
    const isClosing = this.#stage.closing.aborted;
    const isPending = this.#received > this.#handled;
    switch (this.#state) {
      case "absent":
        this.#open(call, node);
        break;
      case "waiting":
        if (isPending || this.#is(isClosing ? oneIn.lastGoOn : oneIn.goOn)) {
          this.#state = "open";
          this.#append(call);
        }
        break;
      case "open":
        if (isPending && this.#is(oneIn.bare)) this.#report(call);
        else if (isPending) this.#append(call);
        else if (this.#sent > this.#acked + maxAhead) break;
        else if (this.#is(oneIn.wait) && !isClosing) this.#wait(call);
        else if (this.#sent < this.#plan.events && !this.#isAskedToStop) this.#append(call);
        else if (this.#acked === this.#sent) this.#finish(call);
        break;
      default:
      // Its answer is awaited.
    }
  }

  #open(call: Call, node: string): void {
    const { history } = this.#stage;
    const { name: by } = this.#options;
    const { run, parent } = this.#plan;
    this.#state = "opening";
    this.#attempt = Math.max(this.#attempt + 1, history.nowMs);
    const attempt = this.#attempt;
    history.append({ t: "opening", run, by, node, attempt });
    const value = {
      runId: run,
      producerId: by,
      attempt: BigInt(attempt),
      create: specOf(parent, leaseSeconds),
      receiveSignals: true,
    };
    call.write({ frame: { case: "open", value } });
  }

  /** Sends events, and with them that some of the signals are handled, if there are any. */
  #append(call: Call): void {
    const { history } = this.#stage;
    const { name: by, random } = this.#options;
    const { run } = this.#plan;
    const from = this.#sent + 1;
    const to = this.#sent + random.between(perAppend.min, perAppend.max);
    const events = Array.from({ length: to - this.#sent }, (_, i) => eventAt(run, from + i, by));
    this.#options.reachable.add(run);
    const isHandling = this.#received > this.#handled;
    if (isHandling) this.#handled = random.between(this.#handled + 1, this.#received);
    const handled = isHandling ? this.#handled : 0;
    history.append({ t: "sent", run, by, from, to, ...(isHandling ? { handled } : {}) });
    this.#sent = to;
    const value = {
      runId: run,
      firstRunSeq: BigInt(from),
      events,
      handledSignalSeq: BigInt(handled),
    };
    call.write({ frame: { case: "append", value } });
  }

  /** Says that all signals are handled, without an event. */
  #report(call: Call): void {
    const { name: by } = this.#options;
    const { run } = this.#plan;
    this.#handled = this.#received;
    const handled = this.#handled;
    const from = this.#sent + 1;
    this.#stage.history.append({ t: "sent", run, by, from, to: this.#sent, handled });
    const value = { runId: run, firstRunSeq: BigInt(from), handledSignalSeq: BigInt(handled) };
    call.write({ frame: { case: "append", value } });
  }

  #wait(call: Call): void {
    const { name: by, random } = this.#options;
    const { run } = this.#plan;
    const handled = this.#handled;
    const code = `${by}.${this.#attempt}.${++this.#waits}`;
    this.#state = "asking";
    // Then nobody answers, and it lasts longer than a lease, or until its deadline.
    if (this.#is(oneIn.quiet)) this.#options.reachable.delete(run);
    this.#stage.history.append({ t: "waits", run, by, code, handled });
    const inMs = random.between(deadlineMs.min, deadlineMs.max);
    const deadline = this.#is(oneIn.deadline)
      ? { deadline: timestampFromMs(Date.now() + inMs) }
      : {};
    const value = {
      runId: run,
      lastRunSeq: BigInt(this.#sent),
      wait: { code, ...deadline },
      handledSignalSeq: BigInt(handled),
      requireSignalsHandled: true,
    };
    call.write({ frame: { case: "wait", value } });
  }

  #finish(call: Call): void {
    const { name: by } = this.#options;
    const { run } = this.#plan;
    const { state, output } = resultOf(this.#plan, by);
    const result = this.#isAskedToStop ? RunState.CANCELLED : state;
    const handled = this.#handled;
    const lastRunSeq = this.#sent;
    this.#state = "finishing";
    this.#stage.history.append({
      t: "finishing",
      run,
      by,
      lastRunSeq,
      state: stateName(result),
      output,
      isConditional: true,
      handled,
    });
    const value = {
      runId: run,
      lastRunSeq: BigInt(lastRunSeq),
      result: { state: result, output: Buffer.from(output) },
      handledSignalSeq: BigInt(handled),
      requireSignalsHandled: true,
    };
    call.write({ frame: { case: "finish", value } });
  }

  #take({ frame }: IngestResponse): void {
    const { name: by, reachable } = this.#options;
    const { history } = this.#stage;
    const { run } = this.#plan;
    switch (frame.case) {
      case "opened": {
        const { epoch } = frame.value;
        const attempt = this.#attempt;
        const lastRunSeq = Number(frame.value.lastRunSeq);
        const handled = Number(frame.value.handledSignalSeq);
        history.append({
          t: "opened",
          run,
          by,
          attempt,
          epoch: Number(epoch),
          lastRunSeq,
          handled,
        });
        this.#sent = this.#acked = lastRunSeq;
        this.#received = this.#handled = handled;
        this.#state = "open";
        reachable.add(run);
        break;
      }
      case "signal": {
        const { seq, signal } = frame.value;
        const signalSeq = Number(signal!.signalSeq);
        history.append({
          t: "inbox",
          run,
          by,
          attempt: this.#attempt,
          seq: Number(seq),
          signalSeq,
          id: signal!.signalId,
          crc: signal!.event === undefined ? 0 : crcOf(signal!.event),
        });
        this.#received = Math.max(this.#received, signalSeq);
        break;
      }
      case "ack": {
        const { runSeq, seq, handledSignalSeq } = frame.value;
        history.append({
          t: "acked",
          run,
          by,
          runSeq: Number(runSeq),
          seq: Number(seq),
          handled: Number(handledSignalSeq),
        });
        this.#acked = Math.max(this.#acked, Number(runSeq));
        break;
      }
      case "waiting": {
        const code = frame.value.run?.waiting?.code ?? "";
        history.append({ t: "waiting", run, by, code });
        this.#state = "waiting";
        break;
      }
      case "signalsPending":
        this.#state = "open";
        break;
      case "cancelRequested":
        this.#isAskedToStop = true;
        if (this.#state === "waiting") this.#state = "open";
        break;
      case "ended": {
        const { result } = frame.value.run!;
        const output = Buffer.from(result?.output ?? []).toString();
        history.append({ t: "ended", run, by, state: stateName(result?.state ?? 0), output });
        this.#state = "over";
        break;
      }
      case "rejected": {
        const reason = reasonName(frame.value.detail?.reason ?? 0);
        history.append({ t: "refused", run, by, reason, message: frame.value.message });
        this.#state = passing.has(reason) ? "absent" : "over";
        break;
      }
      default:
      // Nothing that is checked.
    }
  }
}
