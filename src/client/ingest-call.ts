/**
 * One Ingest call that carries one run.
 *
 * Invariant: requests are pulled by the transport, never pushed: a frame is
 * taken from the buffer when the one before it has been written, so HTTP/2
 * flow control reaches the buffer and nothing queues in between. One deadline
 * at a time says what the server owes next.
 */
import type { MessageInitShape } from "@bufbuild/protobuf";
import { createClient, type Transport } from "@connectrpc/connect";
import {
  type IngestRequestSchema,
  type IngestResponse,
  IngestService,
} from "../../gen/runlog/v1/ingest_pb.js";
import type { Run, RunResultSchema, RunSpecSchema } from "../../gen/runlog/v1/run_pb.js";
import { isRetryable, NoAnswerError, RefusalError } from "./errors.ts";
import { defaultMaxAppendBytes, type SenderLimits } from "./limits.ts";
import type { FrameLimits, SendBuffer } from "./send-buffer.ts";
import { toNumber } from "./uint64.ts";
import { Wakeup } from "./wakeup.ts";

/** The server's answer to an opening. Limits are undefined where it told none. */
export interface Opened {
  /** Grows with every opening of the run, by whomever. */
  readonly epoch: bigint;
  /** run_seq of the run's last durable event. */
  readonly lastRunSeq: number;
  readonly maxEventBytes: number | undefined;
  readonly maxAppendBytes: number | undefined;
  readonly maxUnackedEvents: number | undefined;
}

/** How a call ended. */
export type CallEnd =
  /** The server ended it without an error. */
  | { readonly t: "ended"; readonly progressed: boolean }
  /** It broke; the next one may succeed. */
  | { readonly t: "broken"; readonly progressed: boolean; readonly error: unknown }
  /** The next one would end the same way. */
  | { readonly t: "refused"; readonly error: unknown };

/** What the producer wants: to go on, to leave, or to end the run. */
export type Goal =
  | { readonly t: "stream" | "close" }
  | { readonly t: "finish"; readonly result: MessageInitShape<typeof RunResultSchema> };

/** What a call needs from its sender. */
export interface IngestCallOptions {
  readonly runId: string;
  readonly namespace: string;
  readonly spec: MessageInitShape<typeof RunSpecSchema> | undefined;
  readonly limits: SenderLimits;
  readonly buffer: SendBuffer;
  readonly now: () => number;
  readonly goal: () => Goal;
  /** Rebases the buffer. May throw a final error. */
  readonly onOpened: (opened: Opened) => void;
  readonly onAck: () => void;
  readonly onResent: (count: number) => void;
  readonly onEnded: (run: Run) => void;
  readonly onCancelRequested: (reason: string) => void;
}

type Phase = "opening" | "open" | "finishing" | "half_closed" | "over";

/** See the head of this file. Runs once. */
export class IngestCall {
  readonly #transport: Transport;
  readonly #options: IngestCallOptions;
  readonly #controller = new AbortController();
  readonly #wakeup = new Wakeup();
  #phase: Phase = "opening";
  #frameLimits: FrameLimits;
  #openedAtMs: number | undefined;
  #acked = false;
  #deadline: ReturnType<typeof setTimeout> | undefined;

  constructor(transport: Transport, options: IngestCallOptions) {
    this.#transport = transport;
    this.#options = options;
    this.#frameLimits = frameLimits(options.limits, undefined);
  }

  /** There is something new to send, or a new goal. */
  wake(): void {
    this.#wakeup.wake();
  }

