import { timestampFromDate } from "@bufbuild/protobuf/wkt";
import type { Transport } from "@connectrpc/connect";
import { RunState } from "../../../gen/runlog/v1/run_pb.js";
import type { EventInit } from "../../wire/event.ts";
import { RunlogError, SenderClosedError, SignalsPendingError } from "../errors.ts";
import { defaultCloseTimeoutMs } from "../limits.ts";
import { orAbort } from "../or-abort.ts";
import { RunSender } from "../sender.ts";
import { finalError, isFinal } from "../sender-state.ts";
import type { Closed, Drop, OpenRunOptions, ResultInit, SenderState } from "../sender-types.ts";
import { warnOfDrop, warnOfFailure } from "../warning.ts";
import { failuresOf, shortened, suppressedOf } from "./failures.ts";
import { tell } from "./listeners.ts";
import { type EventData, encodeData } from "./payload.ts";
import { quietly } from "./quietly.ts";
import { ReceivedSignal } from "./received-signal.ts";
import { infoOf } from "./run-info.ts";
import {
  type DroppedEvent,
  type EmitOptions,
  type EndedRun,
  type EndOptions,
  type FailOptions,
  type ProducerOptions,
  type ProducerState,
  RunCancelledError,
  type RunInit,
  type WaitForOptions,
  type WaitOptions,
} from "./run-types.ts";

/**
 * The producer of one run.
 *
 * Invariants: `emit` never waits and never throws; an event that it took is recorded once and in
 * order, through outages, or the run's failure is told (`onError`, `aborted`); what is not taken
 * is told (`onDrop`). Nobody has to await what these methods return: a rejection that nobody sees
 * ends no process.
 */
export class Run implements AsyncDisposable {
  /** Given, or minted. */
  readonly runId: string;
  /**
   * Aborts when somebody asks the run to stop (the reason is a RunCancelledError), or when it is
   * recorded no longer, because another producer has taken it for example (the reason is why).
   */
  readonly aborted: AbortSignal;
  readonly #sender: RunSender;
  readonly #options: ProducerOptions;
  readonly #start: (init: RunInit) => Run;
  readonly #abort = new AbortController();
  readonly #over = Promise.withResolvers<void>();
  readonly #received = new WeakSet<ReceivedSignal>();
  #state: ProducerState = "connecting";
  #error: Error | undefined;
  /** The last signal that the agent got. */
  #takenSignalSeq = 0;
  /** Events that were dropped here, before the sender got them. */
  #droppedHere = 0;
  #drops = 0;
  #lastEmit: Promise<unknown> | undefined;
  #ending: Promise<EndedRun> | undefined;

