import type { MessageInitShape } from "@bufbuild/protobuf";
import type { ClientDuplexStream } from "@grpc/grpc-js";
import {
  type IngestRequestSchema,
  type IngestResponse,
  IngestService,
} from "../../gen/runlog/v1/ingest_pb.js";
import type { Random } from "../random.ts";
import { backoffMs, noteRefusal, pause, type Stage, withChannel } from "./actor.ts";
import { type Channel, reasonName } from "./channel.ts";
import { eventAt } from "./event-bytes.ts";
import { creationOf, type Plan, resultOf, stateName } from "./runs.ts";

/** What a producer does. */
export interface StreamProducerOptions {
  readonly name: string;
  readonly random: Random;
  /** The next run; undefined once there is none. */
  readonly nextPlan: () => Plan | undefined;
  /** Runs on one stream. */
  readonly runsAtOnce: number;
  /** Whether others open its runs too: then FENCED is part of its life. */
  readonly isRival?: boolean;
}

type Call = ClientDuplexStream<MessageInitShape<typeof IngestRequestSchema>, IngestResponse>;

/** A run in a producer's hands. */
interface Held {
  readonly plan: Plan;
  state: "absent" | "opening" | "open" | "finishing" | "over";
  sent: number;
  acked: number;
  /** Of the newest open. */
  attempt: number;
}

/** Milliseconds between appends of a stream. */
const paceMs = { min: 15, max: 60 };
/** Events of one append. */
const perAppend = { min: 1, max: 12 };
/** Events of one run that may await acknowledgement. */
const maxAhead = 64;
/** Milliseconds without an acknowledgement after which a stream is given up. */
const patienceMs = { min: 1_500, max: 8_000 };
/** One stream in so many has a deadline shorter than what it means to do. */
const shortOneIn = 4;
const shortDeadlineMs = { min: 100, max: 1_200 };
const longDeadlineMs = 120_000;

/**
 * A producer on Ingest streams: several runs on one, events sent ahead of their
 * acknowledgements. It chooses a node for each stream, and often gives up before the
 * server does.
 */
export class StreamProducer {
  readonly #stage: Stage;
  readonly #options: StreamProducerOptions;
  readonly #held = new Map<string, Held>();
  #attempt = 0;
  /** The stream that is being read; what others still bring is of an earlier attempt. */
  #call: Call | undefined;

  constructor(stage: Stage, options: StreamProducerOptions) {
    this.#stage = stage;
    this.#options = options;
  }

