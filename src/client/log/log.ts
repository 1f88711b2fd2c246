import { createClient, type Transport } from "@connectrpc/connect";
import { v7 as uuidv7 } from "uuid";
import { RunService } from "../../../gen/runlog/v1/run_pb.js";
import { SenderClosedError } from "../errors.ts";
import { defaultCloseTimeoutMs } from "../limits.ts";
import type { OpenRunOptions } from "../sender-types.ts";
import { type SentSignal, signalRun } from "../signal-run.ts";
import { type AttemptOptions, type UnaryOptions, untilAnswered } from "../unary.ts";
import { requestOf, type Scope } from "./follow-request.ts";
import { Following, type FollowingOptions } from "./following.ts";
import { type EventData, encodeData } from "./payload.ts";
import { Run } from "./run.ts";
import { infoOf, type RunInfo, type RunSpec, specOf } from "./run-info.ts";
import { type RunFilter, RunList } from "./run-list.ts";
import type { ProducerOptions, ResumeInit, RunInit } from "./run-types.ts";
import { withRun } from "./with-run.ts";

/** A signal's particulars. */
export interface SignalOptions {
  /**
   * However often it is sent under this id, the run gets it once. Default: a new UUIDv7; give one
   * of your own to send it again after this call has failed.
   */
  readonly id?: string | undefined;
  readonly attributes?: Readonly<Record<string, string>> | undefined;
  /** Gives up; the signal may be durable all the same. */
  readonly signal?: AbortSignal | undefined;
}

/** How to ask a run to stop. */
export interface CancelOptions {
  /** Also all that descend from it, those that start later too. Default: no. */
  readonly descendants?: boolean | undefined;
  /** For people, and for `run.aborted`. */
  readonly reason?: string | undefined;
  readonly signal?: AbortSignal | undefined;
}

/** Where and how a fork begins. */
export interface ForkInit extends RunSpec {
  /** The last event of the source that it inherits, by its runSeq; 0: none. */
  readonly at: number;
  /** Default: a new UUIDv7. */
  readonly runId?: string | undefined;
  readonly parent?: string | undefined;
  readonly signal?: AbortSignal | undefined;
}

/** What a log is made with. What it has of ProducerOptions stands for all its runs. */
export interface LogOptions extends ProducerOptions {
  /** Default: "default". */
  readonly namespace?: string | undefined;
}

/**
 * A namespace of a server: starts runs, follows them, talks to them.
 *
 * Invariant: after `close` nothing that it has started runs on, calls, or keeps the process alive.
 */
export class Log implements AsyncDisposable {
  /** For openRun, follow, and any Connect client. */
  readonly transport: Transport;
  readonly namespace: string;
  readonly #options: ProducerOptions;
  readonly #onClose: (() => void) | undefined;
  readonly #lifetime = new AbortController();
  readonly #runs = new Set<Run>();
  #closing: Promise<void> | undefined;

  /** @param onClose ends the transport's connections, if they are the log's own */
  constructor(transport: Transport, options: LogOptions = {}, onClose?: () => void) {
    const { namespace = "", ...producer } = options;
    this.transport = transport;
    this.namespace = namespace === "" ? "default" : namespace;
    this.#options = producer;
    this.#onClose = onClose;
  }

