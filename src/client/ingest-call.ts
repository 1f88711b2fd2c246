import type { MessageInitShape } from "@bufbuild/protobuf";
import type { Transport } from "@connectrpc/connect";
import type { IngestResponse } from "../../gen/runlog/v1/ingest_pb.js";
import type { Run, RunSpecSchema } from "../../gen/runlog/v1/run_pb.js";
import { startTimer } from "../timers.ts";
import { isRetryable, NoAnswerError, RunlogError } from "./errors.ts";
import {
  checkSize,
  type FinishGoal,
  finishFrame,
  type Goal,
  type WaitGoal,
  waitFrame,
} from "./goals.ts";
import { ingestPoolOf } from "./ingest-pool.ts";
import { messageFrame, type RequestFrame } from "./ingest-transport.ts";
import { defaultMaxAppendBytes, maxAnswerWaits, type SenderLimits } from "./limits.ts";
import type { FrameLimits, SendBuffer } from "./send-buffer.ts";
import type { Lane, Leaving, SharedIngest, StreamEnd } from "./shared-ingest.ts";
import type { SignalInbox } from "./signal-inbox.ts";
import { toNumber } from "./uint64.ts";
import { tokenFor } from "./with-token.ts";

/** The server's answer to an opening. Limits are undefined where it told none. */
export interface Opened {
  /** Grows with every opening of the run, also by other producers. */
  readonly epoch: bigint;
  /** run_seq of the run's last durable event. */
  readonly lastRunSeq: number;
  readonly maxEventBytes: number | undefined;
  readonly maxAppendBytes: number | undefined;
  readonly maxUnackedEvents: number | undefined;
  /** The last of the run's signals whose handling is recorded. */
  readonly handledSignalSeq: number;
}

/** How a call ended for the run. */
export type CallEnd =
  /** The server ended it without an error, or the run has left it. */
  | { readonly t: "ended"; readonly progressed: boolean }
  /** It broke; the next one may succeed. */
  | { readonly t: "broken"; readonly progressed: boolean; readonly error: unknown }
  /** The next one would end the same way. */
  | { readonly t: "refused"; readonly error: unknown };

/** What a call needs from its sender. */
export interface IngestCallOptions {
  readonly runId: string;
  /** Names the sender to the server; the same in all its calls. */
  readonly producerId: string;
  /** Which of the sender's calls this is, from 1 on. */
  readonly attempt: number;
  readonly namespace: string;
  readonly spec: MessageInitShape<typeof RunSpecSchema> | undefined;
  readonly limits: SenderLimits;
  readonly buffer: SendBuffer;
  readonly now: () => number;
  readonly goal: () => Goal;
  /** What the run is to wait for, until that was answered. */
  readonly wait: () => WaitGoal | undefined;
  /** The run's signals; undefined where the producer wants none. */
  readonly inbox: SignalInbox | undefined;
  /** Rebases the buffer. May throw a final error. */
  readonly onOpened: (opened: Opened) => void;
  readonly onAck: () => void;
  readonly onResent: (count: number) => void;
  readonly onEnded: (run: Run) => void;
  readonly onCancelRequested: (reason: string) => void;
  readonly onWaiting: (wait: WaitGoal) => void;
  /** A wait, or an end, was refused: signals up to this one are there, and not all are handled. */
  readonly onSignalsPending: (lastSignalSeq: number, wait: WaitGoal | undefined) => void;
}

/** Bytes of an opening: every server reads a message of so many, and a valid spec is far smaller. */
const maxOpeningBytes = 60 * 1024;

type Phase = "opening" | "open" | "finishing" | "half_closed" | "over";

/**
 * One run on an Ingest call, from its opening until it leaves the call.
 *
 * Invariant: one deadline at a time says what the server owes the run next; one
 * that passes ends the call.
 *
 * Runs once.
 */
export class IngestCall implements Lane {
  readonly runId: string;
  readonly #transport: Transport;
  readonly #options: IngestCallOptions;
  readonly #over = Promise.withResolvers<CallEnd>();
  #shared: SharedIngest | undefined;
  #phase: Phase = "opening";
  /** Until it has been sent. */
  #opening: RequestFrame | undefined;
  #frameLimits: FrameLimits;
  #openedAtMs: number | undefined;
  #acked = false;
  /** The last signal that this call has told the server to be handled. */
  #toldHandled = 0;
  /** The wait that this call has asked for, until it is answered. */
  #asked: WaitGoal | undefined;
  #deadline: ReturnType<typeof setTimeout> | undefined;

  constructor(transport: Transport, options: IngestCallOptions) {
    this.#transport = transport;
    this.#options = options;
    this.runId = options.runId;
    this.#frameLimits = frameLimits(options.limits, undefined);
  }

  /** There is something new to send, or a new goal. */
  wake(): void {
    this.#shared?.wake(this);
  }

  get isOver(): boolean {
    return this.#phase === "over";
  }

