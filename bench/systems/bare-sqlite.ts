/** A bare better-sqlite3 loop: no server, no protocol, no order to keep. Nothing on SQLite is faster. */
import { join } from "node:path";
import Database from "better-sqlite3";
import type { Payloads } from "../payloads.ts";
import type { System, SystemClient } from "./system.ts";

/** Rows of one commit. */
const rowsPerCommit = 10;

class BareSqlite implements Pick<SystemClient, "write" | "read" | "close"> {
  readonly #db: Database.Database;

  constructor(path: string) {
    this.#db = new Database(path);
    this.#db.pragma("journal_mode = WAL");
    this.#db.pragma("synchronous = FULL");
    this.#db.exec("create table if not exists records (seq integer primary key, data blob)");
  }

  write(
    _stream: string,
    payloads: Payloads,
    { first, count, perAppend }: { first: number; count: number; perAppend: number },
  ): Promise<void> {
    const insert = this.#db.prepare("insert into records (seq, data) values (?, ?)");
    for (let at = first; at < first + count; ) {
      this.#db.exec("begin immediate");
      for (let row = 0; row < rowsPerCommit && at < first + count; row++) {
        const size = Math.min(perAppend, first + count - at);
        const data = Buffer.concat(Array.from({ length: size }, (_, i) => payloads.of(at + i)));
        at += size;
        insert.run(at, data);
      }
      this.#db.exec("commit");
    }
    return Promise.resolve();
  }

  close(): Promise<void> {
    this.#db.close();
    return Promise.resolve();
  }

  read(): Promise<void> {
    return Promise.reject(new Error("a bare loop is only written"));
  }
}

/** The limit of what SQLite takes. */
export const bareSqlite: System = {
  name: "bare better-sqlite3",
  durability: "fsync of each commit (synchronous=FULL), 10 rows to a commit",
  start: (directory) =>
    Promise.resolve({ url: join(directory, "bare.db"), stop: () => Promise.resolve() }),
  connect: (url) => Promise.resolve(new BareSqlite(url)),
};
