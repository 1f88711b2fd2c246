/** Queries that are compiled once, over real databases. */
import assert from "node:assert/strict";
import Database from "better-sqlite3";
import { Kysely, SqliteDialect } from "kysely";
import { compileOnce } from "../../src/journal/compile-once.ts";
import type { Schema } from "../../src/journal/schema.ts";

interface Asked {
  readonly names: readonly string[];
  readonly after: number;
}

describe("a query that is compiled once", () => {
  const opened: Kysely<Schema>[] = [];
  const open = async (...names: string[]) => {
    const database = new Database(":memory:");
    const db = new Kysely<Schema>({ dialect: new SqliteDialect({ database }) });
    opened.push(db);
    await db.schema
      .createTable("namespaces")
      .addColumn("namespace_id", "integer")
      .addColumn("name", "text")
      .execute();
    for (const [i, name] of names.entries()) {
      database.prepare("insert into namespaces values (?, ?)").run(i + 1, name);
    }
    return db;
  };
  let built = 0;
  const find = compileOnce((db, { names, after }: Asked) => {
    built++;
    return db
      .selectFrom("namespaces")
      .select("name")
      .where("name", "in", names)
      .where("namespace_id", ">", after)
      .where("name", "<>", "never")
      .orderBy("namespace_id");
  });

  beforeEach(() => (built = 0));

  afterEach(async () => {
    for (const db of opened.splice(0)) await db.destroy();
  });

  it("takes the arguments of each execution, and keeps its own constants", async () => {
    const db = await open("a", "b", "c", "never");
    const namesOf = async (args: Asked) => (await find(db, args)).map((row) => row.name);
    assert.deepEqual(await namesOf({ names: ["a", "c"], after: 0 }), ["a", "c"]);
    assert.deepEqual(await namesOf({ names: ["b", "never"], after: 0 }), ["b"]);
    assert.deepEqual(await namesOf({ names: ["c", "a"], after: 1 }), ["c"]);
    assert.equal(built, 1);
  });

  it("is built once for each length of a list, and for each database", async () => {
    const [one, other] = [await open("a"), await open("a")];
    for (const db of [one, other, one]) {
      for (const names of [["a"], ["a", "b"], ["b", "a"]]) {
        assert.deepEqual(await find(db, { names, after: 0 }), [{ name: "a" }]);
      }
    }
    assert.equal(built, 4);
  });

  it("runs in a transaction of its database as it was built outside, and sees its writes", async () => {
    const db = await open("a");
    assert.equal((await find(db, { names: ["b"], after: 0 })).length, 0);
    await db.transaction().execute(async (tx) => {
      await tx.updateTable("namespaces").set({ name: "b" }).execute();
      assert.equal((await find(tx, { names: ["b"], after: 0 })).length, 1);
    });
    assert.equal(built, 1);
  });
});
