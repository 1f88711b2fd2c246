/** A record as it leaves its commit: what the tail holds and subscribers are matched with. */
export interface CommittedRecord {
  /** seq of the first item; the last one's is firstSeq + count - 1. */
  readonly firstSeq: number;
  readonly count: number;
  /** Run ids from the record's run up to its root: index = edges between them. */
  readonly lineage: readonly string[];
  /** 0 for a signal and for a fact. */
  readonly firstRunSeq: number;
  /** The distinct event types in it, one a line; empty for a fact. */
  readonly types: string;
  /** The wire encoding of an EventBatch. */
  readonly data: Uint8Array;
}
