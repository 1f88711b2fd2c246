/** Maps what the domain throws to gRPC codes and `ErrorDetail`: the one place that does. */
import { create, type MessageInitShape } from "@bufbuild/protobuf";
import { durationFromMs } from "@bufbuild/protobuf/wkt";
import { Code, ConnectError } from "@connectrpc/connect";
import { type ErrorDetail, ErrorDetailSchema, Reason } from "../../gen/runlog/v1/error_pb.js";
import { retryAfterMs } from "../memory-budget.ts";
import { describeRefusal, type Refusal, RefusedError } from "../refusal.ts";
import { EnvelopeError } from "../wire/envelope.ts";
import { isConnectionLoss } from "./http/connection-loss.ts";

/** Told about errors that are nobody's refusal; their cause never leaves the server. */
export type OnUnexpected = (error: unknown) => void;

type Detail = MessageInitShape<typeof ErrorDetailSchema>;

/** The code, and the detail without which a client could not act. */
function mapRefusal(refusal: Refusal): { code: Code; detail: Detail } {
  switch (refusal.reason) {
    case "invalid_field": {
      const { field, limit } = refusal;
      const detail = { reason: Reason.INVALID_FIELD, field, limit: BigInt(limit ?? 0) };
      return { code: Code.InvalidArgument, detail };
    }
    case "run_id_limit": {
      const detail = {
        reason: Reason.RUN_ID_LIMIT,
        field: "filter.run_ids.run_ids",
        limit: BigInt(refusal.limit),
      };
      return { code: Code.InvalidArgument, detail };
    }
    case "run_not_found":
      return { code: Code.NotFound, detail: { reason: Reason.RUN_NOT_FOUND } };
    case "parent_not_found":
      return { code: Code.NotFound, detail: { reason: Reason.PARENT_NOT_FOUND } };
    case "run_exists":
      return { code: Code.AlreadyExists, detail: { reason: Reason.RUN_EXISTS } };
    case "run_in_deletion":
      return { code: Code.AlreadyExists, detail: { reason: Reason.RUN_EXISTS } };
    case "fork_beyond_end": {
      const expectedRunSeq = BigInt(refusal.lastRunSeq + 1);
      return { code: Code.OutOfRange, detail: { reason: Reason.SEQ_GAP, expectedRunSeq } };
    }
    case "tree_in_use":
      return { code: Code.FailedPrecondition, detail: { reason: Reason.TREE_IN_USE } };
    case "seq_gap": {
      const expectedRunSeq = BigInt(refusal.expectedRunSeq);
      return { code: Code.OutOfRange, detail: { reason: Reason.SEQ_GAP, expectedRunSeq } };
    }
    case "fenced": {
      const detail = { reason: Reason.FENCED, epoch: BigInt(refusal.epoch) };
      return { code: Code.FailedPrecondition, detail };
    }
    case "superseded": {
      const detail = { reason: Reason.SUPERSEDED, epoch: BigInt(refusal.epoch) };
      return { code: Code.FailedPrecondition, detail };
    }
    case "run_finished":
      return { code: Code.FailedPrecondition, detail: { reason: Reason.RUN_FINISHED } };
    case "run_lost":
    case "run_not_open":
      return { code: Code.FailedPrecondition, detail: { reason: Reason.RUN_NOT_OPEN } };
    case "signal_conflict":
      return { code: Code.FailedPrecondition, detail: { reason: Reason.SIGNAL_CONFLICT } };
    case "signals_refused":
      return { code: Code.FailedPrecondition, detail: { reason: Reason.SIGNALS_REFUSED } };
    case "format_inactive":
      return { code: Code.FailedPrecondition, detail: { reason: Reason.FORMAT_INACTIVE } };
    case "signals_pending": {
      const lastSignalSeq = BigInt(refusal.lastSignalSeq);
      const detail = { reason: Reason.SIGNALS_PENDING, lastSignalSeq };
      return { code: Code.FailedPrecondition, detail };
    }
    case "too_large": {
      const { field, limit } = refusal;
      const detail = { reason: Reason.TOO_LARGE, field, limit: BigInt(limit) };
      return { code: Code.InvalidArgument, detail };
    }
    case "conflict": {
      const expectedRunSeq = BigInt(refusal.expectedRunSeq);
      return { code: Code.FailedPrecondition, detail: { reason: Reason.CONFLICT, expectedRunSeq } };
    }
    case "cursor_trimmed": {
      const earliestSeq = BigInt(refusal.earliestSeq);
      return { code: Code.OutOfRange, detail: { reason: Reason.CURSOR_TRIMMED, earliestSeq } };
    }
    case "cursor_ahead": {
      const latestSeq = BigInt(refusal.latestSeq);
      return { code: Code.OutOfRange, detail: { reason: Reason.CURSOR_AHEAD, latestSeq } };
    }
    case "journal_changed":
      return { code: Code.OutOfRange, detail: { reason: Reason.JOURNAL_CHANGED } };
    case "quota": {
      const limit = BigInt(refusal.limit);
      const { retryAfterMs: ms } = refusal;
      const retryAfter = ms === undefined ? undefined : durationFromMs(ms);
      return { code: Code.ResourceExhausted, detail: { reason: Reason.QUOTA, limit, retryAfter } };
    }
    case "data_loss": {
      const firstSeq = BigInt(refusal.firstSeq ?? 0);
      const lastSeq = BigInt(refusal.lastSeq ?? 0);
      return { code: Code.DataLoss, detail: { reason: Reason.DATA_LOSS, firstSeq, lastSeq } };
    }
    case "overloaded": {
      const retryAfter = durationFromMs(refusal.retryAfterMs);
      return { code: Code.ResourceExhausted, detail: { reason: Reason.OVERLOADED, retryAfter } };
    }
    case "unauthenticated":
      return { code: Code.Unauthenticated, detail: { reason: Reason.UNAUTHENTICATED } };
    case "token_expired":
      return { code: Code.Unauthenticated, detail: { reason: Reason.TOKEN_EXPIRED } };
    case "permission":
      return { code: Code.PermissionDenied, detail: { reason: Reason.PERMISSION } };
    case "minting_unavailable":
      return { code: Code.FailedPrecondition, detail: { reason: Reason.MINTING_UNAVAILABLE } };
    case "draining":
      return { code: Code.Unavailable, detail: { reason: Reason.DRAINING } };
    case "internal":
      return { code: Code.Internal, detail: { reason: Reason.INTERNAL } };
    case "journal_unavailable":
      return { code: Code.Unavailable, detail: { reason: Reason.JOURNAL_UNAVAILABLE } };
  }
}