  /** Makes the call and returns how it ended; never rejects. */
  async run(signal: AbortSignal): Promise<CallEnd> {
    const { limits, now } = this.#options;
    const onAbort = () => this.#controller.abort(signal.reason);
    signal.addEventListener("abort", onAbort, { once: true });
    if (signal.aborted) {
      onAbort();
    }
    this.#expect("RunOpened", limits.openTimeoutMs);
    try {
      const responses = createClient(IngestService, this.#transport).ingest(this.#requests(), {
        signal: this.#controller.signal,
        timeoutMs: 0,
      });
      for await (const response of responses) {
        this.#onFrame(response);
      }
      return { t: "ended", progressed: this.#progressed(now()) };
    } catch (thrown) {
      // Connect wraps the reason of an abort; our own says more.
      const error = this.#controller.signal.aborted ? this.#controller.signal.reason : thrown;
      return isRetryable(error)
        ? { t: "broken", progressed: this.#progressed(now()), error }
        : { t: "refused", error };
    } finally {
      this.#expectNothing();
      signal.removeEventListener("abort", onAbort);
      this.#phase = "over";
      this.#controller.abort();
      this.#wakeup.wake();
    }
  }

  async *#requests(): AsyncGenerator<MessageInitShape<typeof IngestRequestSchema>> {
    const { runId, namespace, spec, buffer, limits, goal } = this.#options;
    yield { frame: { case: "open", value: { runId, namespace, create: spec } } };
    while (this.#phase !== "half_closed" && this.#phase !== "over") {
      if (this.#phase === "open") {
        const frame = buffer.nextFrame(this.#frameLimits);
        if (frame !== undefined) {
          this.#options.onResent(frame.resent);
          if (this.#deadline === undefined) {
            this.#expect("AppendAck", limits.ackTimeoutMs);
          }
          const { events, firstRunSeq } = frame;
          yield {
            frame: { case: "append", value: { runId, firstRunSeq: BigInt(firstRunSeq), events } },
          };
          continue;
        }
        const wanted = goal();
        // The run ends only once all its events are durable: waiting for the
        // last acknowledgement here costs one round trip and no refusal.
        if (wanted.t === "finish" && buffer.unacked === 0) {
          this.#phase = "finishing";
          this.#expect("RunEnded", limits.ackTimeoutMs);
          const lastRunSeq = BigInt(buffer.lastRunSeq);
          yield { frame: { case: "finish", value: { runId, lastRunSeq, result: wanted.result } } };
          continue;
        }
        if (wanted.t === "close" && buffer.unacked === 0) {
          this.#halfClose();
          return;
        }
      }
      await this.#wakeup.wait();
    }
  }

  #onFrame(response: IngestResponse): void {
    const { frame } = response;
    const { limits, buffer } = this.#options;
    switch (frame.case) {
      case "opened": {
        const opened: Opened = {
          epoch: frame.value.epoch,
          lastRunSeq: toNumber(frame.value.lastRunSeq, "last_run_seq"),
          maxEventBytes: limitOf(frame.value.limits?.maxEventBytes),
          maxAppendBytes: limitOf(frame.value.limits?.maxAppendBytes),
          maxUnackedEvents: limitOf(frame.value.limits?.maxUnackedEvents),
        };
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
        if (this.#phase === "open") {
          this.#expectNothing();
          if (buffer.inFlight > 0) {
            this.#expect("AppendAck", limits.ackTimeoutMs);
          }
        }
        this.#options.onAck();
        break;
      case "ended":
        if (frame.value.run !== undefined) {
          this.#options.onEnded(frame.value.run);
          this.#halfClose();
        }
        break;
      case "rejected":
        throw new RefusalError(frame.value.message, undefined, frame.value.detail);
      case "cancelRequested":
        this.#options.onCancelRequested(frame.value.reason);
        break;
      case "goAway":
        this.#halfClose();
        break;
      default:
        // A frame of a newer server that this client need not know.
        break;
    }
    this.#wakeup.wake();
  }

  /** Sends nothing more; the server acknowledges what it has and ends the call. */
  #halfClose(): void {
    if (this.#phase !== "half_closed" && this.#phase !== "over") {
      this.#phase = "half_closed";
      this.#expect("end of the call", this.#options.limits.halfCloseTimeoutMs);
    }
  }

  /** From now on the server owes `what`; without it the call is abandoned. */
  #expect(what: string, timeoutMs: number): void {
    this.#expectNothing();
    this.#deadline = setTimeout(
      () => this.#controller.abort(new NoAnswerError(what, timeoutMs)),
      timeoutMs,
    );
  }

  #expectNothing(): void {
    clearTimeout(this.#deadline);
    this.#deadline = undefined;
  }

  /** Whether the next failure is a first one: this call got somewhere, or held for a while. */
  #progressed(nowMs: number): boolean {
    return (
      this.#acked ||
      (this.#openedAtMs !== undefined &&
        nowMs - this.#openedAtMs >= this.#options.limits.stableAfterMs)
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
