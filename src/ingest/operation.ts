/** What the ingest side asks of the journal, and what it is answered. */
import type { RunResult, RunSpec, Wait } from "../../gen/runlog/v1/run_pb.js";
import type { RunView } from "../journal/runs.ts";
import type { Creation } from "../quotas.ts";
import type { Refusal } from "../refusal.ts";
import type { Within } from "../subtree.ts";
import type { Attempt } from "../validate.ts";

/** Events of a run that a producer's stream gets without a request. */
export interface ProducerEvents {
  /** Called once, with the first refusal. */
  readonly onRejected?: (refusal: Refusal) => void;
  /** Called each time that somebody asks for the run to stop. */
  readonly onCancelRequested?: (reason: string) => void;
  /**
   * Called when the run may have got signals. It carries no data and may be
   * lost or repeated.
   *
   * @param lastSignalSeq the run's last signal, at least; undefined where it is not known
   */
  readonly onSignalled?: (lastSignalSeq: number | undefined) => void;
}

let holds = 0;

/**
 * One stream's hold on one run. The committer sets its epoch when the open
 * commits; once rejected, what the stream sends for the run is discarded until
 * it opens the run again (with a new Producer).
 */
export class Producer {
  readonly runId: string;
  /** Undefined until the open has committed. */
  epoch: number | undefined;
  /** Milliseconds that the run may be without a producer; undefined once it has ended. */
  leaseMs: number | undefined;
  /** Events that were sent and not answered; kept by the owner. */
  unackedEvents = 0;
  /** It lets go of the run: operations that it queued before do not make it hold the run again. */
  hasLeft = false;
  /** Whether its stream sends it the run's signals; kept by the owner. */
  receivesSignals = false;
  /** Whose hold it is: opening a run anew does not fence oneself. */
  readonly owner: object;
  /** How it names itself where it opens the run; undefined where it does not. */
  attempt: Attempt | undefined;
  #rejected = false;
  #toldReason: string | undefined;
  readonly #events: ProducerEvents;
  /** Which of all the holds of this process it is. */
  readonly #order = ++holds;

  /** @param owner the stream; without one the producer is its own */
  constructor(runId: string, owner?: object, events: ProducerEvents = {}) {
    this.runId = runId;
    this.owner = owner ?? this;
    this.#events = events;
  }

  /** Whether the same stream has opened the run again after this. */
  isFollowedBy(other: Producer | undefined): boolean {
    return other !== undefined && other.owner === this.owner && other.#order > this.#order;
  }

  get rejected(): boolean {
    return this.#rejected;
  }