  /** Produces until it has nothing left, or has to end. */
  async run(): Promise<void> {
    const { random } = this.#options;
    const { ending } = this.#stage;
    while (!ending.aborted && this.#fill()) {
      await withChannel(this.#stage, random, (channel, node) => this.#stream(channel, node));
      await pause(random.between(backoffMs.min, backoffMs.max), ending);
    }
  }

  /** Takes further runs where there is room; false once there are none. */
  #fill(): boolean {
    for (const [run, { state }] of this.#held) if (state === "over") this.#held.delete(run);
    while (!this.#stage.closing.aborted && this.#held.size < this.#options.runsAtOnce) {
      const plan = this.#options.nextPlan();
      if (plan === undefined) break;
      this.#held.set(plan.run, { plan, state: "absent", sent: 0, acked: 0, attempt: 0 });
    }
    return this.#held.size > 0;
  }

  async #stream(channel: Channel, node: string): Promise<void> {
    const { random, name } = this.#options;
    const { history, ending } = this.#stage;
    const isShort = random.between(1, shortOneIn) === 1;
    const deadline = isShort
      ? random.between(shortDeadlineMs.min, shortDeadlineMs.max)
      : longDeadlineMs;
    const call = channel.duplex(IngestService.method.ingest, deadline) as Call;
    this.#call = call;
    const patience = random.between(patienceMs.min, patienceMs.max);
    const over = new AbortController();
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
    for (const held of this.#held.values()) held.state = held.state === "over" ? "over" : "absent";
    while (!stop.aborted && this.#fill()) {
      for (const held of this.#held.values()) this.#step(call, held, node);
      if (performance.now() - heardMs > patience) break;
      await pause(random.between(paceMs.min, paceMs.max), stop);
    }
    history.flush();
    call.cancel();
  }

  /** Sends what is next for a run. */
  #step(call: Call, held: Held, node: string): void {
    const { plan, state } = held;
    const { run } = plan;
    const { name: by, random } = this.#options;
    const { history } = this.#stage;
    if (state === "absent") {
      held.state = "opening";
      // Grows over all instances of a producer in a history.
      this.#attempt = Math.max(this.#attempt + 1, history.nowMs);
      held.attempt = this.#attempt;
      const { attempt } = held;
      history.append({ t: "opening", run, by, node, attempt });
      call.write({
        frame: {
          case: "open",
          value: { runId: run, producerId: by, attempt: BigInt(attempt), ...creationOf(plan) },
        },
      });
    } else if (state === "open" && held.sent < plan.events && held.sent - held.acked < maxAhead) {
      const from = held.sent + 1;
      const to = Math.min(plan.events, held.sent + random.between(perAppend.min, perAppend.max));
      const events = Array.from({ length: to - held.sent }, (_, i) => eventAt(run, from + i, by));
      history.append({ t: "sent", run, by, from, to });
      held.sent = to;
      call.write({
        frame: { case: "append", value: { runId: run, firstRunSeq: BigInt(from), events } },
      });
    } else if (state === "open" && held.acked >= plan.events) {
      held.state = "finishing";
      const { state: result, output } = resultOf(plan, by);
      const lastRunSeq = held.sent;
      history.append({ t: "finishing", run, by, lastRunSeq, state: stateName(result), output });
      const value = {
        runId: run,
        lastRunSeq: BigInt(lastRunSeq),
        result: { state: result, output: Buffer.from(output) },
      };
      call.write({ frame: { case: "finish", value } });
    }
  }

  #take({ frame }: IngestResponse): void {
    const { name: by } = this.#options;
    const { history } = this.#stage;
    switch (frame.case) {
      case "opened": {
        const { runId: run, epoch, lastRunSeq } = frame.value;
        const last = Number(lastRunSeq);
        const held = this.#held.get(run);
        const attempt = held?.attempt ?? 0;
        history.append({ t: "opened", run, by, attempt, epoch: Number(epoch), lastRunSeq: last });
        if (held === undefined) return;
        // A rival may have brought the run further than this producer would have.
        Object.assign(held, { state: "open", sent: last, acked: last });
        break;
      }
      case "ack": {
        const { runId: run, runSeq, seq } = frame.value;
        history.append({ t: "acked", run, by, runSeq: Number(runSeq), seq: Number(seq) });
        const held = this.#held.get(run);
        if (held !== undefined) held.acked = Math.max(held.acked, Number(runSeq));
        break;
      }
      case "ended": {
        const { runId: run, result } = frame.value.run!;
        const output = Buffer.from(result?.output ?? []).toString();
        history.append({ t: "ended", run, by, state: stateName(result?.state ?? 0), output });
        const held = this.#held.get(run);
        if (held !== undefined) held.state = "over";
        break;
      }
      case "rejected": {
        const { runId: run, detail, message } = frame.value;
        const reason = reasonName(detail?.reason ?? 0);
        history.append({ t: "refused", run, by, reason, message });
        const held = this.#held.get(run);
        if (held === undefined) return;
        const isPassing = reason === "JOURNAL_UNAVAILABLE" || reason === "DRAINING";
        const isAgain = isPassing || (reason === "FENCED" && this.#options.isRival === true);
        held.state = isAgain ? "absent" : "over";
        break;
      }
      default:
      // Nothing that is checked.
    }
  }
}
