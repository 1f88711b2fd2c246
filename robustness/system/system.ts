import type { PostgresServer } from "../../dev/postgres-server.ts";
import type { DiskControl } from "../native/control.ts";
import type { ServerNode } from "./server-node.ts";
import type { TcpProxy } from "./tcp-proxy.ts";

/** What keeps the journal. */
export type JournalKind = "sqlite" | "postgres";

/** What nemeses need of a system beside its nodes. */
export interface Needs {
  /** A file system of this many MiB for the journal. */
  readonly smallDiskMiB?: number;
  /** A synchronous standby of PostgreSQL. */
  readonly standby?: boolean;
}

/** The disk under a SQLite journal. */
export interface Disk {
  readonly control: DiskControl;
  /** The directory of the journal, and of the logs from which unsynced changes are undone. */
  readonly directory: string;
  readonly undoDirectory: string;
  readonly journalFile: string;
}

/** The PostgreSQL under several nodes. */
export interface Database {
  /** The one that takes writes. */
  primary: PostgresServer;
  standby: PostgresServer | undefined;
  readonly name: string;
  /** Directory of the primary's files, where it has a small file system. */
  readonly directory: string | undefined;
  /** By node: its ways to the primary's and the standby's place. */
  readonly ways: readonly (readonly TcpProxy[])[];
  /** Makes the standby the primary, and a new standby that follows it. */
  promote(): Promise<void>;
}

/** What faults are made in: server nodes on a journal, with the handles that faults need. */
export type System = {
  readonly nodes: readonly ServerNode[];
  close(): Promise<void>;
} & (
  | { readonly kind: "sqlite"; readonly disk: Disk }
  | { readonly kind: "postgres"; readonly database: Database }
);