  /** Refuses the producer; only the first refusal counts, what follows is a consequence of it. */
  reject(refusal: Refusal): void {
    if (this.#rejected) return;
    this.#rejected = true;
    this.#events.onRejected?.(refusal);
  }

  /** Tells the producer that somebody asked for the run to stop. */
  cancelRequested(reason: string): void {
    if (this.#rejected) return;
    this.#toldReason = reason;
    this.#events.onCancelRequested?.(reason);
  }

  /** Tells the producer's stream that the run may have got signals. */
  signalled(lastSignalSeq?: number): void {
    if (!this.#rejected) this.#events.onSignalled?.(lastSignalSeq);
  }

  /** Tells the producer what the journal says, unless that is what it heard last. */
  cancelNoticed(reason: string): void {
    if (reason !== this.#toldReason) this.cancelRequested(reason);
  }
}

/** An event that has been checked, with the bytes that will be stored. */
export interface CheckedEvent {
  readonly type: string;
  /** The encoded Event. */
  readonly bytes: Uint8Array;
}

interface OnRun {
  readonly namespace: string;
  readonly runId: string;
}

/** What a caller asks for who may be narrowed: a run outside is to it as none. */
interface OnRunWithin extends OnRun {
  /** Where the caller may write; not set: anywhere. */
  readonly within?: Within;
}

/** A position in a run's signals, up to which its producer has handled them. */
export interface HandledSignals {
  readonly signalSeq: number;
  /** The field of the request that says so. */
  readonly field: string;
}

/** The prefix of another run that a fork inherits. */
export interface Fork {
  readonly sourceRunId: string;
  /** The last inherited event of the source; 0 inherits none. */
  readonly runSeq: number;
  /** Where the caller may read, and so find the source; not set: anywhere. */
  readonly within?: Within;
}

/** What may create a run, and a namespace for it. */
interface Creating extends OnRunWithin {
  /** Asked before something is created; not set: it may be. */
  readonly creation?: Creation | undefined;
}

/** Creates a run without taking it. */
export interface CreateOperation extends Creating {
  readonly kind: "create";
  readonly spec: RunSpec;
  /** Undefined: the run is no fork. */
  readonly fork: Fork | undefined;
}

/** Ends a run as LOST, if it still is as it was when its lease began. */
export interface LoseOperation extends OnRun {
  readonly kind: "lose";
  readonly epoch: number;
}

/** Begins the lease of a run that nobody holds: the caller that asked for it has left, and may have got it. */
export interface AbandonOperation extends OnRun {
  readonly kind: "abandon";
}

/** Sends input to a run, whoever holds it. */
export interface SignalOperation extends OnRunWithin {
  readonly kind: "signal";
  readonly signalId: string;
  readonly event: CheckedEvent;
  /** Equal for events that are the same signal when they are sent again. */
  readonly digest: Uint8Array;
  /** Empty where the caller is not known. */
  readonly sender: string;
}

/** Ends a run whose wait is over, if it still is the same wait. */
export interface EndWaitOperation extends OnRun {
  readonly kind: "end_wait";
  /** As it was found. */
  readonly deadlineMs: number;
}

/** Takes a run for a producer, and creates it if there is a spec and no run. */
export interface OpenOperation extends Creating {
  readonly kind: "open";
  readonly producer: Producer;
  readonly spec: RunSpec | undefined;
}

/** Tells where a run stands, if the producer still holds it. */
export interface CheckOperation extends OnRunWithin {
  readonly kind: "check";
  readonly producer: Producer;
  /** Refuses it, too, where the run was lost meanwhile: a producer that is quiet would not notice. */
  readonly mustRun: boolean;
}

/** Appends consecutive events, or none where only the handling of signals is recorded. */
export interface AppendOperation extends OnRun {
  readonly kind: "append";
  readonly producer: Producer;
  readonly firstRunSeq: number;
  readonly handled?: HandledSignals | undefined;
  readonly events: readonly CheckedEvent[];
  /** Sum of the events' bytes. */
  readonly bytes: number;
}

/** What finishing and waiting have in common: both stand behind the run's last event. */
interface PauseOperation extends OnRun {
  readonly producer: Producer;
  /** run_seq of the run's last event; undefined for the last durable one by then. */
  readonly lastRunSeq: number | undefined;
  readonly handled?: HandledSignals | undefined;
  /** Changes nothing while signals await handling. */
  readonly requireSignalsHandled?: boolean;
}

/** Ends a run. */
export interface FinishOperation extends PauseOperation {
  readonly kind: "finish";
  readonly result: RunResult;
}

/** Lets a run wait for input. */
export interface WaitOperation extends PauseOperation {
  readonly kind: "wait";
  readonly wait: Wait;
}

/**
 * Refuses the producer in its turn, for a frame that was found wrong when it
 * arrived: what the producer sent before is decided and answered first.
 */
export interface RefuseOperation extends OnRun {
  readonly kind: "refuse";
  readonly producer: Producer;
  readonly refusal: Refusal;
}

/** What a producer asks for. */
export type ProducerOperation =
  | OpenOperation
  | CheckOperation
  | AppendOperation
  | FinishOperation
  | WaitOperation
  | RefuseOperation;

/** Whatever goes through the committer. */
export type Operation =
  | CreateOperation
  | LoseOperation
  | AbandonOperation
  | SignalOperation
  | EndWaitOperation
  | ProducerOperation;

/** Where a run's signals stand. */
export interface SignalStanding {
  readonly namespaceId: number;
  readonly runKey: number;
  readonly handledSignalSeq: number;
  readonly lastSignalSeq: number;
}

/** The place of a run's event. */
export interface Place {
  readonly runSeq: number;
  /** 0 until the record that holds the event has its seqs, which is before the commit. */
  seq: number;
}

/** The answer to an operation, given after the commit that holds its effect. */
export type Outcome =
  | {
      readonly t: "created";
      readonly run: RunView;
      /** Milliseconds that the run may wait for its producer; undefined where it has had one. */
      readonly leaseMs: number | undefined;
    }
  | {
      readonly t: "opened";
      readonly epoch: number;
      readonly lastRunSeq: number;
      readonly lastEventSeq: number;
      readonly signals: SignalStanding;
      /** Milliseconds that the run may be without a producer; undefined where it has ended, or waits. */
      readonly leaseMs: number | undefined;
      /** Why the run was asked to stop; undefined where nobody did, or it has ended. */
      readonly cancelReason: string | undefined;
    }
  /** The run is RUNNING, and this node is the one to look after it. */
  | { readonly t: "abandoned"; readonly epoch: number; readonly leaseMs: number }
  | {
      readonly t: "durable";
      /** The run's last event by then. */
      readonly last: Place;
      readonly signals: SignalStanding;
      /** Where the run waited until now: milliseconds that it may be without a producer. */
      readonly leaseMs: number | undefined;
    }
  | { readonly t: "ended"; readonly run: RunView }
  | { readonly t: "waiting"; readonly run: RunView }
  /** The run goes on: signals await handling. */
  | { readonly t: "signals_pending"; readonly signals: SignalStanding }
  | {
      readonly t: "signalled";
      readonly signalSeq: number;
      readonly seq: number;
      readonly lastSignalSeq: number;
    }
  | {
      readonly t: "refused";
      readonly refusal: Refusal;
      /** Where the run ended since somebody asked it to stop: why. */
      readonly cancelReason?: string;
    }
  /** The producer had been rejected before, or there was nothing to do any more. */
  | { readonly t: "discarded" };

/** The answer to an operation that has taken its run. */
export type OpenedOutcome = Extract<Outcome, { readonly t: "opened" }>;

/** Where the caller of an operation may write; undefined: anywhere. */
export function withinOf(operation: Operation): Within {
  return "within" in operation ? operation.within : undefined;
}

/** What a run is to be created with, where an operation may create one. */
export function specOf(operation: Operation): RunSpec | undefined {
  return operation.kind === "create" || operation.kind === "open" ? operation.spec : undefined;
}

/** Whether an operation may create something; undefined: it may, or does not want to. */
export function creationOf(operation: Operation): Creation | undefined {
  return "creation" in operation ? operation.creation : undefined;
}

/** Bytes that an event takes besides its own, and an operation besides its events, about. */
const eventBytes = 150;
const operationBytes = 512;

/** Bytes of memory that an operation takes until it is answered, about. */
export function bytesOf(operation: Operation): number {
  switch (operation.kind) {
    case "append":
      return operationBytes + operation.bytes + eventBytes * operation.events.length;
    case "finish":
      return operationBytes + operation.result.output.length;
    case "wait":
      return operationBytes + (operation.wait.question?.data.length ?? 0);
    case "signal":
      return operationBytes + eventBytes + operation.event.bytes.length;
    default:
      return operationBytes;
  }
}
