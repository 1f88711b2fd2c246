/**
 * What PostgreSQL itself takes: the statements of a commit, and of a page, sent by
 * a bare client that does nothing else. One client to a lane, as runlog has one
 * commit of a namespace under way at each node.
 */
import { randomBytes } from "node:crypto";
import pg from "pg";
import type { Append } from "../src/journal/journal.ts";
import type { NamespaceRow } from "../src/journal/namespaces.ts";
import { appendStatement } from "../src/journal/postgres/append.ts";
import { recordColumns } from "../src/journal/records.ts";
import { changingRunColumns, runColumns } from "../src/journal/runs.ts";

/** Commits that are alike. */
export interface BareCommit {
  readonly namespace: string;
  readonly runId: string;
  /** Records that one commit adds. */
  readonly records: number;
  /** Events in each of them. */
  readonly eventsPerRecord: number;
  /** Bytes of each record. */
  readonly recordBytes: number;
  /** Whether other clients write to the namespace. */
  readonly isShared: boolean;
}

const begin =
  "begin; set local lock_timeout = 5000; set local statement_timeout = 30000; set local idle_in_transaction_session_timeout = 5000";

/** Inserts rows of a table, or all of them again. */
function insert(table: string, columns: readonly string[], rows: number, end = ""): string {
  const row = (at: number) =>
    `(${columns.map((_, i) => `$${at * columns.length + i + 1}`).join(", ")})`;
  const all = Array.from({ length: rows }, (_, at) => row(at)).join(", ");
  return `insert into ${table} (${columns.join(", ")}) values ${all}${end}`;
}

const excluded = changingRunColumns.map((name) => `${name} = excluded.${name}`).join(", ");
const upsertRun = insert(
  "runs",
  runColumns,
  1,
  ` on conflict (namespace_id, run_key) do update set ${excluded}`,
);

/** A client that has its namespace and its run. */
export class BareClient {
  readonly #client: pg.Client;
  readonly #commit: BareCommit;
  #known: NamespaceRow | undefined;
  #runKey: number | undefined;

  private constructor(client: pg.Client, commit: BareCommit) {
    this.#client = client;
    this.#commit = commit;
  }

  static async open(url: string, commit: BareCommit): Promise<BareClient> {
    const types: pg.CustomTypesConfig = {
      getTypeParser: (id, format) =>
        id === pg.types.builtins.INT8 ? Number : pg.types.getTypeParser(id, format as never),
    };
    const client = new pg.Client({ connectionString: url, types, pipeline: true });
    await client.connect();
    const { namespace } = commit;
    await client.query(
      "insert into namespaces (name, last_seq, trimmed_seq, last_time_ms, create_time_ms) values ($1, 0, 0, 0, 0) on conflict (name) do nothing",
      [namespace],
    );
    return new BareClient(client, commit);
  }

