/** Commits that read nothing, made by hand, and what they leave in a journal. */
import fc from "fast-check";
import type { Append, Journal } from "../../src/journal/journal.ts";
import { insertNamespace, lockNamespace, type NamespaceRow } from "../../src/journal/namespaces.ts";
import type { NewRecord } from "../../src/journal/records.ts";
import { insertRuns, type RunRow } from "../../src/journal/runs.ts";

/** A run of a namespace as it is before any append. */
export function runOf(namespaceId: number, key: number): RunRow {
  return {
    namespace_id: namespaceId,
    run_key: key,
    run_id: `run ${key}`,
    parent_key: null,
    root_key: key,
    depth: 0,
    conversation_id: "",
    spec: Buffer.from([1]),
    fork_key: null,
    fork_run_seq: null,
    create_time_ms: 1,
    epoch: 1,
    state: 1,
    last_run_seq: 0,
    last_event_seq: 0,
    last_seq: key,
    event_bytes: 0,
    result: null,
    end_time_ms: null,
    cancel_reason: null,
    cancel_request: 0,
    cancel_descendants: 0,
    node_key: 1,
    producer_id: null,
    producer_attempt: null,
    last_signal_seq: 0,
    handled_signal_seq: 0,
    waiting: null,
    wait_deadline_ms: null,
    agent_id: "",
  };
}

const bytes = fc.uint8Array({ maxLength: 300 }).map((array) => Buffer.from(array));

/** What may come of a commit, with seqs from 1,000 on. */
export const changes = fc.record({
  runs: fc.uniqueArray(
    fc.record({
      run_key: fc.integer({ min: 1, max: 70 }),
      epoch: fc.nat(),
      state: fc.integer({ min: 1, max: 6 }),
      last_run_seq: fc.maxSafeNat(),
      result: fc.option(bytes),
      end_time_ms: fc.option(fc.maxSafeNat()),
    }),
    { selector: (run) => run.run_key, maxLength: 64 },
  ),
  records: fc.array(
    fc.record({
      run_key: fc.integer({ min: 1, max: 70 }),
      event_count: fc.integer({ min: 1, max: 1_000 }),
      types: fc.constantFrom("", "token", "token\nä"),
      data: bytes,
    }),
    { maxLength: 64 },
  ),
});

export type Changes = typeof changes extends fc.Arbitrary<infer T> ? T : never;

/** Creates a namespace with 70 runs. */
export function newNamespace(journal: Journal, name: string): Promise<NamespaceRow> {
  return journal.write(async (tx) => {
    await insertNamespace(tx, name, 1);
    const locked = (await lockNamespace(tx, name))!;
    const runs = Array.from({ length: 70 }, (_, key) => runOf(locked.namespace_id, key + 1));
    await insertRuns(tx, runs);
    return locked;
  });
}

/** What appends these changes to a namespace. */
export function appendOf({ runs, records }: Changes): (known: NamespaceRow) => Append {
  let seq = 1_000;
  const rows = records.map((record): NewRecord => {
    seq += record.event_count;
    const { run_key: root_key, data } = record;
    const first_run_seq = seq;
    return {
      ...record,
      namespace_id: 0,
      last_seq: seq,
      root_key,
      first_run_seq,
      size: data.length,
      checksum: null,
    };
  });
  return (known: NamespaceRow): Append => ({
    namespace: known,
    change: {
      last_seq: seq,
      last_time_ms: 2,
      run_count: 3,
      running_count: 4,
      event_bytes: 5,
      taken_count: 6,
      waiting_count: 8,
      signal_count: 9,
      append_id: 7,
    },
    changed: runs.map((run) => ({ ...runOf(known.namespace_id, run.run_key), ...run })),
    appended: [],
    records: rows.map((row) => ({ ...row, namespace_id: known.namespace_id })),
  });
}

/** All that is stored of a namespace, without its key. */
export async function stored({ db }: Journal, { namespace_id: id }: NamespaceRow) {
  const of = { namespace_id: 0, name: "" };
  const namespaces = db.selectFrom("namespaces").where("namespace_id", "=", id).selectAll();
  const runs = db.selectFrom("runs").where("namespace_id", "=", id).selectAll();
  const records = db.selectFrom("records").where("namespace_id", "=", id).selectAll();
  return {
    namespaces: (await namespaces.execute()).map((row) => ({ ...row, ...of })),
    runs: (await runs.orderBy("run_key").execute()).map((row) => ({ ...row, ...of })),
    records: (await records.orderBy("last_seq").execute()).map((row) => ({ ...row, ...of })),
  };
}

const some: NewRecord = {
  namespace_id: 0,
  last_seq: 2_000,
  event_count: 1,
  run_key: 1,
  root_key: 1,
  first_run_seq: 1,
  types: "token",
  size: 1,
  data: Buffer.from([7]),
  checksum: null,
};
/** An append of one event. */
export function someAppend(known: NamespaceRow): Append {
  const { namespace_id } = known;
  return { ...appendOf({ runs: [], records: [] })(known), records: [{ ...some, namespace_id }] };
}

/** An append of one event behind another one. */
export function appendAfter(before: Append): Append {
  const namespace_id = before.namespace.namespace_id;
  const { change } = before;
  const seq = change.last_seq + 1;
  return {
    namespace: { ...before.namespace, ...change, version: before.namespace.version + 1 },
    change: { ...change, last_seq: seq, append_id: change.append_id + 1 },
    changed: [],
    appended: [],
    records: [{ ...some, namespace_id, last_seq: seq }],
  };
}
