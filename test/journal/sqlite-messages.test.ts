/** What the thread that writes is sent arrives as it was. */
import assert from "node:assert/strict";
import fc from "fast-check";
import { pack, type Statement, ValueReader } from "../../src/journal/sqlite/messages.ts";

const values = fc.oneof(
  fc.constant(null),
  fc.double(),
  fc.integer(),
  fc.maxSafeInteger(),
  fc.string(),
  fc.string({ unit: "binary" }),
  fc.uint8Array({ maxLength: 300 }).map((bytes) => Buffer.from(bytes)),
);
const columns = ["a", "b", "c"];
const statements: fc.Arbitrary<Statement> = fc.oneof(
  fc.record({ text: fc.constant("one"), parameters: fc.array(values, { maxLength: 4 }) }),
  fc.record({
    text: fc.constant("many"),
    columns: fc.constant(columns),
    rows: fc.array(fc.record({ a: values, b: values, c: values }), { maxLength: 40 }),
  }),
);

function rowsOf(statement: Statement): readonly (readonly unknown[])[] {
  if ("parameters" in statement) return [statement.parameters];
  return statement.rows.map((row) => statement.columns.map((column) => row[column]));
}

describe("values on their way to SQLite's thread", () => {
  it("arrive as they were, whatever buffer they travel in", () => {
    fc.assert(
      fc.property(fc.array(statements, { maxLength: 6 }), fc.nat(5_000), (some, bytes) => {
        const packed = pack(some, bytes === 0 ? undefined : new ArrayBuffer(bytes));
        const reader = new ValueReader(packed.values);
        for (const [index, { text, rowCount, width }] of packed.statements.entries()) {
          const rows: unknown[][] = [];
          for (let n = 0; n < rowCount; n++) {
            const row = new Array<unknown>(width);
            reader.readInto(row);
            rows.push(row);
          }
          assert.equal(text, some[index]!.text);
          assert.deepEqual(rows, rowsOf(some[index]!));
        }
      }),
    );
  });

  it("that SQLite has no type for are refused", () => {
    for (const value of [undefined, true, {}, 1n]) {
      assert.throws(() => pack([{ text: "t", parameters: [value] }], undefined), TypeError);
    }
  });
});
