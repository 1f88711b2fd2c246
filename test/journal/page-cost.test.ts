/**
 * What a page costs in the database: the query plans, and the pages that SQLite
 * reads from the file, counted by the kernel. One family of 100 events lies
 * scattered among a million others.
 */
import assert from "node:assert/strict";
import { statSync } from "node:fs";
import { mkdtemp, rm } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import Database from "better-sqlite3";
import { Kysely, SqliteDialect } from "kysely";
import { readEvents } from "../../src/delivery/read-events.ts";
import { TypeFilter } from "../../src/delivery/type-filter.ts";
import { JournalFormat, ownFormat } from "../../src/journal/formats.ts";
import { History } from "../../src/journal/history.ts";
import type { Journal } from "../../src/journal/journal.ts";
import { openJournal } from "../../src/journal/open.ts";
import type { Direction, RecordScope, SeqRange } from "../../src/journal/pages/keys.ts";
import { rangeAfter, readPage } from "../../src/journal/pages/read-page.ts";
import { findSeqBefore } from "../../src/journal/record-times.ts";
import type { Schema } from "../../src/journal/schema.ts";
import { defaultLimits } from "../../src/limits.ts";
import { append, engineOver, eventOf, openRun } from "../support/engine.ts";
import {
  type Built,
  bounds,
  build,
  bytesReadByProcess,
  costOf,
  crowd,
  factCount,
  family,
  fullScans,
  strangerEvents,
  strangers,
} from "./large-journal.ts";

const directions: readonly Direction[] = ["forward", "backward"];

