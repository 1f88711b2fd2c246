/** What is asked of the model of ingest, and what it answers. */
import type { RunState } from "../../gen/runlog/v1/run_pb.js";

/** A request of a producer; `stream` and `run` are indexes. */
export type ModelStep =
  | {
      readonly kind: "open";
      readonly stream: number;
      readonly run: number;
      readonly create: boolean;
      /** Whether it receives the run's signals. */
      readonly receives: boolean;
      /** Which of a few producers it is; undefined does not name itself. */
      readonly producer: number | undefined;
      /** Which of the producer's attempts, beside the newest one that there has been. */
      readonly attempt: "next" | "same" | "older";
    }
  | {
      readonly kind: "append";
      readonly stream: number;
      readonly run: number;
      /** Where the batch begins, relative to the next run_seq. */
      readonly offset: number;
      readonly count: number;
      /** Sends other payloads than usual under these run_seqs. */
      readonly differs: boolean;
      readonly handled: Handled;
    }
  | {
      /** Reports that signals are handled, without an event. */
      readonly kind: "handle";
      readonly stream: number;
      readonly run: number;
      readonly handled: number;
    }
  | {
      readonly kind: "wait";
      readonly stream: number;
      readonly run: number;
      readonly offset: number;
      readonly code: string;
      /** Whether the wait has a deadline. */
      readonly isBounded: boolean;
      readonly handled: Handled;
      readonly require: boolean;
    }
  | {
      readonly kind: "release";
      readonly stream: number;
      readonly run: number;
    }
  | {
      /** An append that is wrong whatever the run's state. */
      readonly kind: "bad";
      readonly stream: number;
      readonly run: number;
    }
  | {
      readonly kind: "finish";
      readonly stream: number;
      readonly run: number;
      readonly offset: number;
      readonly state: RunState.SUCCEEDED | RunState.FAILED;
      readonly handled: Handled;
      readonly require: boolean;
    };

/** A signal from somebody. */
export interface SignalStep {
  readonly kind: "signal";
  readonly run: number;
  readonly id: number;
  /** Sends another event than usual under this id. */
  readonly differs: boolean;
}

/** The last signal that is reported as handled, relative to the run's last one; undefined reports none. */
export type Handled = number | undefined;

/** The frames that a stream gets, without acknowledgements. */
export type ModelAnswer =
  | {
      readonly t: "opened";
      readonly run: number;
      readonly epoch: number;
      readonly lastRunSeq: number;
      readonly handledSignalSeq: number;
      readonly lastSignalSeq: number;
    }
  | {
      readonly t: "rejected";
      readonly run: number;
      readonly reason: string;
      readonly expected?: number;
      readonly epoch?: number;
    }
  | { readonly t: "released"; readonly run: number }
  | { readonly t: "waiting"; readonly run: number; readonly code: string }
  | {
      readonly t: "signals_pending";
      readonly run: number;
      readonly handledSignalSeq: number;
      readonly lastSignalSeq: number;
    }
  | { readonly t: "ended"; readonly run: number; readonly state: RunState };
