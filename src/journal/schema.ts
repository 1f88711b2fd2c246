/**
 * The tables, as Kysely sees them. Every key begins with the namespace, so
 * that each statement touches one namespace and the tables can be spread by it.
 *
 * Integers are JavaScript numbers: seqs stay below 2^53. Times are
 * milliseconds since 1970. Messages are stored in protobuf's binary encoding.
 */
import type { Generated, Kysely } from "kysely";

/** One row: what identifies the database. */
export interface JournalTable {
  readonly only_row: number;
  readonly journal_id: string;
  /** On SQLite: drawn by the process that opened it last. */
  readonly owner: string | null;
  /** The newest format that may be written; see formats.ts. */
  readonly format: Generated<number>;
  /** The least format that a version has to know to read the journal. */
  readonly min_reader: Generated<number>;
  /** The least format that a version has to know to write the journal. */
  readonly min_writer: Generated<number>;
}

/** The unit of order: its row lock is held from the allocation of seqs until the commit. */
export interface NamespacesTable {
  readonly namespace_id: number;
  readonly name: string;
  readonly last_seq: number;
  /** The newest seq that was deleted; 0 while none was. */
  readonly trimmed_seq: number;
  /** Trees that were ever deleted: readers see by it that a page may have holes. */
  readonly deletion_count: number;
  /** record_time of the newest record; the next one is not earlier. */
  readonly last_time_ms: number;
  /** Milliseconds that a tree is kept once all its runs have ended; null: for ever. */
  readonly retention_ms: number | null;
  readonly create_time_ms: number;
  /** Kept by each commit, so that nobody has to count. */
  readonly run_count: number;
  readonly running_count: number;
  readonly waiting_count: number;
  readonly event_bytes: number;
  /** Requests to stop that were ever made: nodes see by it that runs which they hold may be asked. */
  readonly cancel_count: number;
  /** Runs that were ever opened at another node than before: nodes see by it that they may have lost some. */
  readonly taken_count: number;
  /** Signals that were ever sent to its runs: nodes see by it that runs which they hold may have got some. */
  readonly signal_count: number;
  /** Transactions that have locked it. */
  readonly version: number;
  /** Which `Journal.append` was the last: a version alone would not tell one from another's. */
  readonly append_id: number;
}

/** The seq of a run's RunStarted record is the run's key: unique and immutable. */
export interface RunsTable {
  readonly namespace_id: number;
  readonly run_key: number;
  readonly run_id: string;
  readonly parent_key: number | null;
  readonly root_key: number;
  readonly depth: number;
  readonly conversation_id: string;
  readonly spec: Uint8Array;
  readonly fork_key: number | null;
  readonly fork_run_seq: number | null;
  readonly create_time_ms: number;
  readonly epoch: number;
  readonly state: number;
  readonly last_run_seq: number;
  /** seq of the event with last_run_seq; 0 while there is none. */
  readonly last_event_seq: number;
  /** seq of the newest record, event or fact. */
  readonly last_seq: number;
  readonly event_bytes: number;
  readonly result: Uint8Array | null;
  readonly end_time_ms: number | null;
  /** Why the run was asked to stop; null while nobody did. */
  readonly cancel_reason: string | null;
  /** The number of that request among those of its namespace; a later one is never overwritten by an earlier one. */
  readonly cancel_request: number;
  /** Not used since 0006: `cancellations` holds what families were asked. */
  readonly cancel_descendants: number;
  /** The node that has the run's producer, or its lease; 0 where there is one node only. */
  readonly node_key: number;
  /** The producer that opened the run last; null where it did not name itself. */
  readonly producer_id: string | null;
  /** In which of its attempts; null where producer_id is. */
  readonly producer_attempt: number | null;
  /** Number of the run's last signal; 0 while there is none. */
  readonly last_signal_seq: number;
  /** The last signal whose handling the producer has recorded. */
  readonly handled_signal_seq: number;
  /** The Wait of a run that waits; stays where the wait ended the run, to know it again. */
  readonly waiting: Uint8Array | null;
  /** When the wait is over; 0 once the run was asked to stop; null without a deadline, or a wait. */
  readonly wait_deadline_ms: number | null;
  /** RunSpec.agent_id, so that ListRuns can look for it. */
  readonly agent_id: string;
}

/** The signals of runs by their ids, so that one that is sent again is known. */
export interface SignalsTable {
  readonly namespace_id: number;
  readonly run_key: number;
  readonly signal_id: string;
  /** Place among the signals of the run: 1, 2, 3 … */
  readonly signal_seq: number;
  /** seq of its record. */
  readonly seq: number;
  /** Of its event, without what may differ when it is sent again. */
  readonly digest: Uint8Array;
}

/** The closure of the parent relation; a run is its own ancestor at depth 0. */
export interface RunAncestorsTable {
  readonly namespace_id: number;
  readonly ancestor_key: number;
  readonly run_key: number;
  readonly depth: number;
}

/** RunSpec.labels, so that ListRuns can look for them. */
export interface RunLabelsTable {
  readonly namespace_id: number;
  readonly label_key: string;
  readonly label_value: string;
  readonly run_key: number;
}

/** One row per append batch, per signal, or per fact about a run. */
export interface RecordsTable {
  readonly namespace_id: number;
  /** seq of the last event in the record; the first one's is last_seq - count + 1. */
  readonly last_seq: number;
  readonly event_count: number;
  readonly run_key: number;
  readonly root_key: number;
  /** 0 for a signal, and for a fact. */
  readonly first_run_seq: number;
  /** The distinct event types in it, one a line; a signal's type; empty for a fact. */
  readonly types: string;
  /** Length of data in bytes; stands in the indexes so that a page is bounded before it is read. */
  readonly size: number;
  /** The wire encoding of an EventBatch. */
  readonly data: Uint8Array;
  /** See checksum.ts; null in records of earlier versions. */
  readonly checksum: number | null;
}

/** Trees that are being deleted: their runs are not there any more, their rows go in steps. */
export interface DeletionsTable {
  readonly namespace_id: number;
  readonly root_key: number;
  /** The node that deletes it; 0 where there is one node only. */
  readonly node_key: number;
}

/** Requests to stop that concern a run and all its descendants, those that start later included. */
export interface CancellationsTable {
  readonly namespace_id: number;
  /** The run that heads the family. A newer request takes the place of the one before. */
  readonly run_key: number;
  /** The namespace's cancel_count once it was made: of several, the greatest is the newest. */
  readonly request: number;
  readonly reason: string;
  /** Runs of the family up to this key have been asked; null once all have. */
  readonly after_key: number | null;
  /** The newest run when the request was made: later ones find the request when they start. */
  readonly through_key: number;
  /** The node that asks them; 0 where there is one node only. */
  readonly node_key: number;
}

/** The processes that serve the journal, where there can be several. */
export interface NodesTable {
  readonly node_key: Generated<number>;
  /** Host and process, for people. */
  readonly name: string;
  /** Moves on while the node lives; what it is does not matter. */
  readonly beat: number;
  /** The newest format that it reads and writes. */
  readonly format: Generated<number>;
}

/** The database. */
export interface Schema {
  readonly journal: JournalTable;
  readonly namespaces: NamespacesTable;
  readonly runs: RunsTable;
  readonly run_ancestors: RunAncestorsTable;
  readonly run_labels: RunLabelsTable;
  readonly records: RecordsTable;
  readonly deletions: DeletionsTable;
  readonly cancellations: CancellationsTable;
  readonly nodes: NodesTable;
  readonly signals: SignalsTable;
}

/** A connection pool or a transaction; every query takes one. */
export type Db = Kysely<Schema>;