describe("a page's cost", () => {
  let large: Built;
  let small: Built;

  before(async function () {
    if (process.platform !== "linux") {
      console.error("SKIPPED: pages read are counted by Linux's /proc/self/io");
      this.skip();
    }
    large = await build(true);
    small = await build(false);
  });

  after(async () => {
    for (const built of [large, small]) await rm(built.directory, { recursive: true });
  });

  const descendantsOf = (built: Built, ancestorKey: number): RecordScope => ({
    kind: "descendants",
    rootKey: built.tree,
    ancestorKey,
    minDepth: 0,
    maxDepth: Number.MAX_SAFE_INTEGER,
  });

  for (const direction of directions) {
    it(`follows a family of 100 events, not the ${strangerEvents} others around it, ${direction}`, async () => {
      const page = { direction };
      const among = await costOf(large.file, descendantsOf(large, large.family), page);
      const alone = await costOf(small.file, descendantsOf(small, small.family), page);
      assert.equal(among.records, alone.records);
      assert.equal(among.records, 1 + family.runs + family.eventsPerRun * family.runs);
      assert.deepEqual(fullScans(among.plans), []);
      // A page of its own for each record and each index entry at the worst, and the way down the trees.
      assert.ok(
        among.pages <= 4 * among.records,
        `${among.pages} pages for ${among.records} records`,
      );
      console.log(
        `      ${among.records} records: ${among.pages} pages of 4 KiB among ${large.lastSeq} events, ${alone.pages} alone`,
      );
      for (const plan of among.plans) console.log(`      ${plan}`);
    });

    it(`follows a family of many runs with little to say, in a tree that says much, ${direction}`, async () => {
      const middle = Math.floor(large.lastSeq / 2);
      const fromMiddle = direction === "forward" ? { afterSeq: middle } : { upToSeq: middle };
      for (const part of [{}, fromMiddle]) {
        const page = { direction, ...part };
        const among = await costOf(large.file, descendantsOf(large, large.crowd), page);
        assert.ok(among.records > 0);
        assert.deepEqual(fullScans(among.plans), []);
        const whole = Math.ceil(statSync(large.file).size / 4096);
        assert.ok(among.pages * 20 < whole, `${among.pages} pages of ${whole}`);
        console.log(
          `      ${among.records} records: ${among.pages} pages; the whole journal has ${whole}`,
        );
      }
    });
  }

  for (const direction of directions) {
    it(`is that of the page for one run, wherever in it the page lies, ${direction}`, async () => {
      const scope: RecordScope = { kind: "runs", runKeys: [large.strangerKeys[7]!] };
      const middle = Math.floor(large.lastSeq / 2);
      for (const part of [{}, { afterSeq: middle }, { upToSeq: middle }]) {
        const page = { direction, maxRecords: 10, ...part };
        const { records, pages, plans } = await costOf(large.file, scope, page);
        assert.equal(records, 10);
        assert.deepEqual(fullScans(plans), []);
        assert.deepEqual(
          plans.filter((plan) => plan.includes("TEMP B-TREE")),
          [],
        );
        assert.ok(pages <= 4 * records, `${pages} pages for ${records} records`);
      }
    });
  }

  it("reads the same records in both directions, whichever way a scope is read", async () => {
    const connection = new Database(large.file, { readonly: true });
    const db = new Kysely<Schema>({ dialect: new SqliteDialect({ database: connection }) });
    const keysOf = async (scope: RecordScope, direction: Direction): Promise<number[]> => {
      const keys: number[] = [];
      let range: SeqRange = { afterSeq: 0, upToSeq: large.lastSeq };
      while (range.afterSeq < range.upToSeq) {
        const page = { ...bounds, direction, ...range, maxRecords: 50 };
        const { records, reachSeq } = await readPage(db, 1, scope, page);
        keys.push(...records.map((record) => record.last_seq));
        range = rangeAfter(reachSeq, direction, range);
      }
      return keys;
    };
    try {
      const scopes: readonly (readonly [RecordScope, number])[] = [
        // Merged run by run; scanned along the tree.
        [descendantsOf(large, large.family), 1 + family.runs * (1 + family.eventsPerRun)],
        [descendantsOf(large, large.crowd), 1 + crowd.runs * 2],
        [{ kind: "runs", runKeys: large.strangerKeys.slice(0, 20) }, 20 * (1 + strangers.rounds)],
      ];
      for (const [scope, count] of scopes) {
        const keys = await keysOf(scope, "forward");
        assert.equal(keys.length, count);
        assert.deepEqual(
          keys,
          keys.toSorted((a, b) => a - b),
        );
        assert.deepEqual(await keysOf(scope, "backward"), keys.toReversed());
      }
    } finally {
      await db.destroy();
    }
  });

  it("is bounded for ReadEvents too, where hardly anything matches", async () => {
    const connection = new Database(large.file, { readonly: true });
    const db = new Kysely<Schema>({ dialect: new SqliteDialect({ database: connection }) });
    const write = () => Promise.reject(new Error("this journal is only read"));
    const journal: Journal = {
      id: "",
      db,
      scans: db,
      format: new JournalFormat(ownFormat, false),
      history: new History(),
      write,
      reclaimSpace: () => Promise.resolve(false),
      close: () => db.destroy(),
    };
    try {
      const filter = {
        scope: { kind: "all" },
        types: TypeFilter.parse("types", ["none"]),
        kinds: undefined,
      } as const;
      const read = (seq: number) =>
        readEvents(engineOver(journal, { readPages: 1 }), {
          namespace: "default",
          filter,
          direction: "backward",
          seq,
          maxEvents: 100,
        });
      connection.prepare("select count(*) from namespaces").get();
      const before = bytesReadByProcess();
      const page = await read(0);
      const pages = Math.ceil((bytesReadByProcess() - before) / 4096);
      assert.deepEqual([page.items.length, page.end], [0, false]);
      assert.ok(page.nextSeq < large.lastSeq);
      const whole = Math.ceil(statSync(large.file).size / 4096);
      assert.ok(pages * 10 < whole, `${pages} pages of ${whole}`);
      console.log(
        `      ${large.lastSeq - page.nextSeq} events without a match: ${pages} pages of ${whole}`,
      );
      // Far below lie facts, which always match.
      let facts = 0;
      for (let at = page; !at.end; facts += at.items.length) at = await read(at.nextSeq);
      assert.equal(facts, 3 + family.runs + crowd.runs + strangers.runs);
    } finally {
      await db.destroy();
    }
  });

  for (const direction of directions) {
    it(`is that of the facts alone where no events are wanted, ${direction}`, async () => {
      const scopes: Readonly<Record<string, readonly [RecordScope, number]>> = {
        all: [{ kind: "all", exceptRoots: [] }, factCount],
        "the tree": [{ kind: "tree", rootKey: large.tree }, factCount],
        "a family, run by run": [descendantsOf(large, large.family), 1 + family.runs],
        "a family, along its tree": [descendantsOf(large, large.crowd), 1 + crowd.runs],
        "a run": [{ kind: "runs", runKeys: large.strangerKeys.slice(0, 1) }, 1],
        "100 runs": [{ kind: "runs", runKeys: large.strangerKeys.slice(0, 100) }, 100],
      };
      for (const [name, [scope, count]] of Object.entries(scopes)) {
        const page = { direction, maxRecords: 10_000, withoutEvents: true };
        const { records, pages, plans } = await costOf(large.file, scope, page);
        assert.equal(records, count, name);
        assert.deepEqual(fullScans(plans), []);
        // A page of its own for each record, and for each index entry and step down.
        assert.ok(pages <= 4 * records + 20, `${name}: ${pages} pages for ${records} facts`);
        console.log(`      ${name}: ${pages} pages for ${records} facts`);
        const late = { direction, afterSeq: large.lastSeq - 500_000, withoutEvents: true };
        const nothing = await costOf(large.file, scope, late);
        assert.equal(nothing.records, 0, "all began long before");
        assert.ok(nothing.pages <= 100, `${name}: ${nothing.pages} pages for nothing`);
        console.log(`      ${name}: ${nothing.pages} pages for none among 500,000 events`);
      }
    });
  }

  it("finds a time by a row for each halving of the journal", async () => {
    const connection = new Database(large.file, { readonly: true });
    const db = new Kysely<Schema>({ dialect: new SqliteDialect({ database: connection }) });
    try {
      connection.prepare("select count(*) from namespaces").get();
      const before = bytesReadByProcess();
      assert.equal(await findSeqBefore(db, 1, Date.now() + 1, large.lastSeq), large.lastSeq);
      assert.equal(await findSeqBefore(db, 1, 1, large.lastSeq), 0);
      const pages = Math.ceil((bytesReadByProcess() - before) / 4096);
      // Of each row the way down the tree and its own page, where those differ from the last row's.
      assert.ok(pages <= 2 * 3 * Math.ceil(Math.log2(large.lastSeq)), `${pages} pages`);
      console.log(`      ${pages} pages for two times among ${large.lastSeq} events`);
    } finally {
      await db.destroy();
    }
  });

  it("leaves out what holds no wanted type: its bytes are not read", async () => {
    const directory = await mkdtemp(join(tmpdir(), "runlog-cost-"));
    try {
      const file = join(directory, "journal.db");
      const journal = await openJournal(`sqlite:${file}`, {
        ...defaultLimits,
        lockTimeoutMs: 1_000,
      });
      const engine = engineOver(journal);
      const producer = await openRun(engine, "run");
      const token = eventOf("x".repeat(1_000), "token");
      for (let at = 0; at < 100; at++) {
        await append(engine, producer, at * 64 + 1, new Array<typeof token>(64).fill(token));
      }
      await journal.close();
      const scope: RecordScope = { kind: "tree", rootKey: 1 };
      const page = { maxBytes: 1e12 };
      const tokens = await costOf(file, scope, page);
      const facts = await costOf(file, scope, { ...page, wants: ({ types }) => types === "" });
      assert.deepEqual([tokens.records, facts.records], [101, 1]);
      assert.deepEqual(fullScans(facts.plans), []);
      assert.ok(facts.pages * 5 < tokens.pages, `${facts.pages} pages of ${tokens.pages}`);
      console.log(
        `      100 records of 64 KiB: ${facts.pages} pages unwanted, ${tokens.pages} wanted`,
      );
    } finally {
      await rm(directory, { recursive: true });
    }
  });

  it("is the same at the journal's beginning and at its end, for every scope", async () => {
    const scopes: Record<string, RecordScope> = {
      all: { kind: "all", exceptRoots: [] },
      tree: { kind: "tree", rootKey: large.tree },
      "100 run ids": { kind: "runs", runKeys: large.strangerKeys.slice(0, 100) },
    };
    for (const [name, scope] of Object.entries(scopes)) {
      for (const direction of directions) {
        const page = { direction, maxRecords: 64 };
        const costAt = (upToSeq: number) => {
          const part = direction === "forward" ? { afterSeq: upToSeq - 50_000 } : { upToSeq };
          return costOf(large.file, scope, { ...page, ...part });
        };
        const first = await costAt(50_000);
        const late = await costAt(large.lastSeq);
        const which = `${name}, ${direction}`;
        assert.equal(first.records, 64, which);
        assert.equal(late.records, 64, which);
        assert.deepEqual(fullScans([...first.plans, ...late.plans]), [], which);
        const [less, more] = [first.pages, late.pages].toSorted((a, b) => a - b) as [
          number,
          number,
        ];
        assert.ok(more <= 2 * less + 20, `${which}: ${first.pages}, then ${late.pages}`);
        console.log(
          `      ${which}: ${first.pages} pages at the beginning, ${late.pages} at the end`,
        );
      }
    }
  });
});
