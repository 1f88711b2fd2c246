import assert from "node:assert/strict";
import { copyFile, mkdtemp, rm } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { Commands, main } from "./commands.ts";

describe("the version check", () => {
  it("tells an old Node in one line, before it loads anything", async () => {
    const directory = await mkdtemp(join(tmpdir(), "runlog-version-"));
    try {
      // ExclusiveWork in a directory: whatever it loaded would not be found.
      const file = join(directory, "main.ts");
      await copyFile(main, file);
      const versions = `{ value: { ...process.versions, node: "22.99.0" } }`;
      const old = `Object.defineProperty(process, "versions", ${versions});`;
      const args = ["--import", `data:text/javascript,${encodeURIComponent(old)}`, file, "--help"];
      const { status, stdout, stderr } = await new Commands().startNode(args).ended;
      assert.equal(stderr, "runlog: needs Node 24 or newer, this is Node 22.99.0\n");
      assert.deepEqual([status, stdout.length], [1, 0]);
    } finally {
      await rm(directory, { recursive: true });
    }
  });
});
