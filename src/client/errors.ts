/**
 * What a call's end means to a client: try again, or stop and tell.
 *
 * Invariant: a refusal that the server explained (it carries an ErrorDetail)
 * is never retried unless its reason says that the server was at fault, or it
 * asks to be called again later (retry_after). An
 * end that nobody explained is retried, because proxies turn a lost
 * connection into almost any code.
 */
import { durationMs } from "@bufbuild/protobuf/wkt";
import { Code, ConnectError } from "@connectrpc/connect";
import { type ErrorDetail, ErrorDetailSchema, Reason } from "../../gen/runlog/v1/error_pb.js";

/** Why something was refused, by its name in the contract: "RUN_EXISTS". */
export type ReasonName = keyof typeof Reason;

/** The server refused, for a reason that trying again does not change. */
export class RunlogError extends Error {
  /** gRPC code; undefined where one run of a stream was refused and the call went on. */
  readonly code: Code | undefined;
  /**
   * Why; "UNSPECIFIED" where no ErrorDetail came with the status, or where this client does not
   * know the reason, whose number stands in `detail`.
   */
  readonly reason: ReasonName;
  /** The server's data on it: limit, expectedRunSeq, epoch, earliestSeq, latestSeq. */
  readonly detail: ErrorDetail | undefined;

  constructor(
    message: string,
    code: Code | undefined,
    detail: ErrorDetail | undefined,
    options?: ErrorOptions,
  ) {
    super(message, options);
    this.name = "RunlogError";
    this.code = code;
    this.reason = nameOf(detail?.reason ?? Reason.UNSPECIFIED);
    this.detail = detail;
  }
}

function nameOf(reason: Reason): ReasonName {
  // A newer server may have others.
  const names: Readonly<Record<number, string | undefined>> = Reason;
  return (names[reason] as ReasonName | undefined) ?? "UNSPECIFIED";
}

/**
 * The server's journal holds less of the run than it had acknowledged: it was
 * restored from a backup, or it is another one. The sender no longer has the
 * missing events, so nothing that it could do would repair the run.
 */
export class JournalWentBackError extends Error {
  /** run_seq up to which events had been acknowledged. */
  readonly acknowledgedRunSeq: number;
  /** run_seq of the last event that the server holds now. */
  readonly lastRunSeq: number;

  constructor(acknowledgedRunSeq: number, lastRunSeq: number) {
    super(
      `the server had acknowledged events up to run_seq ${acknowledgedRunSeq} and now holds only ${lastRunSeq}: ` +
        "its journal was restored or replaced",
    );
    this.name = "JournalWentBackError";
    this.acknowledgedRunSeq = acknowledgedRunSeq;
    this.lastRunSeq = lastRunSeq;
  }
}

/** The run holds events that this sender never sent: another producer writes to it. */
export class ForeignEventsError extends Error {
  /** The highest run_seq that this sender ever sent. */
  readonly sentRunSeq: number;
  /** run_seq of the last event that the server holds. */
  readonly lastRunSeq: number;

  constructor(sentRunSeq: number, lastRunSeq: number) {
    super(
      `the run goes up to run_seq ${lastRunSeq}, but this producer sent only ${sentRunSeq}: ` +
        "another producer writes to the same run id",
    );
    this.name = "ForeignEventsError";
    this.sentRunSeq = sentRunSeq;
    this.lastRunSeq = lastRunSeq;
  }
}

/** The sender was closed, or aborted by its signal (see `cause`), before it could do this. */
export class SenderClosedError extends Error {
  constructor(message: string, options?: ErrorOptions) {
    super(message, options);
    this.name = "SenderClosedError";
  }
}

/** The run does not end, or wait: signals await handling. The sender goes on. */
export class SignalsPendingError extends Error {
  /** The run's last signal. */
  readonly lastSignalSeq: number;

  constructor(lastSignalSeq: number) {
    super(`signals up to ${lastSignalSeq} have come, and not all of them are handled`);
    this.name = "SignalsPendingError";
    this.lastSignalSeq = lastSignalSeq;
  }
}

/** Something that had to arrive in time did not. Retried, like every unexplained end. */
export class NoAnswerError extends Error {
  /** Milliseconds that were waited. */
  readonly waitedMs: number;

  constructor(what: string, waitedMs: number) {
    super(`no ${what} within ${waitedMs} ms`);
    this.name = "NoAnswerError";
    this.waitedMs = waitedMs;
  }
}

/** Options of a TokenError. */
export interface TokenErrorOptions extends ErrorOptions {
  readonly isFinal?: boolean;
}

/**
 * The token provider gave no token: it threw (see `cause`), gave something else, or did not
 * answer in time. Tried again like every outage. A provider throws one with `isFinal` where
 * there will be no token: what needs it then fails with this error.
 */
export class TokenError extends Error {
  readonly isFinal: boolean;

  constructor(message: string, { isFinal = false, ...options }: TokenErrorOptions = {}) {
    super(message, options);
    this.name = "TokenError";
    this.isFinal = isFinal;
  }
}

/** A message is larger than this client takes: it would be the next time too. */
export class ReceiveLimitError extends Error {
  constructor(message: string) {
    super(message);
    this.name = "ReceiveLimitError";
  }
}

/** No server was heard within `waitedMs` milliseconds of the first try; `cause` is the last failure. */
export class FirstContactError extends Error {
  readonly waitedMs: number;

  constructor(waitedMs: number, cause: Error | undefined) {
    const why = cause === undefined ? "" : `: ${cause.message}`;
    super(`no server answered within ${waitedMs} ms${why}`, { cause });
    this.name = "FirstContactError";
    this.waitedMs = waitedMs;
  }
}

