import type { Transport } from "@connectrpc/connect";
import { v7 as uuidv7 } from "uuid";
import { startTimer } from "../timers.ts";
import type { EventInit } from "../wire/event.ts";
import { CallLoop, toError } from "./call-loop.ts";
import { FirstContactError, SenderClosedError, SignalsPendingError } from "./errors.ts";
import type { Goal, WaitGoal } from "./goals.ts";
import type { Opened } from "./ingest-call.ts";
import { Intake } from "./intake.ts";
import { defaultSenderLimits, type SenderLimits } from "./limits.ts";
import { refuseInvalidResult, refuseInvalidRunId, refuseInvalidWait } from "./refuse.ts";
import { RunWaits } from "./run-waits.ts";
import { SendBuffer } from "./send-buffer.ts";
import { finalError, isFinal } from "./sender-state.ts";
import type {
  Closed,
  ConditionOptions,
  Finished,
  OpenRunOptions,
  ResultInit,
  SenderState,
  SenderStats,
  SignalsOptions,
  WaitInit,
} from "./sender-types.ts";
import { SenderWaits } from "./sender-waits.ts";
import { type RunSignal, SignalInbox } from "./signal-inbox.ts";

/**
 * Opens a run and returns at once; events may be emitted before the server
 * has answered. Bind the result to one agent: a second sender on the same run
 * fences this one.
 */
export function openRun(transport: Transport, options: OpenRunOptions = {}): RunSender {
  return new RunSender(transport, options);
}

/**
 * The reliable producer of one run.
 *
 * Invariants: an event that emit took is sent until it is acknowledged, in
 * the order of emit and never twice under two run_seqs, whatever happens to
 * connections and servers; emit never waits; memory is bounded by the buffer;
 * a refusal that cannot succeed ends the sender with a typed error and is
 * never retried.
 *
 * States (one transition function, `#enter`):
 *
 *     connecting → open → … → waiting → connecting → …
 *     any of these → ended | closed | failed, which are final
 */
export class RunSender {
  /** The run's id, given or minted. */
  readonly runId: string;
  /**
   * Settles with the first answer of the server: how far the run is, and what
   * it takes. Rejects where the sender ends before.
   */
  readonly opened: Promise<Opened>;
  /** Aborts when somebody asks for the run to stop; the reason is what they said. */
  readonly cancelled: AbortSignal;

  readonly #options: OpenRunOptions;
  readonly #limits: SenderLimits;
  readonly #now: () => number;
  readonly #buffer: SendBuffer;
  readonly #intake: Intake;
  readonly #waits: SenderWaits;
  readonly #cancel = new AbortController();
  readonly #lifetime = new AbortController();
  readonly #firstOpened = Promise.withResolvers<Opened>();
  readonly #over = Promise.withResolvers<SenderState>();
  #state: SenderState = { t: "connecting", attempt: 0 };
  #goal: Goal = { t: "stream" };
  readonly #inbox: SignalInbox | undefined;
  readonly #runWaits = new RunWaits();
  /** What the run waits for, until something is emitted behind that. */
  #standing: WaitGoal | undefined;
  /** Reject the calls of finish, where signals keep it from ending the run. */
  #finishing: ((error: SignalsPendingError) => void)[] = [];
  /** Whether to leave the run, where signals keep finish from ending it. */
  #closes = false;
  readonly #calls: CallLoop;
  #firstContact: ReturnType<typeof setTimeout> | undefined;

