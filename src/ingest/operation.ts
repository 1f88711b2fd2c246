/** What the ingest side asks of the journal, and what it is answered. */
import type { RunResult, RunSpec } from "../../gen/runlog/v1/run_pb.js";
import type { Refusal } from "../journal/refusal.ts";
import type { RunView } from "../journal/runs.ts";

/**
 * One stream's hold on one run. The committer sets its epoch when the open
 * commits; once rejected, what the stream sends for the run is discarded until
 * it opens the run again (with a new Producer).
 */
export class Producer {
  readonly runId: string;
  /** Undefined until the open has committed. */
  epoch: number | undefined;
  /** Whose hold it is: opening a run anew does not fence oneself. */
  readonly owner: object;
  #rejected = false;
  readonly #onRejected: (refusal: Refusal) => void;

  /**
   * @param owner the stream; without one the producer is its own
   * @param onRejected called once, with the first refusal
   */
  constructor(
    runId: string,
    owner?: object,
    onRejected: (refusal: Refusal) => void = () => undefined,
  ) {
    this.runId = runId;
    this.owner = owner ?? this;
    this.#onRejected = onRejected;
  }

  get rejected(): boolean {
    return this.#rejected;
  }

  /** Refuses the producer; only the first refusal counts, what follows is a consequence of it. */
  reject(refusal: Refusal): void {
    if (this.#rejected) return;
    this.#rejected = true;
    this.#onRejected(refusal);
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

/** Creates a run without taking it. */
export interface CreateOperation extends OnRun {
  readonly kind: "create";
  readonly spec: RunSpec;
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

/** Whatever goes through the committer. */
export type Operation =
  | CreateOperation
  | OpenOperation
  | CheckOperation
  | AppendOperation
  | FinishOperation;

/** The answer to an operation, given after the commit that holds its effect. */
export type Outcome =
  | { readonly t: "created"; readonly run: RunView }
  | {
      readonly t: "opened";
      readonly epoch: number;
      readonly lastRunSeq: number;
      readonly lastEventSeq: number;
    }
  | { readonly t: "durable"; readonly runSeq: number; readonly seq: number }
  | { readonly t: "ended"; readonly run: RunView }
  | { readonly t: "refused"; readonly refusal: Refusal }
  /** The producer had been rejected before. */
  | { readonly t: "discarded" };
