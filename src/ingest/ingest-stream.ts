import { type OpenRun, OpenRunSchema, type ReleaseRun } from "../../gen/runlog/v1/ingest_pb.js";
import type { Journal } from "../journal/journal.ts";
import type { Limits } from "../limits.ts";
import type { MemoryBudget, MemoryShare } from "../memory-budget.ts";
import { QuietTimer } from "../quiet-timer.ts";
import type { Usage } from "../quotas.ts";
import { invalidField, isDataLoss, RefusedError } from "../refusal.ts";
import type { Within } from "../subtree.ts";
import { checkAttempt, checkMessage, checkNamespace, checkRunId, checkSpec } from "../validate.ts";
import type { OperationCallbacks } from "./commit-retries.ts";
import type { Committer } from "./committer.ts";
import { bytesOfFrame, type IngestFrame, type IngestRequestBytes } from "./frames.ts";
import { InFlight } from "./in-flight.ts";
import {
  type OpenedOutcome,
  type OpenOperation,
  type Operation,
  type Outcome,
  Producer,
  type ProducerOperation,
} from "./operation.ts";
import {
  type OnProducer,
  parseAppend,
  parseFinish,
  parseWait,
  printableId,
} from "./parse-frames.ts";
import { ResponseQueue } from "./response-queue.ts";
import { SignalFeed } from "./signal-feed.ts";
import { StreamQuotas } from "./stream-quotas.ts";

/** Answers, and their bytes, that may wait where more signals are read for a producer. */
const maxWaitingFrames = 256;
const maxWaitingBytes = 256 * 1024;

/** What a stream works with. */
export interface IngestStreamOptions {
  readonly journal: Pick<Journal, "db">;
  readonly committer: Committer;
  readonly memory: Pick<MemoryBudget, "appends" | "frames">;
  readonly limits: Limits;
  /** Where its producer may write in a namespace; throws RefusedError where it may nowhere. Default: anywhere. */
  readonly withinOf?: (namespace: string) => Within;
  /** What its producer's identity uses. Default: nobody counts. */
  readonly usage?: Usage | undefined;
}

/**
 * One Ingest stream: frames in, frames out.
 *
 * A run on a stream is in one of these states, held in #runs:
 *   absent   nothing was opened: an append is refused with RUN_NOT_OPEN
 *   held     open was sent; the committer decides frames in their order
 *   rejected it was refused: frames are discarded until it is opened again
 *
 * The stream is not read while what it sent and what it was not yet told are
 * over their bounds, so that a slow database or a producer that does not read
 * its acknowledgements costs bounded memory; nor while its identity is over its rate.
 */
