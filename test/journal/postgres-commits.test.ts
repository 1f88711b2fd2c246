/** The two ways to commit to PostgreSQL: a transaction, and one statement that is one. */
import assert from "node:assert/strict";
import { sql } from "kysely";
import type { Journal } from "../../src/journal/journal.ts";
import {
  findNamespace,
  lockNamespace,
  type NamespaceRow,
  updateNamespace,
} from "../../src/journal/namespaces.ts";
import { openJournal } from "../../src/journal/open.ts";
import { insertRecords } from "../../src/journal/records.ts";
import { defaultLimits } from "../../src/limits.ts";
import { appendAfter, newNamespace, runOf, someAppend, stored } from "../support/appends.ts";
import { giveBackDatabase, takeDatabase } from "../support/postgres.ts";

const settings = { ...defaultLimits, lockTimeoutMs: 1_000 };

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

  beforeEach(async () => {
    await sql`truncate namespaces, runs, records`.execute(journal.db);
    namespace = await newNamespace(journal, "ns");
  });

  it("leave to a transaction what has too many rows for one statement", async () => {
    const { namespace_id: id } = namespace;
    const runs = Array.from({ length: 65 }, (_, key) => runOf(id, key + 1));
    assert.equal(await journal.append!({ ...someAppend(namespace), appended: runs }), false);
    const [row] = someAppend(namespace).records;
    const records = Array.from({ length: 65 }, (_, seq) => ({ ...row!, last_seq: 2_000 + seq }));
    assert.equal(await journal.append!({ ...someAppend(namespace), records }), false);
    assert.deepEqual((await stored(journal, namespace)).records, []);
  });

  /** An append that has to wait for another transaction, which then ends by `end`. */
  async function appendBehind(end: () => void): Promise<boolean> {
    let appended: Promise<boolean> | undefined;
    const other = journal.write(async (tx) => {
      await lockNamespace(tx, "ns");
      appended = journal.append!(someAppend(namespace));
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
    assert.deepEqual((await stored(journal, namespace)).records, []);
  });

  it("write in one statement that has waited for a transaction that rolled back", async () => {
    const rollBack = () => {
      throw new Error("rolled back");
    };
    assert.equal(await appendBehind(rollBack), true);
    assert.equal((await stored(journal, namespace)).records.length, 1);
    assert.equal((await findNamespace(journal.db, "ns"))?.version, namespace.version + 1);
  });

  it("let others have a connection, however much there is to append to one namespace", async () => {
    const other = await newNamespace(journal, "other");
    const narrow = await openJournal(url, { ...settings, databaseConnections: 1 });
    try {
      let last = someAppend(namespace);
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

  it("leave everything to transactions where the server does not have such a statement", async () => {
    const other = await openJournal(url, settings);
    try {
      // PostgreSQL refuses it on a table with such a rule.
      await sql`create rule extra as on insert to records do also notify nobody`.execute(other.db);
      try {
        assert.equal(await other.append!(someAppend(namespace)), false);
      } finally {
        await sql`drop rule extra on records`.execute(other.db);
      }
      assert.equal(await other.append!(someAppend(namespace)), false);
      assert.equal(await journal.append!(someAppend(namespace)), true);
    } finally {
      await other.close();
    }
  });

  it("say why a statement failed that was not waited for", async () => {
    const twice = journal.write(async (tx) => {
      await lockNamespace(tx, "ns");
      const { records } = someAppend(namespace);
      await insertRecords(tx, records);
      await insertRecords(tx, records);
      await updateNamespace(tx, namespace.namespace_id, { last_seq: 1 });
    });
    await assert.rejects(twice, { code: "23505" });
    assert.deepEqual((await stored(journal, namespace)).records, []);
  });
});