  /**
   * Starts a run, and returns at once: its events are kept until the server has them. One producer
   * at a time has a run: another one on the same id takes it.
   */
  startRun(init: RunInit = {}): Run {
    const { runId, parent } = init;
    const isNew = typeof parent === "object" && parent.state === "connecting";
    return this.#produce(
      {
        spec: specOf(init, typeof parent === "object" ? parent.runId : parent),
        receiveSignals: init.refusesSignals !== true,
        ...(runId !== undefined && { runId }),
        ...(isNew && { after: parent.opened }),
      },
      init,
    );
  }

  /** Goes on with a run that exists: a fork, one that was left, or one whose producer has died. */
  resumeRun(runId: string, options: ResumeInit = {}): Run {
    return this.#produce({ runId, receiveSignals: true }, options);
  }

  /**
   * Runs a body as a run, which ends as the body does: SUCCEEDED; FAILED with what it threw first,
   * and what cleanup threw as suppressed; or CANCELLED, where somebody asked it to stop (see
   * `run.aborted`). Settles as the body, once that is durable; rejects also where it cannot be
   * recorded that the body returned.
   */
  withRun<T>(init: RunInit, body: (run: Run) => T | PromiseLike<T>): Promise<T> {
    return withRun(this.startRun(init), body);
  }

  /**
   * Follows the records that match, over any number of connections; begins with the loop.
   *
   * @throws TypeError where there is more than one start
   */
  follow(scope: Scope, options: FollowingOptions = {}): Following {
    const request = requestOf(this.namespace, scope, options);
    return new Following(this.transport, request, options, this.#lifetime.signal);
  }

  /** Lists runs, newest first. */
  runs(filter: RunFilter = {}, { signal }: { readonly signal?: AbortSignal } = {}): RunList {
    return new RunList(this.transport, this.namespace, filter, this.#unary(signal));
  }

  /** Looks a run up. */
  async run(runId: string, { signal }: { readonly signal?: AbortSignal } = {}): Promise<RunInfo> {
    const { getRun } = createClient(RunService, this.transport);
    const { namespace } = this;
    const { run } = await this.#call((call) => getRun({ namespace, runId }, call), signal);
    return infoOf(run!);
  }

  /**
   * Sends input to a run, and resolves once it is durable. Tries again for a minute; the run gets
   * it once.
   *
   * @param data JSON, text or bytes
   * @throws RunlogError where it was refused, or no server took it; TypeError where JSON cannot
   *   hold the data
   */
  async signal(
    runId: string,
    type: string,
    data?: EventData,
    { id, attributes, signal }: SignalOptions = {},
  ): Promise<SentSignal> {
    const event = { type, ...encodeData(data), attributes: { ...attributes } };
    const { namespace } = this;
    const init = { namespace, runId, event, ...(id !== undefined && { signalId: id }) };
    return signalRun(this.transport, init, this.#unary(signal));
  }

  /** Asks a run to stop. Durable; how it ends is up to its producer. Resolves with the runs that were asked. */
  async cancel(
    runId: string,
    { descendants = false, reason = "", signal }: CancelOptions = {},
  ): Promise<number> {
    const { cancelRun } = createClient(RunService, this.transport);
    const { namespace } = this;
    const request = { namespace, runId, includeDescendants: descendants, reason };
    const { runCount } = await this.#call((call) => cancelRun(request, call), signal);
    return runCount;
  }

  /**
   * Makes a run that begins with the events of another one, without copying them. It has no
   * producer yet: go on with `resumeRun`.
   */
  async fork(sourceRunId: string, init: ForkInit): Promise<RunInfo> {
    const { at, runId = uuidv7(), parent, signal } = init;
    const { forkRun } = createClient(RunService, this.transport);
    const { namespace } = this;
    const spec = specOf(init, parent);
    const request = { namespace, sourceRunId, runSeq: BigInt(at), runId, spec };
    const { run } = await this.#call((call) => forkRun(request, call), signal);
    return infoOf(run!);
  }

  /**
   * Ends everything: followings end, runs send what is left, for so many milliseconds at most, and
   * those that have not ended are left as they are; then the connection. Never rejects.
   */
  close(timeoutMs = defaultCloseTimeoutMs): Promise<void> {
    this.#closing ??= this.#close(timeoutMs);
    return this.#closing;
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.close();
  }

  async #close(timeoutMs: number): Promise<void> {
    this.#lifetime.abort(new SenderClosedError("the log is closed"));
    await Promise.all(Array.from(this.#runs, (run) => run.close(timeoutMs)));
    this.#onClose?.();
  }

  #unary(signal: AbortSignal | undefined): UnaryOptions {
    const lifetime = this.#lifetime.signal;
    return { signal: signal === undefined ? lifetime : AbortSignal.any([lifetime, signal]) };
  }

  #call<T>(call: (options: AttemptOptions) => Promise<T>, signal?: AbortSignal): Promise<T> {
    return untilAnswered(this.transport, call, this.#unary(signal));
  }

  #produce(open: OpenRunOptions, init: ResumeInit): Run {
    this.#lifetime.signal.throwIfAborted();
    const defaults = this.#options;
    const { signal, limits = defaults.limits } = init;
    const opened: OpenRunOptions = {
      ...open,
      namespace: this.namespace,
      ...(limits !== undefined && { limits }),
      ...(signal !== undefined && { signal }),
    };
    const options = {
      onDrop: init.onDrop ?? defaults.onDrop,
      onError: init.onError ?? defaults.onError,
      onState: init.onState ?? defaults.onState,
    };
    const run = new Run(this.transport, opened, options, (child) => this.startRun(child));
    this.#runs.add(run);
    void run.over.then(() => this.#runs.delete(run));
    return run;
  }
}
