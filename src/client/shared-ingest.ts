import { Code, ConnectError, type Transport } from "@connectrpc/connect";
import { Reason } from "../../gen/runlog/v1/error_pb.js";
import type { IngestResponse, RunRejected } from "../../gen/runlog/v1/ingest_pb.js";
import { startTimer } from "../timers.ts";
import { Wakeup } from "../wakeup.ts";
import { isAboutCaller, isNodeReason, isRetryable, NoAnswerError } from "./errors.ts";
import {
  type IngestMethod,
  ingestMethodOf,
  messageFrame,
  nodeCountOf,
  type RequestFrame,
} from "./ingest-transport.ts";
import { defaultSenderLimits, maxAnswerWaits, minSilenceMs, silentHeartbeats } from "./limits.ts";

/** Runs on one call; the server's own limit may be another, and is then found. */
const maxLanes = 5_000;
/** Encoded bytes of events that are handed to the transport at once. */
const maxBatchBytes = 256 * 1024;
/** Milliseconds in which the server answers a release, unless it is busy answering others. */
const releaseTimeoutMs = defaultSenderLimits.ackTimeoutMs;

/** How a call ended. */
export type StreamEnd =
  /** The server ended it without an error. */
  { readonly t: "ended" } | { readonly t: "broken"; readonly error: unknown };

/** A run on a call. Its methods do not throw. */
export interface Lane {
  /** As the server's frames name it. */
  readonly runId: string;
  /** It wants no call any more. */
  readonly isOver: boolean;
  /** It is on this call. */
  onJoined(call: SharedIngest): void;
  /** The next frame; the first one opens the run. Undefined where there is none until it is woken. */
  next(): RequestFrame | undefined;
  /** The server has said this of the run, or of the whole call. */
  onFrame(frame: IngestResponse["frame"]): void;
  /** The call is over, and the lane has left it. */
  onEnd(end: StreamEnd): void;
}

/** Listeners to a call, besides its lanes. */
export interface CallListeners {
  /** It takes no more lanes. */
  readonly onClosed: () => void;
  /** A run is left, and until the promise resolves the server may still hear of it. */
  readonly onLeaving: (runId: string, left: Promise<unknown>) => void;
  /** The call was refused for good, for the sake of one of these runs or of all. */
  readonly onRefused: (runIds: readonly string[]) => void;
}

/** What a lane leaves behind. */
export type Leaving =
  /** The server does not hold the run for this call any more. */
  | "over"
  /** The server holds it, and everything sent was acknowledged. */
  | "drained"
  /** The server holds it or may be about to; nobody waits for what it still has to say. */
  | "aborted";

/**
 * An Ingest call that runs share, so that a thousand of them cost little more
 * than one (`ingest-pool.ts` says which).
 *
 * Invariants: requests are pulled by the transport, never pushed: frames are
 * taken from the runs, which take turns, when those before them have been
 * written, so HTTP/2 flow control reaches the runs' buffers and nothing queues
 * in between. The lease of a run that nobody sends for any more begins as if
 * the run had had the call for itself.
 */
export class SharedIngest {
  readonly #ingest: IngestMethod;
  readonly #hasOtherNodes: boolean;
  readonly #endTimeoutMs: number;
  readonly #listeners: CallListeners;
  readonly #lanes = new Map<string, Lane>();
  /** Lanes that may have something to send, in the order of their turns. */
  readonly #ready = new Set<Lane>();
  /** Lanes whose run was asked for. */
  readonly #asked = new WeakSet<Lane>();
  /** Runs that are being released, and their callbacks. */
  readonly #leaving = new Map<string, (end: StreamEnd) => void>();
  /** Of these, the ones whose release has not been sent. */
  readonly #toRelease: string[] = [];
  readonly #wakeup = new Wakeup();
  readonly #controller = new AbortController();
  readonly #over = Promise.withResolvers<StreamEnd>();
  #answers = 0;
  /** It has had more than one lane at once. */
  #wasShared = false;
  /** It takes no more lanes. */
  #isClosed = false;
  /** It sends nothing more. */
  #isHalfClosed = false;
  #endDeadline: ReturnType<typeof setTimeout> | undefined;
  #releaseDeadline: ReturnType<typeof setTimeout> | undefined;
  /** When frames came last. */
  #heardAtMs = 0;
  #silence: ReturnType<typeof setTimeout> | undefined;

