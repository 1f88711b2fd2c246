/**
 * Why the domain refuses something. A refusal carries data, not text; one
 * switch in the server maps it to a gRPC code and an `ErrorDetail`.
 */

/** A refusal as plain data. `field` is a path as in the contract's ErrorDetail. */
export type Refusal =
  | {
      readonly reason: "invalid_field";
      readonly field: string;
      readonly problem: string;
      readonly limit?: number;
    }
  /** `got` is how many were counted: at least so many there are. */
  | { readonly reason: "run_id_limit"; readonly limit: number; readonly got: number }
  | { readonly reason: "run_not_found"; readonly runId: string }
  | { readonly reason: "parent_not_found"; readonly parentRunId: string }
  | { readonly reason: "run_exists"; readonly runId: string }
  /** The id belonged to a tree whose deletion is under way. */
  | { readonly reason: "run_in_deletion"; readonly runId: string }
  | {
      readonly reason: "fork_beyond_end";
      readonly sourceRunId: string;
      readonly lastRunSeq: number;
    }
  /** The run has not ended. */
  | { readonly reason: "tree_in_use"; readonly by: "open"; readonly runId: string }
  /** The run is a fork of one in the tree; undefined where the caller must not learn of it. */
  | { readonly reason: "tree_in_use"; readonly by: "fork"; readonly runId: string | undefined }
  | { readonly reason: "seq_gap"; readonly expectedRunSeq: number; readonly gotRunSeq: number }
  | { readonly reason: "fenced"; readonly epoch: number }
  /** By a later attempt of the same producer. */
  | { readonly reason: "superseded"; readonly epoch: number }
  | { readonly reason: "run_finished"; readonly runId: string }
  /** Its lease ran out; opening it again resumes it. */
  | { readonly reason: "run_lost"; readonly runId: string }
  | { readonly reason: "run_not_open"; readonly runId: string }
  | { readonly reason: "signal_conflict"; readonly signalId: string }
  | { readonly reason: "signals_refused"; readonly runId: string }
  /** Older nodes do not know what would be written. */
  | { readonly reason: "format_inactive" }
  | { readonly reason: "signals_pending"; readonly runId: string; readonly lastSignalSeq: number }
  | {
      readonly reason: "too_large";
      readonly field: string;
      readonly limit: number;
    }
  | { readonly reason: "conflict"; readonly runSeq: number; readonly expectedRunSeq: number }
  | { readonly reason: "cursor_trimmed"; readonly earliestSeq: number }
  | { readonly reason: "cursor_ahead"; readonly latestSeq: number }
  | { readonly reason: "journal_changed"; readonly journalId: string }
  /** With retryAfterMs the caller has to wait, and without it to ask for less. */
  | {
      readonly reason: "quota";
      readonly what: string;
      readonly limit: number;
      readonly retryAfterMs?: number | undefined;
    }
  /** Records are damaged, or the database is, where they are not known. */
  | { readonly reason: "data_loss"; readonly firstSeq?: number; readonly lastSeq?: number }
  /** The process has no memory left for `what`. */
  | { readonly reason: "overloaded"; readonly what: string; readonly retryAfterMs: number }
  /** The call shows nobody that the server knows. */
  | { readonly reason: "unauthenticated"; readonly problem: string }
  /** Or the rights of its owner have changed: both are seen anew by the next call. */
  | { readonly reason: "token_expired" }
  /** The caller is known, and may not do this. */
  | { readonly reason: "permission"; readonly problem: string }
  /** The server has no key to sign tokens with; or it does not ask for any. */
  | { readonly reason: "minting_unavailable"; readonly authenticates: boolean }
  | { readonly reason: "draining" }
  /** We failed on this alone; the log tells why. */
  | { readonly reason: "internal" }
  | { readonly reason: "journal_unavailable" };

/** Thrown by the domain for whatever the caller can act on. */
export class RefusedError extends Error {
  readonly refusal: Refusal;

  constructor(refusal: Refusal, options?: ErrorOptions) {
    super(describeRefusal(refusal), options);
    this.name = "RefusedError";
    this.refusal = refusal;
  }
}

/** Whether an error says that what the journal holds is damaged. */
export function isDataLoss(error: unknown): error is RefusedError {
  return error instanceof RefusedError && error.refusal.reason === "data_loss";
}

/** Whether an error says that the journal's database did not do what it was asked, for now. */
export function isUnavailable(error: unknown): error is RefusedError {
  return error instanceof RefusedError && error.refusal.reason === "journal_unavailable";
}