export class IngestStream {
  readonly #committer: Committer;
  readonly #limits: Limits;
  readonly #appends: MemoryShare;
  readonly #responses: ResponseQueue<IngestFrame>;
  readonly #signals: SignalFeed;
  readonly #runs = new Map<string, Producer>();
  /** Weak: a run that is opened again has another producer. */
  readonly #ended = new WeakSet<Producer>();
  readonly #inFlight: InFlight;
  readonly #quotas: StreamQuotas;
  readonly #withinOf: (namespace: string) => Within;
  #namespace: string | undefined;
  /** It ends with an error: the producer opens its runs elsewhere. */
  #hasFailed = false;
  #closed = false;
  #wakeReader: (() => void) | undefined;
  /** One for all operations: there may be many. */
  readonly #callbacks: OperationCallbacks = {
    onOutcome: (outcome, operation) => {
      this.#answer(operation, outcome);
      this.#settle(operation);
    },
    onFailure: (error, operation) => {
      this.#responses.end({ error });
      this.#settle(operation);
    },
    hasLeft: () => this.#closed || this.#hasFailed,
  };

  constructor(options: IngestStreamOptions) {
    this.#committer = options.committer;
    this.#limits = options.limits;
    this.#withinOf = options.withinOf ?? (() => undefined);
    this.#appends = options.memory.appends;
    this.#quotas = new StreamQuotas(options.usage);
    this.#inFlight = new InFlight(options.limits, options.memory.appends);
    this.#responses = new ResponseQueue(bytesOfFrame, options.memory.frames);
    this.#signals = new SignalFeed({
      db: options.journal.db,
      hasRoom: () =>
        this.#responses.size < maxWaitingFrames && this.#responses.bytes < maxWaitingBytes,
      push: (frame) => this.#responses.push(frame),
      onFailure: (error, producer) => this.#onUnreadable(error, producer),
    });
  }

  /** Tells the producer to reconnect; what it sends meanwhile is still taken. */
  goAway(reason: string): void {
    this.#responses.push({ t: "go_away", reason });
  }

  /** Ends the stream with an error, after the responses that are already queued. */
  fail(error: unknown): void {
    this.#hasFailed = true;
    this.#responses.end({ error });
  }

  /**
   * Reads the requests, several at a time, and yields the answers, until the requests end and
   * everything they asked for has been answered.
   *
   * @throws what `requests` throws, and RefusedError where the stream as a whole cannot go on
   */
  async *run(
    requests: AsyncIterable<readonly IngestRequestBytes[]>,
  ): AsyncGenerator<IngestFrame[]> {
    // The queue owns it: its end or its error is what the reader below sees.
    const reading = this.#read(requests).then(
      () => this.#responses.end(),
      (error: unknown) => this.#responses.end({ error }),
    );
    const quiet = new QuietTimer(this.#limits.progressIntervalMs, () => {
      // A producer that does not read has enough to read.
      if (this.#responses.size === 0) this.#responses.push({ t: "heartbeat" });
    });
    try {
      for (;;) {
        const frames = await this.#responses.take((ack) => ({ t: "ack", ...ack }));
        if (frames === undefined) return await reading;
        this.#wakeReader?.();
        this.#signals.pump();
        yield frames;
        quiet.note();
      }
    } finally {
      quiet.close();
      this.#responses.close();
      this.#closed = true;
      this.#wakeReader?.();
      this.#quotas.close();
      for (const producer of this.#runs.values()) {
        this.#committer.release(this.#namespace ?? "default", producer);
      }
      await this.#signals.close();
    }
  }

  /** One run's damage is not the others'. */
  #onUnreadable(error: unknown, producer: Producer): void {
    if (!isDataLoss(error)) {
      this.#responses.end({ error });
      return;
    }
    producer.reject(error.refusal);
    this.#committer.release(this.#namespace ?? "default", producer);
  }

  async #read(requests: AsyncIterable<readonly IngestRequestBytes[]>): Promise<void> {
    for await (const batch of requests) {
      for (const { frame } of batch) {
        // What others do not get committed is no reason to hold more than there is memory for.
        while (this.#appends.isOver && !this.#closed) await this.#appends.untilRoom();
        const isInTime = frame.case !== "append" || this.#quotas.tryRead(frame.value.events);
        if (!isInTime) await this.#untilRead(frame.value.events);
        if (this.#closed) return;
        this.#take(frame);
        if (this.#isFull()) await this.#until(() => !this.#isFull());
      }
    }
    await this.#until(() => this.#inFlight.isEmpty);
  }

  /** Its identity is over its rate: the stream waits. */
  async #untilRead(events: readonly Uint8Array[]): Promise<void> {
    const stop = this.#quotas.onBytes(() => this.#wakeReader?.());
    await this.#until(() => this.#quotas.tryRead(events));
    stop();
  }

  #take(frame: IngestRequestBytes["frame"]): void {
    if (frame.case === undefined) throw invalidField("frame", "is missing");
    const { runId } = frame.value;
    if (!this.#runs.has(runId) && this.#refusesId(`${frame.case}.run_id`, runId)) return;
    const limits = this.#limits;
    switch (frame.case) {
      case "open":
        this.#open(frame.value);
        return;
      case "append":
        this.#forHeld(runId, (on) => parseAppend(on, frame.value, limits));
        return;
      case "finish":
        this.#forHeld(runId, (on) => parseFinish(on, frame.value, limits));
        return;
      case "wait":
        this.#forHeld(runId, (on) => parseWait(on, frame.value, limits));
        return;
      case "release":
        this.#release(frame.value);
    }
  }

  /** Refuses a malformed run id: no frame before can have been for such a run. */
  #refusesId(field: string, runId: string): boolean {
    try {
      checkRunId(field, runId);
      return false;
    } catch (error) {
      if (!(error instanceof RefusedError)) throw error;
      this.#responses.push({ t: "rejected", runId: printableId(runId), refusal: error.refusal });
      return true;
    }
  }

  #isFull(): boolean {
    const { maxPendingBytesPerStream, maxPendingFramesPerStream } = this.#limits;
    return (
      this.#inFlight.isFull ||
      this.#responses.bytes > maxPendingBytesPerStream ||
      this.#responses.size > maxPendingFramesPerStream
    );
  }

  async #until(holds: () => boolean): Promise<void> {
    while (!this.#closed && !holds()) {
      await new Promise<void>((resolve) => {
        this.#wakeReader = resolve;
      });
      this.#wakeReader = undefined;
    }
  }

  #open(open: OpenRun): void {
    const { runId } = open;
    const producer = this.#newProducer(runId);
    this.#refuseUnless(runId, producer, () => {
      checkMessage("open", OpenRunSchema, open);
      const namespace = checkNamespace("open.namespace", open.namespace);
      this.#namespace ??= namespace;
      if (namespace !== this.#namespace) {
        const problem = `must be the same for all runs of a stream: it was ${this.#namespace} before`;
        throw new RefusedError({ reason: "invalid_field", field: "open.namespace", problem });
      }
      if (open.create !== undefined) checkSpec("open.create", open.create, this.#limits);
      producer.attempt = checkAttempt("open.", open);
      producer.receivesSignals = open.receiveSignals;
      const spec = open.create;
      const within = this.#withinOf(namespace);
      this.#quotas.openRun(producer);
      const creation = spec && this.#quotas.creation();
      this.#submit({ kind: "open", namespace, runId, producer, spec, within, creation });
    });
  }

  /** Submits what a frame for a run that is open asks for. */
  #forHeld(runId: string, parse: (on: OnProducer) => ProducerOperation): void {
    const producer = this.#producerOf(runId);
    if (producer === undefined) return;
    const namespace = this.#namespace ?? "default";
    this.#refuseUnless(runId, producer, () => {
      this.#submit(parse({ namespace, runId, producer }));
    });
  }

  #release({ runId }: ReleaseRun): void {
    // What comes from now on is for another hold.
    const producer = this.#runs.get(runId) ?? new Producer(runId, this);
    this.#quotas.endRun(producer);
    this.#runs.delete(runId);
    this.#signals.remove(runId);
    // In its turn, behind earlier frames, as a check whose answer does not matter.
    const namespace = this.#namespace ?? "default";
    this.#submit({ kind: "check", namespace, runId, producer, mustRun: false });
  }

  /** The producer whose frames are to be decided, or undefined where they are refused or discarded. */
  #producerOf(runId: string): Producer | undefined {
    const producer = this.#runs.get(runId);
    if (producer === undefined) {
      this.#refuseUnless(runId, this.#newProducer(runId), () => {
        throw new RefusedError({ reason: "run_not_open", runId });
      });
      return undefined;
    }
    return producer.rejected ? undefined : producer;
  }

  /** Runs `submit`; what it refuses is refused for this run alone. */
  #refuseUnless(runId: string, producer: Producer, submit: () => void): void {
    try {
      this.#note(runId, producer);
      submit();
    } catch (error) {
      if (!(error instanceof RefusedError)) throw error;
      const namespace = this.#namespace ?? "default";
      const { refusal } = error;
      this.#submit({ kind: "refuse", namespace, runId, producer, refusal });
    }
  }

  /** Holds the run; a run for which there is no room is refused, and the others go on. */
  #note(runId: string, producer: Producer): void {
    const limit = this.#limits.maxOpenRunsPerStream;
    if (!this.#runs.has(runId) && this.#runs.size >= limit && !this.#forgetOne()) {
      throw new RefusedError({
        reason: "quota",
        what: "runs on one stream: open another stream",
        limit,
      });
    }
    this.#runs.set(runId, producer);
  }

  /** Makes room by forgetting a run that has ended or was rejected; false where there is none. */
  #forgetOne(): boolean {
    for (const [runId, producer] of this.#runs) {
      if (!producer.rejected && !this.#ended.has(producer)) continue;
      this.#runs.delete(runId);
      this.#signals.remove(runId);
      this.#committer.release(this.#namespace ?? "default", producer);
      return true;
    }
    return false;
  }

  #newProducer(runId: string): Producer {
    // What an earlier hold would still be sent, this one is.
    this.#signals.remove(runId);
    this.#quotas.endRun(this.#runs.get(runId));
    const producer: Producer = new Producer(runId, this, {
      onRejected: (refusal) => {
        this.#quotas.endRun(producer);
        this.#responses.push({ t: "rejected", runId, refusal });
      },
      onSignalled: (lastSignalSeq) => this.#signals.note(producer, lastSignalSeq),
      // By its hold: one that opens the run again has that answered first.
      onCancelRequested: (reason) =>
        this.#responses.replace(producer, { t: "cancel_requested", runId, reason }),
    });
    return producer;
  }

  #submit(operation: ProducerOperation): void {
    this.#inFlight.add(operation);
    this.#committer.enqueue(operation, this.#callbacks);
  }

  #settle(operation: Operation): void {
    this.#inFlight.remove(operation);
    if (operation.kind === "check") {
      this.#committer.release(operation.namespace, operation.producer);
    }
    this.#wakeReader?.();
  }

  #answer(operation: Operation, outcome: Outcome): void {
    const { runId, namespace } = operation;
    if (operation.kind === "check") {
      this.#responses.push({ t: "released", runId });
      return;
    }
    switch (outcome.t) {
      case "opened":
        if (operation.kind === "open") this.#onOpened(operation, outcome);
        return;
      case "durable": {
        const { last, signals } = outcome;
        const { runSeq, seq } = last;
        this.#responses.ack({ runId, runSeq, seq, handledSignalSeq: signals.handledSignalSeq });
        return;
      }
      case "waiting":
        this.#responses.push({ t: "waiting", namespace, run: outcome.run });
        return;
      case "signals_pending": {
        const { handledSignalSeq, lastSignalSeq } = outcome.signals;
        this.#responses.push({ t: "signals_pending", runId, handledSignalSeq, lastSignalSeq });
        return;
      }
      case "ended":
        // Still held: an equal FinishRun is answered again.
        if ("producer" in operation) {
          this.#ended.add(operation.producer);
          this.#quotas.endRun(operation.producer);
        }
        this.#responses.push({ t: "ended", namespace, run: outcome.run });
        return;
      // Its producer has been told.
      case "refused":
      case "created":
      case "abandoned":
      case "signalled":
      case "discarded":
        return;
    }
  }

  #onOpened({ namespace, runId, producer }: OpenOperation, opened: OpenedOutcome): void {
    // The stream may have ended while the open was under way.
    if (this.#closed) this.#committer.release(namespace, producer);
    const { epoch, lastRunSeq, signals, cancelReason } = opened;
    const { handledSignalSeq, lastSignalSeq } = signals;
    this.#responses.push({
      t: "opened",
      runId,
      epoch,
      lastRunSeq,
      handledSignalSeq,
      lastSignalSeq,
    });
    const isCurrent = this.#runs.get(runId) === producer;
    if (isCurrent && producer.receivesSignals) this.#signals.add(producer, signals);
    if (cancelReason !== undefined) producer.cancelRequested(cancelReason);
  }
}
