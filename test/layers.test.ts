/**
 * The layers import only what .dependency-cruiser.mjs allows. dependency-cruiser
 * skips TypeScript without a word where it finds no compiler that it knows, so
 * the tests first look whether it saw the sources at all.
 */
import assert from "node:assert/strict";
import { existsSync } from "node:fs";
import { join } from "node:path";
import { cruise, type ICruiseResult } from "dependency-cruiser";
import extractDepcruiseOptions from "dependency-cruiser/config-utl/extract-depcruise-options";

const root = join(import.meta.dirname, "..");

async function cruiseSources(): Promise<ICruiseResult> {
  const options = await extractDepcruiseOptions(join(root, ".dependency-cruiser.mjs"));
  const folders = ["src", "demo", "robustness", "test"].filter((name) =>
    existsSync(join(root, name)),
  );
  const { output } = await cruise(folders, { ...options, baseDir: root });
  assert.ok(typeof output === "object", "dependency-cruiser answered with text");
  return output;
}

describe("layers", () => {
  let result: ICruiseResult;

  before(async () => {
    result = await cruiseSources();
  });

  it("are seen by the check, with the imports of their TypeScript", () => {
    const sources = result.modules.map((module) => module.source);
    const layers = ["wire", "journal", "ingest", "delivery", "maintenance"];
    for (const layer of [...layers, "server", "server/http", "client", "cli"]) {
      assert.ok(
        sources.some((source) => source.startsWith(`src/${layer}/`)),
        `no module of src/${layer} was seen`,
      );
    }
    const imports = result.modules
      .filter((module) => module.source.startsWith("src/journal/"))
      .flatMap((module) => module.dependencies.map((dependency) => dependency.module));
    assert.ok(imports.includes("kysely"), "the imports of src/journal were not seen");
  });

  it("import only what their rules allow", () => {
    const violations = result.summary.violations.map(
      ({ rule, from, to, cycle }) =>
        `${rule.name}: ${[from, ...(cycle?.map((step) => step.name) ?? [to])].join(" -> ")}`,
    );
    assert.ok(violations.length === 0, `\n  ${violations.join("\n  ")}\n`);
  });
});
