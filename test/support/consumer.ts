/** A consumer of the engine, and the settings under which deliveries are tested. */
import type { SequencedEvent } from "../../gen/runlog/v1/record_pb.js";
import type { SubscriptionFrame } from "../../src/delivery/frames.ts";
import { subscribe } from "../../src/delivery/subscribe.ts";
import type { Start } from "../../src/delivery/subscription-spec.ts";
import type { Limits } from "../../src/limits.ts";
import { RefusedError } from "../../src/refusal.ts";
import { type Engine, recordsIn, subscriptionTo } from "./engine.ts";
import { quiet } from "./quiet.ts";
import { toFilter, type Wanted } from "./wanted.ts";

/** From the usual to a tail and pages of next to nothing. */
export const deliverySettings: Readonly<Record<string, Partial<Limits>>> = {
  "with the usual limits": {},
  "with a tail so small that every subscriber falls back to the journal": { tailBytes: 0 },
  "with a tail of a few records, and pages and frames of a few": {
    tailBytes: 1_500,
    pageRecords: 3,
    pageBytes: 600,
    frameBytes: 200,
  },
};

/** A consumer that stops, drops and resumes; its cursor moves as a client's does. */
export class Consumer {
  readonly wanted: Wanted;
  readonly received: SequencedEvent[] = [];
  /** Why it cannot go on, once the server has said so. */
  failure: RefusedError | undefined;
  #cursor = 0;
  #frames: AsyncGenerator<SubscriptionFrame> | undefined;
  #stop = new AbortController();
  #pending: Promise<void> | undefined;

  readonly #allowMissing: boolean;
  readonly #start: Start;
  /** What Subscribed said of its start, in the first call that was accepted. */
  started: { readonly afterSeq: number; readonly latestSeq: number } | undefined;

  /**
   * @param allowMissing whether it may attach before its runs exist
   * @param start where its first call starts
   */
  constructor(wanted: Wanted, allowMissing = true, start: Start = { t: "after", seq: 0 }) {
    this.wanted = wanted;
    this.#allowMissing = allowMissing;
    this.#start = start;
  }

  /** Begins, or resumes, where it stands. */
  attach(engine: Engine, stop: "never" | "caught_up" = "never"): void {
    if (this.#frames !== undefined || this.failure !== undefined) return;
    this.#stop = new AbortController();
    const subscription = subscriptionTo(this.wanted.scope, {
      filter: toFilter(this.wanted),
      start: this.started === undefined ? this.#start : { t: "after", seq: this.#cursor },
      stop,
      allowMissing: this.#allowMissing,
    });
    this.#frames = subscribe(engine, subscription, this.#stop.signal);
  }

  /** Asks for one more frame without waiting for it, as a consumer does that may stop reading. */
  read(): void {
    const frames = this.#frames;
    if (frames === undefined || this.#pending !== undefined) return;
    this.#pending = this.#take(frames).then((isMore) => {
      this.#pending = undefined;
      if (!isMore) this.#frames = undefined;
    });
  }

  async #take(frames: AsyncGenerator<SubscriptionFrame>): Promise<boolean> {
    const { done, value: frame } = await frames.next().catch((error: unknown) => {
      if (!(error instanceof RefusedError)) throw error;
      this.failure = error;
      return { done: true, value: undefined } as const;
    });
    if (done === true) return false;
    if (frame.t === "subscribed" && this.started === undefined) {
      this.started = frame;
      this.#cursor = frame.afterSeq;
    }
    const records = recordsIn(frame);
    this.received.push(...records);
    const last = records.at(-1);
    if (last !== undefined) this.#cursor = Number(last.seq);
    if (frame.t === "caught_up" || frame.t === "progress") this.#cursor = frame.seq;
    return true;
  }

  /** Drops the stream; the last records were received and not kept, so the cursor is before them. */
  async drop(forget = 0): Promise<void> {
    this.#stop.abort();
    await this.#pending;
    await this.#frames?.return(undefined);
    this.#frames = undefined;
    if (forget === 0) return;
    this.received.splice(-forget);
    this.#cursor = Number(this.received.at(-1)?.seq ?? this.started?.afterSeq ?? 0);
  }

  /** Reads on, without resuming, until nothing more comes by itself. */
  async readOn(): Promise<void> {
    do {
      this.read();
      await quiet(() => this.#pending === undefined);
    } while (this.#pending === undefined && this.#frames !== undefined);
  }

  /** Reads on, without resuming, until it has received so many records. */
  async readUntil(count: number): Promise<void> {
    while (this.received.length < count && this.failure === undefined) {
      this.read();
      await this.#pending;
    }
  }

  /** Resumes and reads all that is durable. */
  async finish(engine: Engine): Promise<void> {
    await this.drop();
    this.attach(engine, "caught_up");
    while (this.#frames !== undefined && (await this.#take(this.#frames))) {
      // Everything up to the end.
    }
    this.#frames = undefined;
  }
}
