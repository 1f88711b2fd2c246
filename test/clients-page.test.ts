import assert from "node:assert/strict";
import { readFile } from "node:fs/promises";

const root = new URL("../", import.meta.url);

/** What stands in a file, or between the two marks of a snippet in it, without its indentation. */
async function sourceOf(path: string, snippet: string | undefined): Promise<string> {
  const text = await readFile(new URL(path, root), "utf8");
  if (snippet === undefined) return text.trim();
  const [, marked] = text.split(new RegExp(`^ *(?://|#) snippet: ${snippet}\\n`, "m"));
  assert.ok(marked !== undefined, `${path} has no snippet "${snippet}"`);
  const lines = marked.split(/^ *(?:\/\/|#) snippet end$/m)[0]!.split("\n");
  const indents = lines.filter((line) => line !== "").map((line) => line.search(/\S|$/));
  const indent = Math.min(...indents);
  return lines
    .map((line) => line.slice(indent))
    .join("\n")
    .trim();
}

describe("docs/clients.md", () => {
  it("shows the code of the programs that are tested, in every language", async () => {
    const page = await readFile(new URL("docs/clients.md", root), "utf8");
    const shown = [...page.matchAll(/<!-- (\S+?)(?:: (\S+))? -->\n```\w+\n(.*?)```/gs)];
    for (const [, path, snippet, code] of shown) {
      assert.equal(code!.trim(), await sourceOf(path!, snippet), `${path}: ${snippet ?? "all"}`);
    }
    const blocks = [...page.matchAll(/```(?:go|python|java|rust|js|yaml)\n/g)];
    assert.equal(shown.length, blocks.length, "no block stands there without its source");
    const snippets = shown.flatMap(([, path, snippet]) =>
      snippet === undefined ? [] : `${path?.split("/")[1]} ${snippet}`,
    );
    const languages = ["go", "java", "node", "python", "rust"];
    const wanted = languages.flatMap((one) => [`${one} connect`, `${one} detail`]);
    assert.deepEqual(snippets.toSorted(), wanted);
  });
});
