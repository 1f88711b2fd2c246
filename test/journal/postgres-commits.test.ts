/** The two ways to commit to PostgreSQL: a transaction, and one statement that is one. */
import assert from "node:assert/strict";
import fc from "fast-check";
import { sql } from "kysely";
import type { Append, Journal } from "../../src/journal/journal.ts";
import {
  findNamespace,
  insertNamespace,
  lockNamespace,
  type NamespaceRow,
  updateNamespace,
} from "../../src/journal/namespaces.ts";
import { openJournal } from "../../src/journal/open.ts";
import { insertRecords, type NewRecord } from "../../src/journal/records.ts";
import { insertRuns, type RunRow, updateRuns } from "../../src/journal/runs.ts";
import { defaultLimits } from "../../src/limits.ts";
import { giveBackDatabase, takeDatabase } from "../support/postgres.ts";

const settings = { ...defaultLimits, lockTimeoutMs: 1_000 };

function runOf(namespaceId: number, key: number): RunRow {
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
const changes = fc.record({
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

type Changes = typeof changes extends fc.Arbitrary<infer T> ? T : never;

describe("commits to PostgreSQL", () => {
  let url: string;
  let journal: Journal;
  let namespace: NamespaceRow;

  before(async () => {
    url = await takeDatabase();
    journal = await openJournal(url, settings);
  });

  after(async () => {
    await journal.close();
    await giveBackDatabase(url);
  });

  /** A namespace with 70 runs. */
  async function newNamespace(name: string): Promise<NamespaceRow> {
    return journal.write(async (tx) => {
      await insertNamespace(tx, name, 1);
      const locked = (await lockNamespace(tx, name))!;
      const runs = Array.from({ length: 70 }, (_, key) => runOf(locked.namespace_id, key + 1));
      await insertRuns(tx, runs);
      return locked;
    });
  }

  beforeEach(async () => {
    await sql`truncate namespaces, runs, records`.execute(journal.db);
    namespace = await newNamespace("ns");
  });

  function appendOf({ runs, records }: Changes) {
    let seq = 1_000;
    const rows = records.map((record): NewRecord => {
      seq += record.event_count;
      const { namespace_id } = namespace;
      const { run_key: root_key, data } = record;
      const first_run_seq = seq;
      return { ...record, namespace_id, last_seq: seq, root_key, first_run_seq, size: data.length };
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
      runs: runs.map((run) => ({ ...runOf(known.namespace_id, run.run_key), ...run })),
      records: rows.map((row) => ({ ...row, namespace_id: known.namespace_id })),
    });
  }

  /** All that is stored of a namespace, without its key. */
  async function stored({ namespace_id: id }: NamespaceRow) {
    const of = { namespace_id: 0, name: "" };
    const { db } = journal;
    const namespaces = db.selectFrom("namespaces").where("namespace_id", "=", id).selectAll();
    const runs = db.selectFrom("runs").where("namespace_id", "=", id).selectAll();
    const records = db.selectFrom("records").where("namespace_id", "=", id).selectAll();
    return {
      namespaces: (await namespaces.execute()).map((row) => ({ ...row, ...of })),
      runs: (await runs.orderBy("run_key").execute()).map((row) => ({ ...row, ...of })),
      records: (await records.orderBy("last_seq").execute()).map((row) => ({ ...row, ...of })),
    };
  }

  const some: Append["records"] = [
    {
      namespace_id: 0,
      last_seq: 2_000,
      event_count: 1,
      run_key: 1,
      root_key: 1,
      first_run_seq: 1,
      types: "token",
      size: 1,
      data: Buffer.from([7]),
    },
  ];
  const someAppend = (): Append => ({
    ...appendOf({ runs: [], records: [] })(namespace),
    records: some.map((row) => ({ ...row, namespace_id: namespace.namespace_id })),
  });

  it("write the same in one statement as in a transaction, whatever it is", async () => {
    let count = 0;
    await fc.assert(
      fc.asyncProperty(changes, async (what) => {
        const other = await newNamespace(`other ${++count}`);
        namespace = await newNamespace(`one ${count}`);
        const append = appendOf(what);
        assert.equal(await journal.append!(append(namespace)), true);
        await journal.write(async (tx) => {
          const { namespace_id: id } = (await lockNamespace(tx, other.name))!;
          const { runs, records, change } = append(other);
          await updateRuns(tx, runs);
          await insertRecords(tx, records);
          await updateNamespace(tx, id, change);
        });
        assert.deepEqual(await stored(namespace), await stored(other));
      }),
      { numRuns: 60 },
    );
  });

  it("write nothing in one statement where the namespace has changed since", async () => {
    await journal.write((tx) => lockNamespace(tx, "ns"));
    const before = await stored(namespace);
    assert.equal(await journal.append!(someAppend()), false);
    assert.deepEqual(await stored(namespace), before);
  });

  it("leave to a transaction what has too many rows for one statement", async () => {
    const { namespace_id: id } = namespace;
    const runs = Array.from({ length: 65 }, (_, key) => runOf(id, key + 1));
    assert.equal(await journal.append!({ ...someAppend(), runs }), false);
    const [row] = someAppend().records;
    const records = Array.from({ length: 65 }, (_, seq) => ({ ...row!, last_seq: 2_000 + seq }));
    assert.equal(await journal.append!({ ...someAppend(), records }), false);
    assert.deepEqual((await stored(namespace)).records, []);
  });

  /** An append that has to wait for another transaction, which then ends by `end`. */
  async function appendBehind(end: () => void): Promise<boolean> {
    let appended: Promise<boolean> | undefined;
    const other = journal.write(async (tx) => {
      await lockNamespace(tx, "ns");
      appended = journal.append!(someAppend());
      // Until it waits for the lock.
      for (;;) {
        const { rows } = await sql`select 1 from pg_locks where not granted`.execute(tx);
        if (rows.length > 0) break;
      }
      end();
    });
    await other.catch(() => undefined);
    return appended!;
  }

  it("write nothing in one statement that has waited for another commit", async () => {
    assert.equal(await appendBehind(() => undefined), false);
    assert.deepEqual((await stored(namespace)).records, []);
  });

  it("write in one statement that has waited for what was rolled back", async () => {
    const rollBack = () => {
      throw new Error("rolled back");
    };
    assert.equal(await appendBehind(rollBack), true);
    assert.equal((await stored(namespace)).records.length, 1);
    assert.equal((await findNamespace(journal.db, "ns"))?.version, namespace.version + 1);
  });

  /** An append of one event behind another one. */
  function appendAfter(before: Append): Append {
    const namespace_id = before.namespace.namespace_id;
    const { change } = before;
    const seq = change.last_seq + 1;
    return {
      namespace: { ...before.namespace, ...change, version: before.namespace.version + 1 },
      change: { ...change, last_seq: seq, append_id: change.append_id + 1 },
      runs: [],
      records: [{ ...some[0]!, namespace_id, last_seq: seq }],
    };
  }

  it("take effect in the order in which they are asked for, before they are answered", async () => {
    const appends = [someAppend()];
    while (appends.length < 50) appends.push(appendAfter(appends.at(-1)!));
    const answers = await Promise.all(appends.map((one) => journal.append!(one)));
    assert.deepEqual(new Set(answers), new Set([true]));
    assert.equal((await findNamespace(journal.db, "ns"))?.version, namespace.version + 50);
  });

  it("let others have a connection, however much there is to append to one namespace", async () => {
    const other = await newNamespace("other");
    const narrow = await openJournal(url, { ...settings, databaseConnections: 1 });
    try {
      let last = someAppend();
      const underWay = [narrow.append!(last)];
      const appendNext = () => {
        last = appendAfter(last);
        underWay.push(narrow.append!(last));
      };
      // So many that there is always one under way.
      while (underWay.length < 50) appendNext();
      let isDone = false;
      const others = narrow
        .write((tx) => lockNamespace(tx, other.name))
        .finally(() => {
          isDone = true;
        });
      for (let count = 0; !isDone; count++) {
        assert.ok(count < 2_000, "nobody else had a turn");
        appendNext();
        assert.equal(await underWay.shift(), true);
      }
      await others;
      assert.deepEqual(new Set(await Promise.all(underWay)), new Set([true]));
    } finally {
      await narrow.close();
    }
  });

  it("write nothing behind an append that was not written, though its version is there", async () => {
    const first = someAppend();
    // Somebody else's commit, of as many events.
    await journal.write(async (tx) => {
      const { namespace_id: id } = (await lockNamespace(tx, "ns"))!;
      const { last_seq } = first.change;
      await updateNamespace(tx, id, { last_seq });
    });
    const appends = [first, appendAfter(first)];
    const answers = await Promise.all(appends.map((one) => journal.append!(one)));
    assert.deepEqual(answers, [false, false]);
    assert.deepEqual((await stored(namespace)).records, []);
  });

  it("leave everything to transactions where the server does not have such a statement", async () => {
    const other = await openJournal(url, settings);
    try {
      // PostgreSQL refuses it on a table with such a rule.
      await sql`create rule extra as on insert to records do also notify nobody`.execute(other.db);
      try {
        assert.equal(await other.append!(someAppend()), false);
      } finally {
        await sql`drop rule extra on records`.execute(other.db);
      }
      assert.equal(await other.append!(someAppend()), false);
      assert.equal(await journal.append!(someAppend()), true);
    } finally {
      await other.close();
    }
  });

  it("say why a statement failed that was not waited for", async () => {
    const twice = journal.write(async (tx) => {
      await lockNamespace(tx, "ns");
      const { records } = someAppend();
      await insertRecords(tx, records);
      await insertRecords(tx, records);
      await updateNamespace(tx, namespace.namespace_id, { last_seq: 1 });
    });
    await assert.rejects(twice, { code: "23505" });
    assert.deepEqual((await stored(namespace)).records, []);
  });
});
