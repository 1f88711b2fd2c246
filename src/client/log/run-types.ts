/** What a run is started with, and what it tells. */
import type { SenderLimits } from "../limits.ts";
import type { ReceivedSignal } from "./received-signal.ts";
import type { RunInfo, RunSpec } from "./run-info.ts";

/**
 * Where a producer stands. "reconnecting": events are kept, and sent when the server is back.
 * Final are "ended" (the run has its result), "closed" (the run was left as it is) and "failed"
 * (another producer has taken the run, it is not permitted, no server was ever there, …).
 */
export type ProducerState = "connecting" | "open" | "reconnecting" | "ended" | "closed" | "failed";

/** An event that is not in the run, which has no gap for it. */
export interface DroppedEvent {
  readonly runId: string;
  /**
   * Why: no room in the buffer, over the server's limit, no valid event or nothing that JSON can
   * hold (see `problem`), or after the end of the run or of its producer.
   */
  readonly reason: "overflow" | "too_large" | "invalid" | "ended";
  readonly type: string;
  /** Encoded; 0 where it cannot be encoded. */
  readonly bytes: number;
  /** With "too_large": the limit in bytes; else 0. */
  readonly limit: number;
  /** With "invalid": what is wrong with it. */
  readonly problem: string | undefined;
}

/** How a run is produced. */
export interface ProducerOptions {
  /** Told of every event that is not taken. Unset: the first one of a run is a process warning. */
  readonly onDrop?: ((drop: DroppedEvent) => void) | undefined;
  /** Told when a run is recorded no longer, with the reason. Unset: a process warning. */
  readonly onError?: ((error: Error, runId: string) => void) | undefined;
  /** Told of every change of a run's state: once in an outage. */
  readonly onState?: ((state: ProducerState, runId: string) => void) | undefined;
  /** Bounds of the buffer, and times. */
  readonly limits?: Partial<SenderLimits> | undefined;
}

/** How to go on with a run. */
export interface ResumeInit extends ProducerOptions {
  /** Gives the run up at once: what is not sent yet is lost, and the run may become LOST. */
  readonly signal?: AbortSignal | undefined;
}

/** A run that is being produced here, as the parent of another one. */
export interface ParentRun {
  readonly runId: string;
  readonly state: ProducerState;
  /** Settles once it is durable, or cannot be. */
  readonly opened: Promise<unknown>;
}

/** A new run: everything may be left out. */
export interface RunInit extends RunSpec, ResumeInit {
  /**
   * Default: a new UUIDv7. Under an id that exists and with the same spec the run goes on; with
   * another spec it fails with RUN_EXISTS.
   */
  readonly runId?: string | undefined;
  /**
   * The run that starts it: a Run, which may just have been started and need not be durable yet,
   * or the id of a run that exists.
   */
  readonly parent?: ParentRun | string | undefined;
}

/** What belongs to an event beside its data. */
export interface EmitOptions {
  /** At most 32 pairs, with keys of up to 63 bytes. */
  readonly attributes?: Readonly<Record<string, string>> | undefined;
  /** Media type of data. Default: by what it is. */
  readonly contentType?: string | undefined;
  /** When it happened. Default: now. */
  readonly time?: Date | undefined;
  /** The signal that this event answers: it, and those before it, are handled in the same commit. */
  readonly handles?: ReceivedSignal | undefined;
}

/** How to end a run. */
export interface EndOptions {
  /** Only if every signal is handled: else it rejects with SignalsPendingError, and the run goes on. */
  readonly requireSignalsHandled?: boolean | undefined;
}

/** How to end a run that did not succeed. */
export interface FailOptions extends EndOptions {
  /** What was thrown later, by cleanup for example. */
  readonly suppressed?: readonly unknown[] | undefined;
}

/** How to wait. */
export interface WaitOptions {
  /** When the run is LOST unless it goes on before. Default: never. */
  readonly deadline?: Date | undefined;
}

/** How to wait for an answer. */
export interface WaitForOptions extends WaitOptions {
  /** Gives up; the run may wait all the same. */
  readonly signal?: AbortSignal | undefined;
}

/** A run that has ended, durably. */
export interface EndedRun {
  readonly run: RunInfo;
  /** Events of this producer that are durable: all that were not dropped. */
  readonly durable: number;
  /** Events that are not in the run: see onDrop. */
  readonly dropped: number;
}

/** Somebody asked the run to stop. */
export class RunCancelledError extends Error {
  /** What they said; perhaps empty. */
  readonly reason: string;

  constructor(reason: string) {
    super(`somebody asked the run to stop${reason === "" ? "" : `: ${reason}`}`);
    this.name = "RunCancelledError";
    this.reason = reason;
  }
}
