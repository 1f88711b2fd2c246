/** What a sender is given and what it tells: the types around RunSender. */
import type { MessageInitShape } from "@bufbuild/protobuf";
import type { Event } from "../../gen/runlog/v1/event_pb.js";
import type {
  Run,
  RunResultSchema,
  RunSpecSchema,
  RunState,
  WaitSchema,
} from "../../gen/runlog/v1/run_pb.js";
import type { SenderLimits } from "./limits.ts";

type AnyResult = MessageInitShape<typeof RunResultSchema>;

/** How a run ended, as finish takes it: a failure goes with FAILED only. */
export type ResultInit = Omit<AnyResult, "state" | "failure" | "$typeName"> &
  (
    | { readonly state: RunState.FAILED; readonly failure?: AnyResult["failure"] }
    | { readonly state: RunState.SUCCEEDED | RunState.CANCELLED; readonly failure?: never }
  );

/** What a run waits for, as wait takes it. */
export type WaitInit = MessageInitShape<typeof WaitSchema>;

/** How to end a run, or let it wait. */
export interface ConditionOptions {
  /** Only if every signal of the run is handled. */
  readonly requireSignalsHandled?: boolean;
}

/** How to read a run's signals. */
export interface SignalsOptions {
  /** Ends the reading; signals that come later are for the next reader. */
  readonly signal?: AbortSignal;
}

/** An event that was not taken. It got no run_seq, so the run has no gap. */
export interface Drop {
  /** Why: over the server's limit, no room in the buffer, or not a valid event. */
  readonly reason: "too_large" | "overflow" | "invalid";
  /** With invalid: what is wrong, for people. */
  readonly problem?: string;
  readonly event: Event;
  /** Its encoded bytes; 0 where it cannot be encoded. */
  readonly bytes: number;
  /** With too_large: the limit in bytes. */
  readonly limit: number;
}

/** Where a sender stands. */
export type SenderState =
  /** A call is made; RunOpened has not come yet. */
  | { readonly t: "connecting"; readonly attempt: number }
  /** Events flow. */
  | {
      readonly t: "open";
      readonly epoch: bigint;
      readonly lastRunSeq: number;
      readonly reopened: boolean;
    }
  /** The last call ended; the next one comes after a while. */
  | {
      readonly t: "waiting";
      readonly attempt: number;
      readonly delayMs: number;
      readonly error: Error;
    }
  /** The run has ended. Final. */
  | { readonly t: "ended"; readonly run: Run }
  /** Closed without an end of the run. Final. */
  | { readonly t: "closed"; readonly unacked: number }
  /** Refused for good. Final. */
  | { readonly t: "failed"; readonly error: Error };

/** How to open a run. */
export interface OpenRunOptions {
  /** Empty or unset: "default". */
  readonly namespace?: string;
  /** Unset: a new UUIDv7. */
  readonly runId?: string;
  /** Creates the run where it does not exist. Unset: an unknown run is refused with RUN_NOT_FOUND. */
  readonly spec?: MessageInitShape<typeof RunSpecSchema>;
  /** Whether the run's signals come to RunSender.signals. Default: no. */
  readonly receiveSignals?: boolean;
  readonly limits?: Partial<SenderLimits>;
  /**
   * Nothing is sent before this settles, either way: the opening of a parent, say, without which
   * the run cannot begin.
   */
  readonly after?: Promise<unknown>;
  /** Told of every event that was not taken. Must not throw. Unset: the first one is a process warning. */
  readonly onDrop?: (drop: Drop) => void;
  /** Told of every transition. Must not throw. */
  readonly onState?: (state: SenderState) => void;
  /** Ends the sender at once, without draining. */
  readonly signal?: AbortSignal;
  /** Milliseconds since 1970 for events without a time. Default: Date.now. */
  readonly now?: () => number;
  /** Jitter of the waits between calls, in [0, 1). Default: Math.random. */
  readonly random?: () => number;
}

/** What a sender has done so far. */
export interface SenderStats {
  /** Events that emit took. */
  readonly emitted: number;
  /** Events that were not taken. */
  readonly dropped: number;
  /** Events of this sender that are known to be durable. */
  readonly durable: number;
  /** Events that went over the wire more than once. */
  readonly resent: number;
  /** Times the run was opened again. */
  readonly reconnects: number;
}

/** The run as it ended, and how many events of this sender are durable. */
export interface Finished {
  readonly run: Run;
  readonly durable: number;
  /** Events that emit did not take, so that they are not in the run. */
  readonly dropped: number;
}

/** What close left behind. */
export interface Closed {
  /** Events of this sender that are known to be durable. */
  readonly durable: number;
  /** Events that may or may not be durable: their acknowledgement did not come in time. */
  readonly unacked: number;
}
