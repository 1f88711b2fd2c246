/**
 * What PostgreSQL itself takes: the statements of a commit, and of a page, sent by
 * a bare client that does nothing else. One client to a lane, as runlog has one
 * commit of a namespace under way at each node.
 */
import { randomBytes } from "node:crypto";
import pg from "pg";

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
}

const begin =
  "begin; set local lock_timeout = 5000; set local statement_timeout = 30000; set local idle_in_transaction_session_timeout = 5000";
const runColumns = [
  ...["namespace_id", "run_key", "run_id", "parent_key", "root_key", "depth", "conversation_id"],
  ...["spec", "fork_key", "fork_run_seq", "create_time_ms", "epoch", "state", "last_run_seq"],
  ...["last_event_seq", "last_seq", "event_bytes", "result", "end_time_ms", "cancel_reason"],
  ...["cancel_descendants", "node_key"],
];
const mutable = ["epoch", "state", "last_run_seq", "last_event_seq", "last_seq", "event_bytes"];
const upsertRun = `insert into runs (${runColumns.join(", ")})
  values (${runColumns.map((_, i) => `$${i + 1}`).join(", ")})
  on conflict (namespace_id, run_key) do update
  set ${mutable.map((name) => `${name} = excluded.${name}`).join(", ")}`;

function insertRecords(rows: number): string {
  const row = (at: number) =>
    `(${Array.from({ length: 9 }, (_, i) => `$${at * 9 + i + 1}`).join(", ")})`;
  return `insert into records values ${Array.from({ length: rows }, (_, at) => row(at)).join(", ")}`;
}

/** A client that has its namespace and its run. */
export class BareClient {
  readonly #client: pg.Client;
  readonly #commit: BareCommit;

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
    const { namespace, runId, records, eventsPerRecord, recordBytes } = this.#commit;
    const client = this.#client;
    const begun = client.query(begin);
    const { rows } = await client.query<{ namespace_id: number; last_seq: number }>({
      name: "lock",
      text: "update namespaces set last_seq = last_seq where name = $1 returning *",
      values: [namespace],
    });
    await begun;
    const { namespace_id: id, last_seq: lastSeq } = rows[0]!;
    const found = await client.query<{ run_key: number }>({
      name: "find",
      text: "select * from runs where namespace_id = $1 and run_id in ($2) and not exists (select 1 from deletions d where d.namespace_id = runs.namespace_id and d.root_key = runs.root_key)",
      values: [id, runId],
    });
    const runKey = found.rows[0]?.run_key ?? lastSeq + 1;
    const endSeq = lastSeq + records * eventsPerRecord;
    const run = [
      ...[id, runKey, runId, null, runKey, 0, "", Buffer.alloc(0), null, null, 0, 1, 1, endSeq],
      ...[endSeq, endSeq, 0, null, null, null, 0, 0],
    ];
    const values: unknown[] = [];
    const data = randomBytes(recordBytes);
    for (let i = 1; i <= records; i++) {
      const seq = lastSeq + i * eventsPerRecord;
      values.push(id, seq, eventsPerRecord, runKey, runKey, seq, "token", recordBytes, data);
    }
    const update =
      "update namespaces set last_seq = $1, last_time_ms = $2, run_count = $3, running_count = $4, event_bytes = $5 where namespace_id = $6";
    await client.query({ name: "upsert", text: upsertRun, values: run });
    await client.query({ name: `records-${records}`, text: insertRecords(records), values });
    await client.query({ name: "update", text: update, values: [endSeq, 0, 1, 1, 0, id] });
    await client.query("commit");
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