  /** @param endTimeoutMs that the server has to end the call once this side has half-closed it */
  constructor(transport: Transport, endTimeoutMs: number, listeners: CallListeners) {
    this.#ingest = ingestMethodOf(transport);
    this.#hasOtherNodes = nodeCountOf(transport) > 1;
    this.#endTimeoutMs = endTimeoutMs;
    this.#listeners = listeners;
  }

  /** How many frames have come: while there are more, the server is not silent. */
  get answers(): number {
    return this.#answers;
  }

  /** Whether the run can be put on this call. */
  takes(runId: string): boolean {
    // Frames of the server name the run, not the lane.
    return !this.#isClosed && this.#lanes.size < maxLanes && !this.#lanes.has(runId);
  }

  /** Puts a run that `takes` allows on this call. */
  add(lane: Lane): void {
    this.#lanes.set(lane.runId, lane);
    this.#wasShared ||= this.#lanes.size > 1;
    lane.onJoined(this);
    this.wake(lane);
  }

  /** The lane may have a frame. */
  wake(lane: Lane): void {
    if (this.#lanes.get(lane.runId) !== lane) return;
    this.#ready.add(lane);
    this.#wakeup.wake();
  }

  /** Ends the call for all its lanes. */
  abort(error: unknown): void {
    this.#close();
    this.#controller.abort(error);
  }

  /**
   * Takes a lane off the call. Resolves once the server does not hold its run
   * any more, or with what went wrong; never rejects.
   */
  leave(lane: Lane, leaving: Leaving): Promise<StreamEnd> {
    const { runId } = lane;
    const isHere = this.#lanes.get(runId) === lane;
    if (isHere) {
      this.#lanes.delete(runId);
      this.#ready.delete(lane);
    }
    if (this.#lanes.size === 0) {
      if (leaving === "aborted") this.#giveUp();
      this.#halfClose();
      if (leaving !== "over") this.#listeners.onLeaving(runId, this.#over.promise);
      return this.#over.promise;
    }
    if (!isHere || leaving === "over" || !this.#asked.has(lane)) {
      return Promise.resolve({ t: "ended" });
    }
    const left = new Promise<StreamEnd>((resolve) => {
      this.#leaving.set(runId, resolve);
    });
    this.#listeners.onLeaving(runId, left);
    this.#toRelease.push(runId);
    this.#wakeup.wake();
    if (this.#releaseDeadline === undefined) this.#expectRelease();
    return left;
  }

  /** Ends the call at once, which also releases its runs. */
  #giveUp(): void {
    for (const tell of this.#leaving.values()) tell({ t: "ended" });
    this.#leaving.clear();
    this.abort(new Error("the last run has left the call"));
  }

  /** Makes the call. Never rejects. */
  async run(): Promise<void> {
    const { signal } = this.#controller;
    this.#heardAtMs = performance.now();
    let end: StreamEnd = { t: "ended" };
    try {
      for await (const responses of this.#ingest(this.#requests(), signal)) {
        const beforeMs = this.#heardAtMs;
        this.#heardAtMs = performance.now();
        for (const { frame } of responses) this.#onFrame(frame);
        if (responses.at(-1)?.frame.case === "heartbeat") this.#watch(this.#heardAtMs - beforeMs);
      }
    } catch (error) {
      // Connect wraps the reason of an abort; our own says more.
      end = { t: "broken", error: signal.aborted ? signal.reason : error };
    }
    this.#halfClose();
    clearTimeout(this.#endDeadline);
    clearTimeout(this.#releaseDeadline);
    clearTimeout(this.#silence);
    this.#controller.abort();
    const lanes = [...this.#lanes.values()];
    this.#lanes.clear();
    this.#over.resolve(end);
    for (const tell of this.#leaving.values()) tell(end);
    const told = this.#separated(end, lanes);
    for (const lane of lanes) lane.onEnd(told);
  }

  /** What a call's refusal is to lanes of which one may have been at fault: they are tried by themselves. */
  #separated(end: StreamEnd, lanes: readonly Lane[]): StreamEnd {
    if (end.t === "ended" || !this.#wasShared || isRetryable(end.error)) return end;
    if (isAboutCaller(end.error)) return end;
    this.#listeners.onRefused(lanes.map(({ runId }) => runId));
    const { rawMessage } = ConnectError.from(end.error);
    const error = new ConnectError(rawMessage, Code.Unavailable, undefined, undefined, end.error);
    return { t: "broken", error };
  }

  async *#requests(): AsyncGenerator<readonly RequestFrame[]> {
    while (!this.#isHalfClosed) {
      this.#wakeup.reset();
      const frames: RequestFrame[] = this.#toRelease
        .splice(0)
        .map((runId) => messageFrame({ case: "release", value: { runId } }));
      let bytes = 0;
      for (const lane of this.#ready) {
        this.#ready.delete(lane);
        const frame = lane.next();
        if (frame === undefined) continue;
        this.#asked.add(lane);
        frames.push(frame);
        // Behind the others, which have their turns first.
        this.#ready.add(lane);
        if (frame.t === "append") bytes += frame.bytes;
        if (bytes >= maxBatchBytes) break;
      }
      if (frames.length > 0) yield frames;
      else if (!this.#isHalfClosed) await this.#wakeup.wait();
    }
  }

  #onFrame(frame: IngestResponse["frame"]): void {
    this.#answers++;
    // A frame of a newer server we need not know; either shows that somebody is there.
    if (frame.case === undefined || frame.case === "heartbeat") return;
    if (frame.case === "goAway") {
      for (const lane of [...this.#lanes.values()]) lane.onFrame(frame);
      this.#halfClose();
      return;
    }
    const runId = "runId" in frame.value ? frame.value.runId : (frame.value.run?.runId ?? "");
    const lane = this.#lanes.get(runId);
    if (lane === undefined) {
      if (frame.case !== "released") return;
      this.#leaving.get(runId)?.({ t: "ended" });
      this.#leaving.delete(runId);
      if (this.#leaving.size > 0) return;
      clearTimeout(this.#releaseDeadline);
      this.#releaseDeadline = undefined;
      return;
    }
    if (frame.case === "rejected" && this.#isFull(frame.value)) {
      this.#close();
      this.#lanes.delete(runId);
      this.#ready.delete(lane);
      const error = new ConnectError(frame.value.message, Code.Unavailable);
      lane.onEnd({ t: "broken", error });
      return;
    }
    if (
      frame.case === "rejected" &&
      this.#hasOtherNodes &&
      isNodeReason(frame.value.detail?.reason)
    ) {
      // The run's next call goes to another node; this one stays where it is.
      this.#close();
    }
    lane.onFrame(frame);
  }

  /** Whether a run was refused because the server takes no more on this call: it does on another. */
  #isFull({ detail }: RunRejected): boolean {
    if (detail?.reason !== Reason.QUOTA || detail.retryAfter !== undefined) return false;
    return this.#wasShared;
  }

  /** Takes no more lanes. */
  #close(): void {
    if (this.#isClosed) return;
    this.#isClosed = true;
    this.#listeners.onClosed();
  }

  /** Sends nothing more; the server acknowledges what it has and ends the call. */
  #halfClose(): void {
    this.#close();
    if (this.#isHalfClosed) return;
    this.#isHalfClosed = true;
    this.#wakeup.wake();
    const error = new NoAnswerError("end of the call", this.#endTimeoutMs);
    this.#endDeadline = startTimer(() => this.abort(error), this.#endTimeoutMs);
  }

  /**
   * The server sends heartbeats: without a frame for several of their intervals the call is
   * dead, whatever the connection says.
   *
   * @param intervalMs since the frame before
   */
  #watch(intervalMs: number): void {
    clearTimeout(this.#silence);
    const before = this.#answers;
    const timeoutMs = Math.max(minSilenceMs, silentHeartbeats * intervalMs);
    this.#silence = startTimer(() => {
      if (this.#answers !== before) this.#watch(intervalMs);
      else this.abort(new NoAnswerError("frame of the call", timeoutMs));
    }, timeoutMs);
  }

  /** @param waits the time-outs that this one is the last of */
  #expectRelease(waits = 1): void {
    const before = this.#answers;
    this.#releaseDeadline = startTimer(() => {
      const isConnected = this.#answers !== before;
      if (isConnected && waits < maxAnswerWaits) this.#expectRelease(waits + 1);
      else this.abort(new NoAnswerError("RunReleased", waits * releaseTimeoutMs));
    }, releaseTimeoutMs);
  }
}