  /** Runs one commit; resolves once it is durable. */
  async commit(): Promise<void> {
    if (this.#commit.isShared) await this.#transaction();
    else await this.#append();
  }

  /** As a node does whose namespace others write to as well. */
  async #transaction(): Promise<void> {
    const client = this.#client;
    const begun = client.query(begin);
    const { rows } = await client.query<NamespaceRow>({
      name: "lock",
      text: "update namespaces set version = version + 1 where name = $1 returning *",
      values: [this.#commit.namespace],
    });
    await begun;
    const namespace = rows[0]!;
    const found = await client.query<{ run_key: number }>({
      name: "find",
      text: "select * from runs where namespace_id = $1 and run_id in ($2) and not exists (select 1 from deletions d where d.namespace_id = runs.namespace_id and d.root_key = runs.root_key)",
      values: [namespace.namespace_id, this.#commit.runId],
    });
    const { appended, records, change } = this.#changesOf(namespace, found.rows[0]?.run_key);
    const values = [change.last_seq, change.last_time_ms, 1, 1, 0, 0, 0, namespace.namespace_id];
    await Promise.all([
      client.query({ name: "run", text: upsertRun, values: valuesOf(appended, runColumns) }),
      client.query({
        name: `records-${records.length}`,
        text: insert("records", recordColumns, records.length),
        values: valuesOf(records, recordColumns),
      }),
      client.query({
        name: "update",
        text: "update namespaces set last_seq = $1, last_time_ms = $2, run_count = $3, running_count = $4, event_bytes = $5, taken_count = $6, append_id = $7 where namespace_id = $8",
        values,
      }),
      client.query("commit"),
    ]);
  }

  /** As a node does that is alone with its namespace. */
  async #append(): Promise<void> {
    const known = this.#known ?? (await this.#read());
    const append = { namespace: known, ...this.#changesOf(known, this.#runKey) };
    const statement = appendStatement(append);
    if (statement === undefined) throw new Error("too many records for one statement");
    const { sql: text, parameters } = statement;
    const name = `append-${append.records.length}`;
    const { rowCount } = await this.#client.query({ name, text, values: parameters as unknown[] });
    if (rowCount !== 1) throw new Error("somebody else has changed the namespace");
    this.#runKey = append.appended[0]!.run_key;
    this.#known = { ...known, ...append.change, version: known.version + 1 };
  }

  async #read(): Promise<NamespaceRow> {
    const text = "select * from namespaces where name = $1";
    const { rows } = await this.#client.query<NamespaceRow>(text, [this.#commit.namespace]);
    return rows[0]!;
  }

  #changesOf(namespace: NamespaceRow, knownKey: number | undefined): Omit<Append, "namespace"> {
    const { runId, records: count, eventsPerRecord, recordBytes } = this.#commit;
    const { namespace_id, last_seq: lastSeq } = namespace;
    const runKey = knownKey ?? lastSeq + 1;
    const endSeq = lastSeq + count * eventsPerRecord;
    const data = randomBytes(recordBytes);
    const run = {
      namespace_id,
      run_key: runKey,
      run_id: runId,
      parent_key: null,
      root_key: runKey,
      depth: 0,
      conversation_id: "",
      spec: Buffer.alloc(0),
      fork_key: null,
      fork_run_seq: null,
      create_time_ms: 0,
      epoch: 1,
      state: 1,
      last_run_seq: endSeq,
      last_event_seq: endSeq,
      last_seq: endSeq,
      event_bytes: 0,
      result: null,
      ...{
        end_time_ms: null,
        cancel_reason: null,
        cancel_request: 0,
        cancel_descendants: 0,
        node_key: 0,
      },
      producer_id: null,
      producer_attempt: null,
      last_signal_seq: 0,
      handled_signal_seq: 0,
      waiting: null,
      wait_deadline_ms: null,
      agent_id: "",
    };
    const records = Array.from({ length: count }, (_, index) => {
      const seq = lastSeq + (index + 1) * eventsPerRecord;
      return {
        namespace_id,
        last_seq: seq,
        event_count: eventsPerRecord,
        run_key: runKey,
        root_key: runKey,
        first_run_seq: seq,
        types: "token",
        size: recordBytes,
        data,
      };
    });
    const change = {
      last_seq: endSeq,
      last_time_ms: 0,
      run_count: 1,
      running_count: 1,
      event_bytes: 0,
      taken_count: 0,
      waiting_count: 0,
      signal_count: 0,
      append_id: endSeq,
    };
    return { changed: [], appended: [run], records, change };
  }

  /** Reads the run's records, a page at a time; resolves with the events in them. */
  async replay(): Promise<number> {
    const client = this.#client;
    const { rows } = await client.query<{ namespace_id: number; run_key: number }>(
      "select namespace_id, run_key from runs where run_id = $1",
      [this.#commit.runId],
    );
    const { namespace_id: id, run_key: runKey } = rows[0]!;
    let events = 0;
    for (let afterSeq = 0; ; ) {
      const keys = await client.query<{ last_seq: number; size: number }>({
        name: "keys",
        text: "select last_seq, size from records where namespace_id = $1 and last_seq > $2 and run_key = $3 order by last_seq limit 256",
        values: [id, afterSeq, runKey],
      });
      const page: number[] = [];
      let bytes = 0;
      for (const { last_seq: seq, size } of keys.rows) {
        bytes += size;
        if (page.length > 0 && bytes > 1024 * 1024) break;
        page.push(seq);
      }
      const last = page.at(-1);
      if (last === undefined) return events;
      const records = await client.query<{ event_count: number; data: Buffer }>({
        name: "bytes",
        text: "select last_seq, event_count, run_key, types, data from records where namespace_id = $1 and last_seq = any($2) order by last_seq",
        values: [id, page],
      });
      for (const { event_count: count } of records.rows) events += count;
      afterSeq = last;
    }
  }

  close(): Promise<void> {
    return this.#client.end();
  }
}

function valuesOf<Row extends object>(
  rows: readonly Row[],
  columns: readonly (keyof Row)[],
): unknown[] {
  return rows.flatMap((row) => columns.map((column) => row[column]));
}
