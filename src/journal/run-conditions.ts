/**
 * What a run can be, as SQL. Literally, since partial indexes are found by what
 * their conditions say; a migration that has used one of these pins it down.
 */
import { type SqlBool, sql } from "kysely";
import { RunState } from "../../gen/runlog/v1/run_pb.js";

/** The run has not ended: it takes events, once its producer is there. */
export const isOpen = sql<SqlBool>`state in (${sql.lit(RunState.RUNNING)}, ${sql.lit(RunState.WAITING)})`;

/** The run has a producer, or else a lease. */
export const isLeased = sql<SqlBool>`state = ${sql.lit(RunState.RUNNING)}`;

/** The run waits for input: it has no lease, and need not have a producer. */
export const isWaiting = sql<SqlBool>`state = ${sql.lit(RunState.WAITING)}`;

/** Whether a run that has been read is open. */
export function isOpenState(state: RunState): boolean {
  return state === RunState.RUNNING || state === RunState.WAITING;
}

/** Whether a run that has been read has a producer, or else a lease. */
export function isLeasedState(state: RunState): boolean {
  return state === RunState.RUNNING;
}

/** Signals to the run await handling. */
export const hasPendingSignals = sql<SqlBool>`last_signal_seq > handled_signal_seq`;