/** The detail of a refusal, for frames that carry it inside a stream. */
export function toErrorDetail(refusal: Refusal): ErrorDetail {
  return create(ErrorDetailSchema, mapRefusal(refusal).detail);
}

/** The status of a call whose message is over the limit; its header tells, before any of it is read. */
export function tooLargeError(field: string, limit: number): ConnectError {
  return toRefusalError({ reason: "too_large", field, limit });
}

/** The status of a call with a message that cannot be read. */
export function toEnvelopeFailure(error: unknown, maxBytes: number): ConnectError {
  if (!(error instanceof EnvelopeError)) return ConnectError.from(error);
  return error.problem === "too_large"
    ? tooLargeError("request", maxBytes)
    : new ConnectError(error.message, Code.Internal);
}

/** The status of a call for which the process has no memory. */
export function overloadedError(what: string): ConnectError {
  return toRefusalError({ reason: "overloaded", what, retryAfterMs });
}

/** The status of a call that is refused. */
export function toRefusalError(refusal: Refusal): ConnectError {
  const { code, detail } = mapRefusal(refusal);
  const details = [{ desc: ErrorDetailSchema, value: detail }];
  return new ConnectError(describeRefusal(refusal), code, undefined, details);
}

/**
 * The status of a call that failed. A refusal keeps its reason; Connect's own
 * errors pass; anything else is INTERNAL, and only `onUnexpected` sees why.
 */
export function toConnectError(error: unknown, onUnexpected: OnUnexpected): ConnectError {
  if (error instanceof ConnectError) return error;
  if (error instanceof RefusedError) {
    const { reason } = error.refusal;
    if (reason === "journal_unavailable" || reason === "data_loss") onUnexpected(error);
    return toRefusalError(error.refusal);
  }
  // Nobody is left to read this status.
  if (isConnectionLoss(error)) return ConnectError.from(error, Code.Canceled);
  onUnexpected(error);
  return new ConnectError(
    "internal error: retry later; the server's log has the cause",
    Code.Internal,
  );
}