  constructor(transport: Transport, options: OpenRunOptions) {
    this.#options = options;
    this.#limits = { ...defaultSenderLimits, ...options.limits };
    this.#now = options.now ?? Date.now;
    this.#buffer = new SendBuffer(this.#limits.maxBufferedEvents, this.#limits.maxBufferedBytes);
    this.#inbox = options.receiveSignals === true ? new SignalInbox() : undefined;
    this.#waits = new SenderWaits(this.#buffer, () => this.#throwIfOver());
    this.runId = options.runId ?? uuidv7();
    const { runId } = this;
    const { onDrop } = options;
    this.#intake = new Intake({ runId, buffer: this.#buffer, now: this.#now, onDrop });
    this.#calls = this.#callLoop(transport, options);
    this.cancelled = this.#cancel.signal;
    this.opened = this.#firstOpened.promise;
    // Nobody has to wait for the opening; its failure also reaches finish.
    this.opened.catch(() => undefined);
    const signal = options.signal;
    const onAbort = () => this.#abort(signal?.reason);
    if (signal?.aborted) {
      onAbort();
    } else {
      signal?.addEventListener("abort", onAbort, { once: true, signal: this.#lifetime.signal });
    }
    const waitMs = this.#limits.firstContactTimeoutMs;
    if (!isFinal(this.#state)) {
      this.#firstContact = startTimer(() => this.#missContact(waitMs), waitMs);
    }
    // #run catches everything: it ends in a state, never in a rejection.
    void this.#run();
  }

  #callLoop(transport: Transport, options: OpenRunOptions): CallLoop {
    return new CallLoop(transport, {
      runId: this.runId,
      namespace: options.namespace ?? "",
      spec: options.spec,
      limits: this.#limits,
      buffer: this.#buffer,
      inbox: this.#inbox,
      now: this.#now,
      random: options.random ?? Math.random,
      signal: this.#lifetime.signal,
      goal: () => this.#goal,
      wait: () => this.#runWaits.next,
      isDone: () => this.#goal.t === "close" && this.#isDrained,
      isOver: () => isFinal(this.#state),
      isWaiting: () => this.#isWaiting,
      onState: (state) => this.#enter(state),
      onContact: () => clearTimeout(this.#firstContact),
      onOpened: (opened) => this.#onOpened(opened),
      onAck: () => this.#waits.note(),
      onEnded: (run) => this.#enter({ t: "ended", run }),
      onCancelRequested: (reason) => this.#cancel.abort(reason),
      onWaiting: (wait) => {
        this.#standing = wait;
        this.#runWaits.waiting(wait);
      },
      onSignalsPending: (lastSignalSeq, wait) => this.#onSignalsPending(lastSignalSeq, wait),
    });
  }

  /** Where the sender stands. */
  get state(): SenderState {
    return this.#state;
  }

  /** What it has done so far. */
  get stats(): SenderStats {
    return {
      emitted: this.#intake.taken,
      dropped: this.#intake.dropped,
      durable: this.#buffer.durable,
      resent: this.#calls.resent,
      reconnects: this.#calls.reconnects,
    };
  }

  /** Whether the buffer takes another event now. */
  get hasRoom(): boolean {
    return this.#buffer.hasRoom;
  }

  /**
   * Takes an event, never waits, never throws for a bad event. Returns false
   * where it was dropped (see onDrop), or where the sender is over.
   *
   * @param handledSignalSeq the last of the run's signals that this event answers, of those
   *   that have come: it is recorded as handled with the event, in one commit
   * @throws RangeError for a signal that has not come
   */
  emit(init: EventInit, handledSignalSeq = 0): boolean {
    if (this.#goal.t !== "stream" || isFinal(this.#state)) return false;
    if (handledSignalSeq !== 0) this.#inboxOf("emit").check(handledSignalSeq);
    if (!this.#intake.take(init, handledSignalSeq)) return false;
    this.#calls.wake();
    return true;
  }

  /**
   * The run's signals after the last handled one, each once and in order, until the
   * sender is over; a run opened with receiveSignals has them. For one reader at a time: one
   * that stops leaves the rest to the next. A signal counts as handled once the event that
   * answers it is durable (see emit), or as handle says: a producer that dies before gets it
   * again.
   */
  signals({ signal }: SignalsOptions = {}): AsyncIterableIterator<RunSignal> {
    return this.#inboxOf("signals").read(signal);
  }

  /**
   * Records the signals up to this one as handled, where no event answers them; after the
   * events that were emitted before, and at the latest with close or finish.
   *
   * @throws RangeError for a signal that has not come
   */
  handle(signalSeq: number): void {
    this.#inboxOf("handle").handle(signalSeq, this.#buffer.mark());
    this.#calls.wake();
  }

  /**
   * Lets the run wait for input, once everything that was emitted is durable, and resolves
   * when that is so: no lease runs then, and the producer may leave. An event that is emitted
   * later comes after the wait, and ends it. By default only if every signal of the run is
   * handled; rejects with SignalsPendingError otherwise, as finish does where the run is over,
   * and with RunlogError for a wait that every server refuses. The sender goes on after the
   * first and the last. Where the deadline passes before anything is emitted, the run is LOST
   * and the sender is over, with RUN_NOT_OPEN: open the run again to go on with it.
   */
  async wait(
    wait: WaitInit,
    { requireSignalsHandled = true }: ConditionOptions = {},
  ): Promise<void> {
    this.#throwIfOver();
    refuseInvalidWait(wait, this.#intake.maxEventBytes);
    const mark = this.#buffer.mark();
    const waiting = this.#runWaits.ask({ mark, wait, requireSignalsHandled });
    this.#calls.wake();
    await waiting;
  }

  #inboxOf(method: string): SignalInbox {
    if (this.#inbox !== undefined) return this.#inbox;
    throw new TypeError(`${method}: open the run with receiveSignals to get its signals`);
  }

  /**
   * Resolves once the buffer has room, for producers that would rather wait
   * than lose an event; look at hasRoom again afterwards, another one may have
   * been quicker. Rejects once the sender is over.
   */
  ready(): Promise<void> {
    return this.#waits.untilRoom();
  }

  /**
   * Resolves once everything that was emitted so far is durable, through outages.
   * Rejects once the sender is over and that is not known.
   */
  flush(): Promise<void> {
    return this.#waits.untilDurable();
  }

  /**
   * Sends what is left, ends the run and resolves once that is durable. Waits
   * through outages: bound it with the sender's signal. Rejects with the
   * refusal, or SenderClosedError. A result that every server refuses is refused
   * here, and the sender goes on; so it does after SignalsPendingError, which
   * requireSignalsHandled asks for.
   */
  async finish(
    result: ResultInit,
    { requireSignalsHandled = false }: ConditionOptions = {},
  ): Promise<Finished> {
    const pending = Promise.withResolvers<never>();
    if (this.#goal.t === "stream") {
      refuseInvalidResult(result, this.#intake.maxEventBytes);
      this.#goal = { t: "finish", result, requireSignalsHandled };
      this.#calls.wake();
    }
    if (this.#goal.t === "finish") this.#finishing.push(pending.reject);
    const end = await Promise.race([this.#over.promise, pending.promise]);
    if (end.t === "ended") {
      return { run: end.run, durable: this.#buffer.durable, dropped: this.#intake.dropped };
    }
    throw finalError(end);
  }

  /**
   * Sends what is left, for at most `timeoutMs` milliseconds, and leaves the
   * run as it is: it can be opened again until its lease runs out.
   * Never rejects; a sender that is over already says what it left.
   */
  async close(timeoutMs: number): Promise<Closed> {
    this.#closes = true;
    if (this.#goal.t === "stream") {
      this.#goal = { t: "close" };
      this.#calls.wake();
    }
    const timer = startTimer(
      () => this.#abort(new SenderClosedError(`not drained within ${timeoutMs} ms`)),
      timeoutMs,
    );
    await this.#over.promise;
    clearTimeout(timer);
    return { durable: this.#buffer.durable, unacked: this.#buffer.unacked };
  }

  async #run(): Promise<void> {
    try {
      refuseInvalidRunId(this.runId);
      const { after } = this.#options;
      if (after !== undefined) {
        await Promise.race([Promise.allSettled([after]), this.#over.promise]);
      }
      await this.#calls.run();
    } catch (error) {
      this.#enter({ t: "failed", error: toError(error) });
    } finally {
      this.#lifetime.abort();
    }
  }

  get #isDrained(): boolean {
    const isWaitAnswered = this.#runWaits.next === undefined;
    return this.#buffer.unacked === 0 && isWaitAnswered && (this.#inbox?.isRecorded ?? true);
  }

  get #isWaiting(): boolean {
    const isLast = this.#standing?.mark.position === this.#buffer.mark().position;
    return isLast && this.#goal.t === "stream" && this.#isDrained;
  }

  #missContact(waitedMs: number): void {
    this.#enter({ t: "failed", error: new FirstContactError(waitedMs, this.#calls.lastError) });
  }

  #onOpened(opened: Opened): void {
    this.#intake.limit(opened);
    this.#inbox?.opened(opened.handledSignalSeq);
    this.#firstOpened.resolve(opened);
    this.#waitOn();
    this.#waits.note();
  }

  /** Asks for the wait again that stood before the run was opened anew: it may have been LOST since. */
  #waitOn(): void {
    if (!this.#isWaiting) return;
    const again = { ...this.#standing!, requireSignalsHandled: false };
    // Nobody waits for it; why the sender is over, others learn.
    this.#runWaits.ask(again).catch(() => undefined);
  }

  #onSignalsPending(lastSignalSeq: number, wait: WaitGoal | undefined): void {
    const error = new SignalsPendingError(lastSignalSeq);
    if (wait !== undefined) {
      this.#runWaits.refused(wait, error);
      return;
    }
    this.#goal = { t: this.#closes ? "close" : "stream" };
    for (const reject of this.#finishing.splice(0)) reject(error);
  }

  #abort(reason: unknown): void {
    if (!isFinal(this.#state)) {
      const error =
        reason instanceof SenderClosedError
          ? reason
          : new SenderClosedError("the sender was aborted", { cause: reason });
      this.#enter(
        this.#goal.t === "close"
          ? { t: "closed", unacked: this.#buffer.unacked }
          : { t: "failed", error },
      );
    }
  }

  /** The only place where the state changes; a final state stays. */
  #enter(next: SenderState): void {
    if (isFinal(this.#state)) return;
    this.#state = next;
    if (isFinal(next)) {
      clearTimeout(this.#firstContact);
      this.#firstOpened.reject(finalError(next));
      this.#over.resolve(next);
      this.#inbox?.end(next.t === "ended");
      this.#runWaits.end(finalError(next));
      this.#waits.end();
      // After RunEnded the call still ends by itself; everything else stops.
      if (next.t !== "ended") {
        this.#lifetime.abort(finalError(next));
      }
    }
    this.#options.onState?.(next);
  }

  #throwIfOver(): void {
    if (isFinal(this.#state)) throw finalError(this.#state);
  }
}