/** Reads the ErrorDetail of a status, if it carries one. */
export function errorDetailOf(error: unknown): ErrorDetail | undefined {
  return error instanceof ConnectError ? error.findDetails(ErrorDetailSchema)[0] : undefined;
}

/** Whether a refusal with this reason can be over the next time. */
export function isRetryableReason(reason: Reason): boolean {
  return (
    reason === Reason.DRAINING ||
    reason === Reason.JOURNAL_UNAVAILABLE ||
    reason === Reason.INTERNAL ||
    // Who has opened the run has lost it since: the next call opens it again.
    reason === Reason.RUN_NOT_OPEN ||
    reason === Reason.OVERLOADED
  );
}

/** Whether a refusal can be over the next time: by its reason, or since the server says when. */
export function isRetryableDetail({ reason, retryAfter }: ErrorDetail): boolean {
  return isRetryableReason(reason) || retryAfter !== undefined;
}

/** Whether the server itself has explained the end of a call. */
export function isAnswered(error: unknown): boolean {
  return error instanceof RunlogError || errorDetailOf(error) !== undefined;
}

/** Whether a reason is about the node's state, so that another node may do what it cannot. */
export function isNodeReason(reason: Reason | undefined): boolean {
  return (
    reason === Reason.DRAINING ||
    reason === Reason.JOURNAL_UNAVAILABLE ||
    reason === Reason.OVERLOADED
  );
}

/** Whether a node has said by a status that it cannot take the call now. */
export function isRefusedByNode(error: unknown): boolean {
  return isNodeReason(errorDetailOf(error)?.reason);
}

/** Whether this end of a call is due to the node or the way to it, and not to the call. */
export function isNodeFault(error: unknown): boolean {
  const detail = errorDetailOf(error);
  return detail === undefined ? isRetryable(error) : isNodeReason(detail.reason);
}

/** Nodes that calls go to in turn after this end: what a quota refuses goes to the same one again. */
export function nodesAfter(error: unknown, nodes: number): number {
  const detail = error instanceof RunlogError ? error.detail : errorDetailOf(error);
  return detail?.reason === Reason.QUOTA ? 1 : nodes;
}

/** Milliseconds that the server asks to be left alone for; 0 where it does not. */
export function retryAfterMsOf(error: unknown): number {
  const detail = error instanceof RunlogError ? error.detail : errorDetailOf(error);
  const { retryAfter } = detail ?? {};
  return retryAfter === undefined ? 0 : Math.max(0, durationMs(retryAfter));
}

/**
 * Whether to call again after this end of a call, on its own.
 *
 * With an ErrorDetail its reason decides, and after TOKEN_EXPIRED whether another token can be
 * shown. Without one the server itself did
 * not speak, and almost any code may be a proxy's or a broken connection's:
 * INTERNAL "missing status", INVALID_ARGUMENT "incomplete envelope", UNKNOWN
 * from an HTTP 502, RESOURCE_EXHAUSTED from a 429. Final are the three that
 * mean a wrong address or wrong credentials (see isMisdirected), and a message
 * over this client's own limit. Who has been served before knows better: see
 * Retries.
 */
export function isRetryable(error: unknown): boolean {
  if (error instanceof TokenError) return !error.isFinal;
  if (isRenewable(error)) return true;
  const detail = error instanceof RunlogError ? error.detail : errorDetailOf(error);
  if (detail !== undefined) {
    return isRetryableDetail(detail);
  }
  if (!(error instanceof ConnectError)) {
    return error instanceof NoAnswerError;
  }
  return !isMisdirected(error) && receiveLimitOf(error) === undefined;
}

/**
 * Whether something else than the server refused the call: a status without ErrorDetail of
 * UNIMPLEMENTED (also an HTTP 404), UNAUTHENTICATED (401) or PERMISSION_DENIED (403).
 */
export function isMisdirected(error: unknown): boolean {
  if (!(error instanceof ConnectError) || errorDetailOf(error) !== undefined) return false;
  return (
    error.code === Code.Unimplemented ||
    error.code === Code.Unauthenticated ||
    error.code === Code.PermissionDenied
  );
}

/** The ReceiveLimitError that an error is or comes from. */
function receiveLimitOf(error: unknown): ReceiveLimitError | undefined {
  for (let at = error; at instanceof Error; at = at.cause) {
    if (at instanceof ReceiveLimitError) return at;
  }
  return undefined;
}

const renewable = new WeakSet<Error>();

/** Remembers of a call's end that the next call shows another token, and may be served. */
export function markRenewable(error: unknown): void {
  if (error instanceof Error) renewable.add(error);
}

/** Whether a call ended with its token only, so that the next one can begin at once. */
export function isRenewable(error: unknown): boolean {
  return error instanceof Error && renewable.has(error);
}

/** Whether a refusal is about the caller, whatever the call is for. */
export function isAboutCaller(error: unknown): boolean {
  const reason = errorDetailOf(error)?.reason;
  return (
    error instanceof TokenError ||
    reason === Reason.TOKEN_EXPIRED ||
    reason === Reason.UNAUTHENTICATED
  );
}

/** Turns the final end of a call into an error that carries its data; others pass unchanged. */
export function toFinalError(error: unknown): Error {
  const receiveLimit = receiveLimitOf(error);
  if (receiveLimit !== undefined) return receiveLimit;
  if (error instanceof ConnectError) {
    return new RunlogError(error.rawMessage, error.code, errorDetailOf(error), { cause: error });
  }
  return error instanceof Error ? error : new Error(String(error));
}
