/** The client: a reliable producer, a resuming consumer, typed errors. Browser-safe. */

export type { EventInit } from "../wire/event.ts";
export { decodeSubscribeResponse } from "../wire/subscribe-response.ts";
export { type BackoffOptions, defaultBackoff } from "./backoff.ts";
export {
  errorDetailOf,
  FirstContactError,
  ForeignEventsError,
  isRetryable,
  isRetryableReason,
  JournalWentBackError,
  NoAnswerError,
  type ReasonName,
  ReceiveLimitError,
  RunlogError,
  SenderClosedError,
  SignalsPendingError,
  TokenError,
  toFinalError,
} from "./errors.ts";
export { follow } from "./follow.ts";
export type { FollowOptions, FollowState } from "./follow-calls.ts";
export { type FollowManyItem, FollowSet, followMany } from "./follow-many.ts";
export type { FollowItem, FollowRequest } from "./follow-position.ts";
export type { Opened } from "./ingest-call.ts";
export { defaultSenderLimits, type SenderLimits } from "./limits.ts";
export { openRun, RunSender } from "./sender.ts";
export type {
  Closed,
  ConditionOptions,
  Drop,
  Finished,
  OpenRunOptions,
  ResultInit,
  SenderState,
  SenderStats,
  SignalsOptions,
  WaitInit,
} from "./sender-types.ts";
export type { RunSignal } from "./signal-inbox.ts";
export {
  type SentSignal,
  type SignalInit,
  type SignalRunOptions,
  signalRun,
} from "./signal-run.ts";
export type { TokenProvider } from "./tokens.ts";
export { withToken } from "./with-token.ts";
