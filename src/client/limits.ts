/**
 * What the client holds and how long it waits. The server's own limits arrive
 * with RunOpened; these stand until then, and bound the client itself.
 */
import { defaultLimits } from "../limits.ts";
import { type BackoffOptions, defaultBackoff } from "./backoff.ts";

/** Bounds of one sender. */
export interface SenderLimits {
  /** Events that may wait for their acknowledgement. */
  readonly maxBufferedEvents: number;
  /**
   * Encoded bytes of events after which the buffer is full. The event that
   * reaches the bound is still taken, so memory is bounded by this plus one
   * event.
   */
  readonly maxBufferedBytes: number;
  /** Events in one Append. docs/performance.md has the rates of 1, 16 and 256. */
  readonly maxFrameEvents: number;
  /** Encoded bytes of events in one Append, unless a single event is larger. */
  readonly maxFrameBytes: number;
  /**
   * Milliseconds for which a sender that has heard no server yet goes on trying; then it fails
   * with FirstContactError. Long enough for a server that starts with the agent.
   */
  readonly firstContactTimeoutMs: number;
  /** Milliseconds that an opening may take before it is abandoned and tried again. */
  readonly openTimeoutMs: number;
  /** Milliseconds without any acknowledgement while one is due, before the call is abandoned. */
  readonly ackTimeoutMs: number;
  /** Milliseconds that the server has to end a call which this side has half-closed. */
  readonly halfCloseTimeoutMs: number;
  /** Milliseconds that a call must have been open for its end to count as the first failure. */
  readonly stableAfterMs: number;
  /** Waits between calls. */
  readonly backoff: BackoffOptions;
}

/** The defaults of a sender. */
export const defaultSenderLimits: SenderLimits = {
  maxBufferedEvents: 16_384,
  maxBufferedBytes: 16 * 1024 * 1024,
  maxFrameEvents: 256,
  maxFrameBytes: 256 * 1024,
  firstContactTimeoutMs: 120_000,
  openTimeoutMs: 10_000,
  ackTimeoutMs: 30_000,
  halfCloseTimeoutMs: 5_000,
  stableAfterMs: 10_000,
  backoff: defaultBackoff,
};

/** Encoded bytes of one event, until the server has told its own limit. */
export const defaultMaxEventBytes = defaultLimits.maxEventBytes;

/** Encoded bytes of one Append, until the server has told its own limit. */
export const defaultMaxAppendBytes = defaultLimits.maxAppendBytes;

/**
 * Bytes that an event's tag and length take inside an Append at most: 1 for
 * the tag, 5 for a length below 2^35.
 */
export const eventFramingBytes = 6;

/** Bytes that an Append takes besides its events: run id (to 128), run_seq, tags, lengths. */
export const appendFramingBytes = 160;

/** Milliseconds between Progress frames that a follower asks for. */
export const followProgressIntervalMs = 15_000;

/** Progress intervals without any frame after which a subscription is held to be dead. */
export const followSilentIntervals = 3;

/**
 * Time-outs in a row that a run on a shared call waits for an answer of its own while the
 * server is heard otherwise: it answers other runs, or sends heartbeats because its database
 * is away. Beyond them the call is abandoned: its answers are not about this run.
 */
export const maxAnswerWaits = 10;

/**
 * Milliseconds for which a client that was served before goes on where calls are refused
 * without the server's word (401, 403, 404): longer than a proxy takes to be replaced.
 */
export const misdirectedTimeoutMs = 5 * 60_000;

/** Milliseconds to the first frame of a subscription, which comes at once. */
export const followAnswerTimeoutMs = 10_000;

/** Intervals of a server's heartbeats without any frame after which an Ingest call is held to be dead. */
export const silentHeartbeats = 3;

/** Milliseconds of silence that are never too long: a pause of the machine is no death. */
export const minSilenceMs = 3_000;

/** Milliseconds for which a call is repeated: longer than a server's restart takes. */
export const defaultUnaryTimeoutMs = 60_000;

/** Milliseconds that calls wait for their token provider. */
export const tokenTimeoutMs = 10_000;

/** Milliseconds between a token and the one that is asked for ahead of its end, however short it lasts. */
export const minTokenRenewalMs = 1_000;

/**
 * Milliseconds between calls that each end with their token, below which the usual waits come
 * between them: a server that refuses what it has just accepted is not called in a loop.
 */
export const minTokenUseMs = 1_000;

/** Milliseconds to the answer to a call that is repeated, before the next attempt. */
export const unaryAnswerTimeoutMs = 10_000;

/** Milliseconds that a producer which leaves has for what it has not sent. */
export const defaultCloseTimeoutMs = 5_000;
