/**
 * A journal: one database with its identity. What is written goes through
 * `write`, one transaction at a time per connection; what has been written is
 * read through `db`, which sees committed data only.
 */
import type { JournalFormat } from "./formats.ts";
import type { History } from "./history.ts";
import type { JournalHealth } from "./journal-health.ts";
import type { NamespaceRow, NamespaceTotals } from "./namespaces.ts";
import type { Notifications } from "./postgres/notifications.ts";
import type { NewRecord } from "./records.ts";
import type { RunRow } from "./runs.ts";
import type { Db } from "./schema.ts";

/** What a commit writes that has read nothing. */
export interface Append {
  /** As the commit before has left it, or will have. */
  readonly namespace: NamespaceRow;
  /** Its append_id is new: nobody has drawn it before. */
  readonly change: NamespaceTotals;
  /** Runs that exist, as they are from now on: those of which anything may have changed. */
  readonly changed: readonly RunRow[];
  /** And those to which events were appended, and nothing else. */
  readonly appended: readonly RunRow[];
  readonly records: readonly NewRecord[];
}

/** What differs between databases is behind this; see sqlite.ts. */
export interface Journal {
  /** Changes when the journal is restored or replaced, never otherwise. */
  readonly id: string;
  /** What may be written into it. */
  readonly format: JournalFormat;
  /** For reading a bounded page at once. Each statement sees everything that was committed before it. */
  readonly db: Db;
  /**
   * The same for scans that go in steps: on SQLite it runs in a thread of
   * its own, so that a step delays nobody else's call.
   */
  readonly scans: Db;
  /** Notices that the database went back in time; caches of it listen. */
  readonly history: History;
  /**
   * Reads the database's clock, milliseconds since 1970; undefined where it has none
   * of its own.
   */
  readonly readTime?: () => Promise<number>;
  /** Where other processes may serve the journal as well; undefined where none can. */
  readonly notifications?: Notifications;
  /** Whether it can be written; undefined where other processes serve it as well. */
  readonly health?: JournalHealth;
  /**
   * Calls back where somebody else has written to the database all the same,
   * before anything is decided anew: nothing that is known of it holds any more.
   */
  readonly onForeignWrite?: (listener: () => void) => void;
  /**
   * Runs `work` in one transaction and resolves after its commit is durable.
   * A transaction that failed for a passing reason is run again from its
   * beginning, so `work` must decide from what it reads, never from what an
   * earlier try left behind.
   *
   * @param withinMs milliseconds for all of it, waiting for locks included; unless
   *   given, as long as the database may be away
   * @throws RefusedError journal_unavailable where the database does not take it,
   *   data_loss where it is damaged
   */
  write<T>(work: (tx: Db) => Promise<T>, withinMs?: number): Promise<T>;
  /**
   * Writes in one go, if the namespace still is as it was. Appends to one namespace
   * take effect in the order in which they are asked for; one need not wait for the
   * other. Without it each group is a transaction of `write`.
   *
   * @returns whether it has, after the commit is durable; if not, `write` tells why
   * @throws RefusedError journal_unavailable where the database does not take it;
   *   whether it was written is unknown
   */
  readonly append?: (append: Append) => Promise<boolean>;
  /** Runs of one append at most; any number unless given. */
  readonly maxAppendRuns?: number;
  /**
   * Operations from which on a group is sent before the last one is answered. Fewer gain
   * nothing where no network is in between, and those that come behind them would wait for two
   * commits. Default: 1.
   */
  readonly minPipelinedOps?: number;
  /**
   * Gives some of the space that deletions have freed back to the file system;
   * returns whether there is more.
   */
  reclaimSpace(): Promise<boolean>;
  /** Closes the database. What is under way fails. */
  close(): Promise<void>;
}