  /**
   * @param open what the run is opened with, beside what this class listens to
   * @param start starts another run
   */
  constructor(
    transport: Transport,
    open: Omit<OpenRunOptions, "onDrop" | "onState">,
    options: ProducerOptions,
    start: (init: RunInit) => Run,
  ) {
    this.#options = options;
    this.#start = start;
    this.aborted = this.#abort.signal;
    this.#sender = new RunSender(transport, {
      ...open,
      onDrop: (drop) => this.#onDrop(drop),
      onState: (state) => this.#onState(state),
    });
    this.runId = this.#sender.runId;
    const { cancelled } = this.#sender;
    const onCancelled = () => this.#abort.abort(new RunCancelledError(String(cancelled.reason)));
    cancelled.addEventListener("abort", onCancelled, { once: true });
    if (this.#state === "failed") this.#tellFailure();
  }

  /** Where it stands. */
  get state(): ProducerState {
    return this.#state;
  }

  /** Why it is not connected, or has failed. */
  get error(): Error | undefined {
    return this.#error;
  }

  /** Events that are not in the run: see onDrop. */
  get dropped(): number {
    return this.#sender.stats.dropped + this.#droppedHere;
  }

  /** Settles once the run is open, so durable; rejects where it fails before. */
  get opened(): Promise<unknown> {
    return this.#sender.opened;
  }

  /** Settles once the producer is over: "ended", "closed" or "failed". Never rejects. */
  get over(): Promise<void> {
    return this.#over.promise;
  }

  /** Whether finish, fail or cancelled was called. */
  get isEnding(): boolean {
    return this.#ending !== undefined;
  }

  /** Starts a run below this one, at once: it need not be durable yet. */
  child(init: Omit<RunInit, "parent"> = {}): Run {
    return this.#start({ ...init, parent: this });
  }

  /**
   * Records an event. Never waits and never throws: false where it was dropped, which onDrop is
   * told, because the buffer is full (see emitAsync), the server takes no event as large, or the
   * data cannot be written as JSON.
   *
   * @param data JSON, text (a string) or bytes; read before this returns
   */
  emit(type: string, data?: EventData, options: EmitOptions = {}): boolean {
    const init = this.#encode(type, data, options);
    return init !== undefined && this.#take(init, options);
  }

  /**
   * Records an event once there is room for it, after those of earlier calls. Resolves with false
   * where it was dropped for another reason, as emit does; rejects where the run ends before.
   */
  emitAsync(type: string, data?: EventData, options: EmitOptions = {}): Promise<boolean> {
    const init = this.#encode(type, data, options);
    if (init === undefined) return Promise.resolve(false);
    if (this.#lastEmit === undefined && this.#sender.hasRoom) {
      return Promise.resolve(this.#take(init, options));
    }
    const taken = this.#takeAfter(this.#lastEmit, init, options);
    const last = taken.catch(() => undefined);
    this.#lastEmit = last;
    void last.then(() => {
      if (this.#lastEmit === last) this.#lastEmit = undefined;
    });
    return taken;
  }

  /** Resolves once all that was emitted is durable, through outages; rejects where the run ends before. */
  flush(): Promise<void> {
    return quietly(this.#sender.flush());
  }

  /**
   * The run's signals, each once and in order, as they come; those that an earlier producer has
   * not handled come first. Ends when the run does, or `aborted` aborts. One loop at a time: the
   * next one goes on where that one stopped.
   */
  get signals(): AsyncIterable<ReceivedSignal> {
    return { [Symbol.asyncIterator]: () => this.#read(this.aborted) };
  }

  /**
   * Lets the run wait for input, and resolves once it does, durably: no lease runs then, and the
   * process may leave. The next event ends the wait. Rejects with SignalsPendingError, and goes on,
   * where there is input that awaits handling.
   *
   * @param code for those who look for waiting runs: "approval", "input"
   * @param question for those who can answer it
   */
  wait(code: string, question?: EventData, options: WaitOptions = {}): Promise<void> {
    return quietly(this.#wait(code, question, options));
  }

  /**
   * Asks, and resolves with the next signal, whatever its type: lets the run wait until it comes.
   * Rejects with the reason of `aborted`. Not beside a loop over `signals`.
   */
  waitFor(
    code: string,
    question?: EventData,
    { signal, ...options }: WaitForOptions = {},
  ): Promise<ReceivedSignal> {
    const abort = signal === undefined ? this.aborted : AbortSignal.any([this.aborted, signal]);
    return quietly(this.#waitFor(code, question, options, abort));
  }

  /**
   * Ends the run as SUCCEEDED, once all its events are durable, and resolves when that is so.
   * Waits through outages. The first result of a run stands.
   *
   * @param output JSON, text or bytes
   */
  finish(output?: EventData, options: EndOptions = {}): Promise<EndedRun> {
    return this.#end(async () => {
      const { data, contentType } = encodeData(output);
      const state = RunState.SUCCEEDED;
      return this.#finish({ state, output: data, outputContentType: contentType }, options);
    });
  }

  /**
   * Ends the run as FAILED, like finish. A SuppressedError is what it holds: the first failure, and
   * what cleanup threw as suppressed.
   *
   * @param error what was thrown, or `{ code, message, detail }`
   */
  fail(error: unknown, { suppressed = [], ...options }: FailOptions = {}): Promise<EndedRun> {
    return this.#end(async () => {
      const failures = failuresOf(error, suppressed);
      const resultOf = ({ failure, suppressed: later }: typeof failures): ResultInit => ({
        state: RunState.FAILED,
        failure: { ...failure },
        suppressed: [...later],
      });
      try {
        return await this.#finish(resultOf(failures), options);
      } catch (refused) {
        if (!(refused instanceof RunlogError) || refused.reason !== "TOO_LARGE") throw refused;
        return this.#finish(resultOf(shortened(failures)), options);
      }
    });
  }

  /** Ends the run as CANCELLED, like finish: it stopped because somebody asked it to. */
  cancelled({ suppressed = [], ...options }: FailOptions = {}): Promise<EndedRun> {
    return this.#end(() => {
      const failures = [...suppressedOf(suppressed)];
      return this.#finish({ state: RunState.CANCELLED, suppressed: failures }, options);
    });
  }

  /**
   * Sends what is left, for so many milliseconds at most, and leaves the run as it is: another
   * producer can go on with it (see resumeRun) until its lease runs out. Never rejects.
   */
  close(timeoutMs = defaultCloseTimeoutMs): Promise<Closed> {
    return this.#sender.close(timeoutMs);
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.close();
  }

  #encode(type: string, data: EventData | undefined, options: EmitOptions): EventInit | undefined {
    const { attributes, contentType, time, handles } = options;
    if (this.#ending !== undefined) {
      this.#dropHere("ended", type);
      return undefined;
    }
    try {
      if (handles !== undefined && !this.#received.has(handles)) {
        throw new TypeError("handles: this is no signal of this run");
      }
      const encoded = encodeData(data);
      return {
        type,
        data: encoded.data,
        contentType: contentType ?? encoded.contentType,
        ...(attributes !== undefined && { attributes: { ...attributes } }),
        ...(time !== undefined && { time: timestampFromDate(time) }),
      };
    } catch (error) {
      this.#dropHere("invalid", type, error instanceof Error ? error.message : String(error));
      return undefined;
    }
  }

  #take(init: EventInit, { handles }: EmitOptions): boolean {
    const before = this.#drops;
    if (this.#sender.emit(init, handles?.signalSeq)) return true;
    if (this.#drops === before) this.#dropHere("ended", init.type ?? "");
    return false;
  }

  async #takeAfter(
    before: Promise<unknown> | undefined,
    init: EventInit,
    options: EmitOptions,
  ): Promise<boolean> {
    await before;
    while (!this.#sender.hasRoom) await this.#sender.ready();
    return this.#take(init, options);
  }

  async *#read(abort: AbortSignal): AsyncGenerator<ReceivedSignal, void, undefined> {
    for await (const signal of this.#sender.signals({ signal: abort })) {
      this.#takenSignalSeq = signal.signalSeq;
      const received = new ReceivedSignal(signal, (signalSeq) => this.#sender.handle(signalSeq));
      this.#received.add(received);
      yield received;
    }
  }

  async #wait(
    code: string,
    question: EventData | undefined,
    { deadline }: WaitOptions,
  ): Promise<void> {
    await this.#sender.wait({
      code,
      ...(question !== undefined && { question: { type: "question", ...encodeData(question) } }),
      ...(deadline !== undefined && { deadline: timestampFromDate(deadline) }),
    });
  }

  async #waitFor(
    code: string,
    question: EventData | undefined,
    options: WaitOptions,
    abort: AbortSignal,
  ): Promise<ReceivedSignal> {
    try {
      await orAbort(this.#wait(code, question, options), abort);
    } catch (error) {
      // One that the agent has not got yet is as good as an answer.
      const isWaiting =
        error instanceof SignalsPendingError && error.lastSignalSeq > this.#takenSignalSeq;
      if (!isWaiting) throw error;
    }
    for await (const signal of this.#read(abort)) return signal;
    abort.throwIfAborted();
    throw finalError(this.#sender.state);
  }

  /** The first result stands, unless the run goes on after it was refused. */
  #end(end: () => Promise<EndedRun>): Promise<EndedRun> {
    if (this.#ending !== undefined) return this.#ending;
    const ending = end().catch((error: unknown) => {
      if (!isFinal(this.#sender.state)) this.#ending = undefined;
      throw error;
    });
    this.#ending = quietly(ending);
    return ending;
  }

  async #finish(
    result: ResultInit,
    { requireSignalsHandled = false }: EndOptions,
  ): Promise<EndedRun> {
    // What waits for room comes before the end.
    if (this.#lastEmit !== undefined) await this.#lastEmit;
    const { run, durable, dropped } = await this.#sender.finish(result, { requireSignalsHandled });
    return { run: infoOf(run), durable, dropped: dropped + this.#droppedHere };
  }

  #onDrop({ reason, event, bytes, limit, problem }: Drop): void {
    this.#tellDrop({ reason, type: event.type, bytes, limit, problem });
  }

  #dropHere(reason: "invalid" | "ended", type: string, problem?: string): void {
    this.#droppedHere++;
    this.#tellDrop({ reason, type, bytes: 0, limit: 0, problem });
  }

  #tellDrop(drop: Omit<DroppedEvent, "runId">): void {
    this.#drops++;
    const { onDrop } = this.#options;
    if (onDrop !== undefined) tell(onDrop, { runId: this.runId, ...drop });
    else if (this.#drops === 1) warnOfDrop(this.runId, drop);
  }

  #onState(state: SenderState): void {
    const isKnown = this.#state !== "connecting";
    if (state.t === "waiting" || state.t === "failed") this.#error = state.error;
    else if (state.t !== "connecting") this.#error = undefined;
    if (state.t === "waiting" || state.t === "connecting") {
      if (isKnown) this.#enter("reconnecting");
      return;
    }
    this.#enter(state.t);
  }

  #enter(state: ProducerState): void {
    if (state === this.#state) return;
    this.#state = state;
    if (state === "ended" || state === "closed" || state === "failed") this.#over.resolve();
    // In its constructor it has no id yet.
    if (this.runId === undefined) return;
    if (state === "failed") this.#tellFailure();
    else tell(this.#options.onState, state, this.runId);
  }

  #tellFailure(): void {
    const error = this.#error ?? new Error("the run has failed");
    const { onState, onError } = this.#options;
    tell(onState, "failed", this.runId);
    // Who has aborted it knows.
    const isAborted = error instanceof SenderClosedError;
    if (onError === undefined && !isAborted) warnOfFailure(this.runId, error);
    tell(onError, error, this.runId);
    this.#abort.abort(error);
  }
}
