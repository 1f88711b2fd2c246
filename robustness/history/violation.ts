/** The promises that are checked; docs/reliability.md says what each means. */
export type PromiseName =
  | "acknowledged is durable"
  | "bytes are kept"
  | "seq is dense"
  | "run_seq is dense"
  | "record_time does not go back"
  | "nothing after the end"
  | "the first result stands"
  | "epochs grow"
  | "producers do not interleave"
  | "FENCED takes two owners"
  | "refusals are expected"
  | "an acknowledged signal is there once"
  | "signal_seq is dense"
  | "the handled position does not go back"
  | "a producer receives what is not handled"
  | "no end or wait passes over a signal"
  | "a wait has no lease"
  | "a cancelled run does not wait"
  | "one sequence for a filter"
  | "a cursor comes to the end"
  | "Progress arrives"
  | "every reader sees one journal"
  | "nothing fails unexpectedly"
  | "a server ends when it is told to"
  | "serving again"
  | "memory is bounded"
  | "found by the nemesis";

/** A promise that a history breaks. */
export interface Violation {
  readonly promise: PromiseName;
  /** One line: what, where, and what was expected. */
  readonly what: string;
}
