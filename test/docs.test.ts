import assert from "node:assert/strict";
import { readFile } from "node:fs/promises";

interface Reference {
  readonly tag: string;
  readonly file: string;
  readonly title: string;
}

/** The tags in the text, and the tests that they stand for. */
function parse(page: string): { used: Set<string>; tests: Reference[] } {
  const [text = "", table = ""] = page.split("\n## Tests\n");
  const used = new Set([...text.matchAll(/\[([A-Z]\d+)\]/g)].map(([, tag]) => tag!));
  const tests = [...table.matchAll(/^\| ([A-Z]\d+) \| (\S+) \| (.+) \|$/gm)].map(
    ([, tag, file, title]) => ({ tag: tag!, file: file!, title: title! }),
  );
  return { used, tests };
}

describe("docs/protocol.md", () => {
  it("names a test that exists for every statement", async () => {
    const page = await readFile(new URL("../docs/protocol.md", import.meta.url), "utf8");
    const { used, tests } = parse(page);
    assert.ok(tests.length > 50);
    assert.deepEqual(
      tests.map(({ tag }) => tag).toSorted(),
      [...used].toSorted(),
      "every tag stands for one test, and every test for something",
    );
    for (const { tag, file, title } of tests) {
      const source = await readFile(new URL(file, import.meta.url), "utf8");
      const titles = [...source.matchAll(/\bit\(\s*(["`])(.*?)\1,/gs)].map(([, , name]) => name!);
      assert.ok(
        titles.some((name) => name.includes(title)),
        `${tag}: ${file} has no test "${title}"`,
      );
    }
  });
});