/** Says, for people, what was refused and what to do. */
export function describeRefusal(refusal: Refusal): string {
  switch (refusal.reason) {
    case "invalid_field":
      return `${refusal.field}: ${refusal.problem}`;
    case "run_id_limit":
      return `a filter has at most ${refusal.limit} run ids, this one has ${refusal.got} or more: subscribe to their ancestor instead`;
    case "run_not_found":
      return `run ${JSON.stringify(refusal.runId)} does not exist in this namespace: check its id, or create it first`;
    case "parent_not_found":
      return `parent run ${JSON.stringify(refusal.parentRunId)} does not exist in this namespace: create it first`;
    case "run_exists":
      return `run id ${JSON.stringify(refusal.runId)} belongs to a run with another spec: use another id`;
    case "run_in_deletion":
      return `run id ${JSON.stringify(refusal.runId)} belongs to a tree that is being deleted: retry, or use another id`;
    case "fork_beyond_end":
      return `run ${JSON.stringify(refusal.sourceRunId)} has no event at that run_seq: its last one is ${refusal.lastRunSeq}`;
    case "tree_in_use":
      return refusal.by === "open"
        ? `run ${JSON.stringify(refusal.runId)} of the tree has not ended: finish or cancel it first, or wait until its lease runs out`
        : `${refusal.runId === undefined ? "a run" : `run ${JSON.stringify(refusal.runId)}`} of another tree is a fork of a run in this tree: delete the other tree first`;
    case "seq_gap":
      return `run_seq ${refusal.gotRunSeq} leaves a gap: continue with run_seq ${refusal.expectedRunSeq}`;
    case "fenced":
      return `another producer has opened the run (epoch ${refusal.epoch}): stop, do not retry`;
    case "superseded":
      return `a later attempt of this producer has opened the run (epoch ${refusal.epoch}): abandon this attempt`;
    case "run_finished":
      return `run ${JSON.stringify(refusal.runId)} has ended: it accepts no more events or signals, and no other result`;
    case "run_lost":
      return `run ${JSON.stringify(refusal.runId)} is LOST, its lease ran out or the deadline of its wait passed: open it again`;
    case "run_not_open":
      return `run ${JSON.stringify(refusal.runId)} is not open on this stream: send OpenRun first`;
    case "signal_conflict":
      return `signal_id ${JSON.stringify(refusal.signalId)} belongs to another signal to the run: use another id`;
    case "signals_refused":
      return `run ${JSON.stringify(refusal.runId)} accepts no signals: its spec says so`;
    case "format_inactive":
      return "older servers on the same journal do not know signals and waits: upgrade them, then retry";
    case "signals_pending":
      return `run ${JSON.stringify(refusal.runId)} has unhandled signals, up to signal_seq ${refusal.lastSignalSeq}: handle them first`;
    case "too_large":
      return `${refusal.field} is larger than the limit of ${refusal.limit} bytes: send less`;
    case "conflict":
      return `the event with run_seq ${refusal.runSeq} differs from the durable one, so another producer has written to the run: stop (the next run_seq is ${refusal.expectedRunSeq})`;
    case "cursor_trimmed":
      return `records after the cursor were deleted: resume at seq ${refusal.earliestSeq}, from which nothing is missing, or at 0 to get the records that remain`;
    case "cursor_ahead":
      return `the cursor is beyond the journal's newest seq ${refusal.latestSeq}: it belongs to another journal or to a newer state of this one, so start again without it`;
    case "journal_changed":
      return `the cursor belongs to another journal than ${refusal.journalId}: start again without a cursor`;
    case "quota":
      return refusal.retryAfterMs === undefined
        ? `at most ${refusal.limit} ${refusal.what}`
        : `at most ${refusal.limit} ${refusal.what}; retry after ${refusal.retryAfterMs} ms`;
    case "data_loss":
      return refusal.lastSeq === undefined
        ? "the journal's database is damaged: ask its operator to restore it from a backup"
        : `the journal's records from seq ${refusal.firstSeq} to ${refusal.lastSeq} are damaged: ask its operator to restore them from a backup, or resume after seq ${refusal.lastSeq} without them`;
    case "overloaded":
      return `the server has no memory left for ${refusal.what}: retry after ${refusal.retryAfterMs} ms`;
    case "unauthenticated":
    case "permission":
      return refusal.problem;
    case "token_expired":
      return "the token has expired, or its rights have changed: get a token, and call again";
    case "minting_unavailable":
      return refusal.authenticates
        ? "the server has no key to sign tokens with: its operator names one in the access file, as minting.keys"
        : "the server does not authenticate, so there is nothing to make a token of: call it without one";
    case "draining":
      return "the server is draining: retry";
    case "internal":
      return "internal error: retry later; the server's log has the cause";
    case "journal_unavailable":
      return "the journal's database did not answer: retry; every acknowledged event is durable";
  }
}

/** Refuses a field; shorthand for the most frequent refusal. */
export function invalidField(field: string, problem: string, limit?: number): RefusedError {
  return new RefusedError(
    limit === undefined
      ? { reason: "invalid_field", field, problem }
      : { reason: "invalid_field", field, problem, limit },
  );
}

/** Refuses what the database will never store, whatever else is in the transaction. */
export function unstorable(cause: unknown): RefusedError {
  const problem = "has a string or a number that the database cannot store";
  return new RefusedError({ reason: "invalid_field", field: "request", problem }, { cause });
}

/** The journal cannot be opened; the message is one line that says why and what to do. */
export class JournalOpenError extends Error {
  constructor(message: string, options?: ErrorOptions) {
    // One line, also where a path holds a line break.
    super(message.replace(/\s*[\r\n]+\s*/g, " "), options);
    this.name = "JournalOpenError";
  }
}
