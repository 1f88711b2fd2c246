/**
 * The client: `connect`, and below it a reliable producer, a resuming consumer, typed errors.
 * Browser-safe.
 */

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
export { type ConnectLogOptions, connect } from "./log/connect.ts";
export type { FailureInit } from "./log/failures.ts";
export type { Cursor, KindName, Scope } from "./log/follow-request.ts";
export { Following, type FollowingOptions, type FollowStatus } from "./log/following.ts";
export {
  type CancelOptions,
  type ForkInit,
  Log,
  type LogOptions,
  type SignalOptions,
} from "./log/log.ts";
export { type EventData, Payload } from "./log/payload.ts";
export { ReceivedSignal } from "./log/received-signal.ts";
export type * from "./log/records.ts";
export { Run } from "./log/run.ts";
export type {
  EndStateName,
  Failure,
  Fork,
  RunDescription,
  RunInfo,
  RunSpec,
  RunStateName,
  Waiting,
} from "./log/run-info.ts";
export { type RunFilter, RunList } from "./log/run-list.ts";
export {
  type DroppedEvent,
  type EmitOptions,
  type EndedRun,
  type EndOptions,
  type FailOptions,
  type ParentRun,
  type ProducerOptions,
  type ProducerState,
  type ResumeInit,
  RunCancelledError,
  type RunInit,
  type WaitForOptions,
  type WaitOptions,
} from "./log/run-types.ts";
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
