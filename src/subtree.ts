/** Parts of a namespace's runs, to which rights can be narrowed. */

/** A run with all its descendants. */
export interface Subtree {
  readonly runId: string;
  /** The run's start_seq: a run that is created anew under the same id is not meant. */
  readonly startSeq: number;
}

/** Where something may be done: in these subtrees, or in the whole namespace. */
export type Within = readonly Subtree[] | undefined;