  /** Makes the call and returns how it ended; never rejects. */
  async run(signal: AbortSignal): Promise<CallEnd> {
    const { runId, namespace, spec, limits, producerId } = this.#options;
    if (signal.aborted) return { t: "refused", error: signal.reason };
    try {
      const attempt = BigInt(this.#options.attempt);
      const receiveSignals = this.#options.inbox !== undefined;
      const value = { runId, namespace, create: spec, producerId, attempt, receiveSignals };
      const frame = messageFrame({ case: "open", value });
      this.#opening = checkSize(frame, "open", maxOpeningBytes);
    } catch (error) {
      return { t: "refused", error };
    }
    const onAbort = () => this.#leave("aborted", { t: "refused", error: signal.reason });
    signal.addEventListener("abort", onAbort, { once: true });
    try {
      await tokenFor(this.#transport, signal);
      // It may wait for another to leave; an abort does not.
      void ingestPoolOf(this.#transport, namespace).join(this, limits.halfCloseTimeoutMs);
    } catch (error) {
      this.#end(this.#endBy(error));
    }
    const end = await this.#over.promise;
    signal.removeEventListener("abort", onAbort);
    return end;
  }

  onJoined(call: SharedIngest): void {
    const { openTimeoutMs, ackTimeoutMs } = this.#options.limits;
    this.#shared = call;
    // The first answer also shows that somebody is there; later ones wait for the database.
    this.#expect("RunOpened", call.answers === 0 ? openTimeoutMs : ackTimeoutMs);
  }

  next(): RequestFrame | undefined {
    const opening = this.#opening;
    this.#opening = undefined;
    if (opening !== undefined || this.#phase !== "open") return opening;
    const { runId, buffer, limits, wait } = this.#options;
    const handling = this.#handling();
    if (handling !== undefined) return handling;
    const wished = wait();
    const frame = buffer.nextFrame(this.#frameLimits, wished?.mark);
    if (frame === undefined) return this.#nextOfGoal(wished);
    this.#options.onResent(frame.resent);
    if (this.#deadline === undefined) this.#expect("AppendAck", limits.ackTimeoutMs);
    const { firstRunSeq, events, bytes, handledSignalSeq } = frame;
    this.#toldHandled = Math.max(this.#toldHandled, handledSignalSeq);
    return { t: "append", append: { runId, firstRunSeq, events, handledSignalSeq }, bytes };
  }

  /** An Append without events, where signals are handled that no event answers. */
  #handling(): RequestFrame | undefined {
    const { runId, buffer, limits, inbox } = this.#options;
    if (inbox === undefined) return undefined;
    const { signalSeq: handledSignalSeq, mark } = inbox.toHandle;
    // Not before the events that were emitted before it.
    if (handledSignalSeq <= this.#toldHandled || !buffer.isSent(mark)) return undefined;
    this.#toldHandled = handledSignalSeq;
    if (this.#deadline === undefined) this.#expect("AppendAck", limits.ackTimeoutMs);
    const firstRunSeq = buffer.sentRunSeq + 1;
    return { t: "append", append: { runId, firstRunSeq, events: [], handledSignalSeq }, bytes: 0 };
  }

  #nextOfGoal(wished: WaitGoal | undefined): RequestFrame | undefined {
    const { buffer, goal, inbox } = this.#options;
    const wanted = goal();
    if (this.#asked !== undefined) return undefined;
    // The run ends, and waits, only once its events are durable: waiting for the last
    // acknowledgement here costs one round trip and no refusal.
    if (wished !== undefined) {
      return buffer.isDurable(wished.mark) ? this.#waiting(wished) : undefined;
    }
    if (buffer.unacked > 0) return undefined;
    if (wanted.t === "stream") return undefined;
    if (wanted.t === "finish") return this.#finishing(wanted);
    if (inbox?.isRecorded === false) return undefined;
    this.#phase = "half_closed";
    void this.#shared?.leave(this, "drained").then((end) => this.onEnd(end));
    return undefined;
  }

  #waiting(wished: WaitGoal): RequestFrame | undefined {
    return this.#asking(({ runId, buffer }) => {
      const frame = waitFrame(runId, buffer.sentRunSeq, wished, this.#frameLimits.maxAppendBytes);
      this.#asked = wished;
      this.#expect("RunNowWaiting", this.#options.limits.ackTimeoutMs);
      return frame;
    });
  }

  #finishing(goal: FinishGoal): RequestFrame | undefined {
    return this.#asking(({ runId, buffer }) => {
      const frame = finishFrame(runId, buffer.sentRunSeq, goal, this.#frameLimits.maxAppendBytes);
      this.#phase = "finishing";
      this.#expect("RunEnded", this.#options.limits.ackTimeoutMs);
      return frame;
    });
  }

  /** A frame; where it cannot be made, the run cannot go on. */
  #asking(frame: (options: IngestCallOptions) => RequestFrame): RequestFrame | undefined {
    try {
      return frame(this.#options);
    } catch (error) {
      this.#leave("aborted", { t: "refused", error });
      return undefined;
    }
  }

  onFrame(frame: IngestResponse["frame"]): void {
    try {
      this.#take(frame);
    } catch (error) {
      const isOver = error instanceof RunlogError;
      this.#leave(isOver ? "over" : "aborted", this.#endBy(error));
    }
  }

  onEnd(end: StreamEnd): void {
    this.#end(
      end.t === "ended" ? { t: "ended", progressed: this.#progressed() } : this.#endBy(end.error),
    );
  }

  #take(frame: IngestResponse["frame"]): void {
    const { limits, buffer } = this.#options;
    switch (frame.case) {
      case "opened": {
        const opened: Opened = {
          epoch: frame.value.epoch,
          lastRunSeq: toNumber(frame.value.lastRunSeq, "last_run_seq"),
          maxEventBytes: limitOf(frame.value.limits?.maxEventBytes),
          maxAppendBytes: limitOf(frame.value.limits?.maxAppendBytes),
          maxUnackedEvents: limitOf(frame.value.limits?.maxUnackedEvents),
          handledSignalSeq: toNumber(frame.value.handledSignalSeq, "handled_signal_seq"),
        };
        this.#toldHandled = opened.handledSignalSeq;
        this.#options.onOpened(opened);
        this.#frameLimits = frameLimits(limits, opened);
        this.#openedAtMs = this.#options.now();
        if (this.#phase === "opening") {
          this.#expectNothing();
          this.#phase = "open";
        }
        break;
      }
      case "ack":
        this.#acked = buffer.ack(toNumber(frame.value.runSeq, "run_seq")) > 0 || this.#acked;
        this.#options.inbox?.recorded(toNumber(frame.value.handledSignalSeq, "handled_signal_seq"));
        if (this.#phase === "open" && this.#asked === undefined) {
          this.#expectNothing();
          if (buffer.inFlight > 0) this.#expect("AppendAck", limits.ackTimeoutMs);
        }
        this.#options.onAck();
        break;
      case "ended":
        if (frame.value.run !== undefined) {
          this.#options.onEnded(frame.value.run);
          this.#leave("over", { t: "ended", progressed: this.#progressed() });
        }
        break;
      case "rejected":
        throw new RunlogError(frame.value.message, undefined, frame.value.detail);
      case "signal":
        this.#options.inbox?.deliver(frame.value);
        return;
      case "waiting":
        this.#expectNothing();
        if (this.#asked !== undefined) this.#options.onWaiting(this.#asked);
        this.#asked = undefined;
        break;
      case "signalsPending": {
        this.#expectNothing();
        if (this.#phase === "finishing") this.#phase = "open";
        const lastSignalSeq = toNumber(frame.value.lastSignalSeq, "last_signal_seq");
        this.#options.onSignalsPending(lastSignalSeq, this.#asked);
        this.#asked = undefined;
        break;
      }
      case "cancelRequested":
        this.#options.onCancelRequested(frame.value.reason);
        break;
      case "goAway":
        // The server acknowledges what it has, and ends the call.
        this.#expectNothing();
        this.#phase = "half_closed";
        break;
      default:
        // Not for one run.
        break;
    }
    this.wake();
  }

  /** Leaves the call, which others may go on using. */
  #leave(leaving: Leaving, end: CallEnd): void {
    void this.#shared?.leave(this, leaving);
    this.#end(end);
  }

  #end(end: CallEnd): void {
    this.#expectNothing();
    this.#phase = "over";
    this.#over.resolve(end);
  }

  #endBy(error: unknown): CallEnd {
    return isRetryable(error)
      ? { t: "broken", progressed: this.#progressed(), error }
      : { t: "refused", error };
  }

  /**
   * From now on the server owes `what`; without it the call is abandoned.
   *
   * @param waits the time-outs that this one is the last of
   */
  #expect(what: string, timeoutMs: number, waits = 1): void {
    this.#expectNothing();
    const before = this.#shared?.answers;
    this.#deadline = startTimer(() => {
      // All runs of a call wait in one queue: while others are answered, this one is not forgotten.
      const isConnected = this.#shared?.answers !== before;
      if (isConnected && waits < maxAnswerWaits) this.#expect(what, timeoutMs, waits + 1);
      else this.#shared?.abort(new NoAnswerError(what, waits * timeoutMs));
    }, timeoutMs);
  }

  #expectNothing(): void {
    clearTimeout(this.#deadline);
    this.#deadline = undefined;
  }

  /** Whether the next failure is a first one: this call got somewhere, or held for a while. */
  #progressed(): boolean {
    const { now, limits } = this.#options;
    return (
      this.#acked ||
      (this.#openedAtMs !== undefined && now() - this.#openedAtMs >= limits.stableAfterMs)
    );
  }
}

/** 0 or nothing: the server told no limit. */
function limitOf(value: bigint | undefined): number | undefined {
  return value === undefined || value === 0n ? undefined : toNumber(value, "limit");
}

function frameLimits(limits: SenderLimits, opened: Opened | undefined): FrameLimits {
  return {
    maxEvents: limits.maxFrameEvents,
    maxBytes: limits.maxFrameBytes,
    maxAppendBytes: opened?.maxAppendBytes ?? defaultMaxAppendBytes,
    maxUnackedEvents: opened?.maxUnackedEvents ?? limits.maxBufferedEvents,
  };
}
