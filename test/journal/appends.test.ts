/** Commits in one go, on every database. */
import assert from "node:assert/strict";
import { mkdtemp, rm } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import Database from "better-sqlite3";
import fc from "fast-check";
import type { Journal } from "../../src/journal/journal.ts";
import {
  findNamespace,
  lockNamespace,
  type NamespaceRow,
  updateNamespace,
} from "../../src/journal/namespaces.ts";
import { openJournal } from "../../src/journal/open.ts";
import { insertRecords } from "../../src/journal/records.ts";
import { updateRuns } from "../../src/journal/runs.ts";
import { defaultLimits } from "../../src/limits.ts";
import {
  appendAfter,
  appendOf,
  changes,
  newNamespace,
  someAppend,
  stored,
} from "../support/appends.ts";
import { describeJournal } from "../support/journals.ts";

describeJournal("appends in one go", (open) => {
  let journal: Journal;
  let remove: () => Promise<void>;
  let namespace: NamespaceRow;

  before(async () => {
    ({ journal, remove } = await open());
  });

  after(() => remove());

  let count = 0;

  beforeEach(async () => {
    namespace = await newNamespace(journal, `ns ${++count}`);
  });

  it("write the same as a transaction, whatever it is", async () => {
    await fc.assert(
      fc.asyncProperty(changes, async (what) => {
        const other = await newNamespace(journal, `other ${++count}`);
        namespace = await newNamespace(journal, `one ${count}`);
        const append = appendOf(what);
        assert.equal(await journal.append!(append(namespace)), true);
        await journal.write(async (tx) => {
          const { namespace_id: id } = (await lockNamespace(tx, other.name))!;
          const { changed, records, change } = append(other);
          await updateRuns(tx, changed);
          await insertRecords(tx, records);
          await updateNamespace(tx, id, change);
        });
        assert.deepEqual(await stored(journal, namespace), await stored(journal, other));
      }),
      { numRuns: 60 },
    );
  });

  it("write nothing where the namespace has changed since", async () => {
    await journal.write((tx) => lockNamespace(tx, namespace.name));
    const before = await stored(journal, namespace);
    assert.equal(await journal.append!(someAppend(namespace)), false);
    assert.deepEqual(await stored(journal, namespace), before);
  });

  it("take effect in the order in which they are asked for, before they are answered", async () => {
    const appends = [someAppend(namespace)];
    while (appends.length < 50) appends.push(appendAfter(appends.at(-1)!));
    const answers = await Promise.all(appends.map((one) => journal.append!(one)));
    assert.deepEqual(new Set(answers), new Set([true]));
    assert.equal(
      (await findNamespace(journal.db, namespace.name))?.version,
      namespace.version + 50,
    );
  });

  it("write nothing behind an append that was not written, though its version is there", async () => {
    const first = someAppend(namespace);
    // Somebody else's commit, of as many events.
    await journal.write(async (tx) => {
      const { namespace_id: id } = (await lockNamespace(tx, namespace.name))!;
      const { last_seq } = first.change;
      await updateNamespace(tx, id, { last_seq });
    });
    const appends = [first, appendAfter(first)];
    const answers = await Promise.all(appends.map((one) => journal.append!(one)));
    assert.deepEqual(answers, [false, false]);
    assert.deepEqual((await stored(journal, namespace)).records, []);
  });

  it("write nothing of what the database refuses, and leave the next ones alone", async () => {
    const first = someAppend(namespace);
    const [record] = first.records;
    const twice = { ...first, records: [record!, record!] };
    assert.equal(await journal.append!(twice).catch(() => false), false);
    assert.deepEqual((await stored(journal, namespace)).records, []);
    assert.equal(await journal.append!(first), true);
    assert.equal(await journal.append!(appendAfter(first)), true);
    assert.equal((await stored(journal, namespace)).records.length, 2);
  });

  it("take turns with transactions, whichever comes first", async () => {
    const other = await newNamespace(journal, `other ${count}`);
    let last = someAppend(namespace);
    const appended = [journal.append!(last)];
    const transactions = Array.from({ length: 10 }, () => {
      last = appendAfter(last);
      appended.push(journal.append!(last));
      return journal.write(async (tx) => {
        await lockNamespace(tx, other.name);
        return (await findNamespace(tx, other.name))?.version;
      });
    });
    assert.deepEqual(new Set(await Promise.all(appended)), new Set([true]));
    assert.deepEqual(
      (await Promise.all(transactions)).toSorted(),
      transactions.map((_, index) => other.version + 1 + index).toSorted(),
    );
  });
});

describe("an append in one go to a SQLite file that somebody else has written", () => {
  it("writes nothing and tells it, once; the next one takes effect", async () => {
    const directory = await mkdtemp(join(tmpdir(), "runlog-appends-"));
    const file = join(directory, "journal.db");
    const journal = await openJournal(`sqlite:${file}`, defaultLimits);
    try {
      const namespace = await newNamespace(journal, "ns");
      let told = 0;
      journal.onForeignWrite?.(() => told++);
      const tool = new Database(file);
      tool.prepare("update namespaces set retention_ms = 1").run();
      tool.close();
      const append = someAppend(namespace);
      assert.equal(await journal.append!(append), false);
      assert.equal(told, 1);
      assert.deepEqual((await stored(journal, namespace)).records, []);
      assert.equal(await journal.append!(append), true);
      assert.equal(told, 1);
    } finally {
      await journal.close();
      await rm(directory, { recursive: true });
    }
  });
});
