/** docs/limits.md says what the code has. */
import assert from "node:assert/strict";
import { readFile, writeFile } from "node:fs/promises";
import { fileURLToPath } from "node:url";
import { limitsTable } from "./support/limits-table.ts";

const file = fileURLToPath(new URL("../docs/limits.md", import.meta.url));

describe("docs/limits.md", () => {
  it("has every limit as the code has it", async () => {
    const text = await readFile(file, "utf8");
    const [all, start, , end] =
      /^(.*<!-- limits -->\n)(.*?)(<!-- \/limits -->\n.*)$/s.exec(text) ?? [];
    assert.ok(all !== undefined, "the marks around the table are missing");
    const expected = `${start}\n${limitsTable()}\n\n${end}`;
    // UPDATE_DOCS=1 writes the table instead of comparing it.
    if (process.env["UPDATE_DOCS"]) await writeFile(file, expected);
    else assert.equal(text, expected, "UPDATE_DOCS=1 writes the table");
  });
});
