/** What the ingest side asks of the journal, and what it is answered. */
import type { RunResult, RunSpec } from "../../gen/runlog/v1/run_pb.js";
import type { RunView } from "../journal/runs.ts";
import type { Refusal } from "../refusal.ts";
import type { Attempt } from "../validate.ts";

/** What a producer's stream is told of a run without having asked. */
export interface ProducerEvents {
  /** Called once, with the first refusal. */
  readonly onRejected?: (refusal: Refusal) => void;
  /** Called each time that somebody asks for the run to stop. */
  readonly onCancelRequested?: (reason: string) => void;
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
  /** It lets go of the run: what was asked for it before does not make it hold the run again. */
  hasLeft = false;
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

  /** Tells the producer what the journal says, unless it is what it was told last. */
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

/** The prefix of another run that a fork inherits. */
export interface Fork {
  readonly sourceRunId: string;
  /** The last inherited event of the source; 0 inherits none. */
  readonly runSeq: number;
}

/** Creates a run without taking it. */
export interface CreateOperation extends OnRun {
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

/** Begins the lease of a run that nobody holds: whoever asked for it has gone, and may have got it. */
export interface AbandonOperation extends OnRun {
  readonly kind: "abandon";
}

/** Takes a run for a producer, and creates it if there is a spec and no run. */
export interface OpenOperation extends OnRun {
  readonly kind: "open";
  readonly producer: Producer;
  readonly spec: RunSpec | undefined;
}

/** Tells where a run stands, if the producer still holds it. */
export interface CheckOperation extends OnRun {
  readonly kind: "check";
  readonly producer: Producer;
  /** Refuses it, too, where the run was lost meanwhile: a producer that is quiet would not notice. */
  readonly mustRun: boolean;
}

/** Appends consecutive events. */
export interface AppendOperation extends OnRun {
  readonly kind: "append";
  readonly producer: Producer;
  readonly firstRunSeq: number;
  readonly events: readonly CheckedEvent[];
  /** Sum of the events' bytes. */
  readonly bytes: number;
}

/** Ends a run. */
export interface FinishOperation extends OnRun {
  readonly kind: "finish";
  readonly producer: Producer;
  /** run_seq of the run's last event; undefined where that is whatever is durable by then. */
  readonly lastRunSeq: number | undefined;
  readonly result: RunResult;
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
  | RefuseOperation;

/** Whatever goes through the committer. */
export type Operation = CreateOperation | LoseOperation | AbandonOperation | ProducerOperation;

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
      /** Milliseconds that the run may be without a producer; undefined where it has ended. */
      readonly leaseMs: number | undefined;
      /** Why the run was asked to stop; undefined where nobody did, or it has ended. */
      readonly cancelReason: string | undefined;
    }
  /** The run is RUNNING, and this node is the one to look after it. */
  | { readonly t: "abandoned"; readonly epoch: number; readonly leaseMs: number }
  | { readonly t: "durable"; readonly runSeq: number; readonly seq: number }
  | { readonly t: "ended"; readonly run: RunView }
  | { readonly t: "refused"; readonly refusal: Refusal }
  /** The producer had been rejected before, or there was nothing to do any more. */
  | { readonly t: "discarded" };

/** What a run is to be created with, where an operation may create one. */
export function specOf(operation: Operation): RunSpec | undefined {
  return operation.kind === "create" || operation.kind === "open" ? operation.spec : undefined;
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
    default:
      return operationBytes;
  }
}
