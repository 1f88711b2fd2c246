/**
 * The disk that the rig puts under a server: what fails on command fails, and a power loss
 * leaves what was synced.
 */
import assert from "node:assert/strict";
import { execFile, spawn } from "node:child_process";
import { once } from "node:events";
import { mkdir, mkdtemp, readFile, realpath, rm, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { promisify } from "node:util";
import { buildLibrary } from "../../robustness/native/build.ts";
import { DiskControl } from "../../robustness/native/control.ts";
import { losePower, type Unsynced } from "../../robustness/native/power-loss.ts";
import { randomOf } from "../../robustness/random.ts";

const run = promisify(execFile);
const pageBytes = 4096;

/** What a process does to a file; `page(n, letter)` writes one page of it. */
const head = `
  const fs = require("node:fs");
  const fd = fs.openSync(process.argv[1], "r+");
  const page = (at, letter) => fs.writeSync(fd, Buffer.alloc(${pageBytes}, letter), 0, ${pageBytes}, at * ${pageBytes});
`;

describe("the rig's disk", () => {
  // Only Linux preloads libraries in this way.
  if (process.platform !== "linux") return;
  let base: string;
  let control: DiskControl;
  let file: string;

  beforeEach(async () => {
    base = await realpath(await mkdtemp(join(tmpdir(), "runlog-disk-")));
    await mkdir(join(base, "disk"));
    await mkdir(join(base, "undo"));
    control = new DiskControl(join(base, "control"));
    file = join(base, "disk", "file");
    await writeFile(file, Buffer.alloc(3 * pageBytes, "a"));
  });

  afterEach(async () => {
    control.close();
    await rm(base, { recursive: true });
  });

  const environment = async () => ({
    ...process.env,
    LD_PRELOAD: await buildLibrary(),
    RIG_CONTROL: control.path,
    RIG_DISK: join(base, "disk"),
    RIG_UNDO: join(base, "undo"),
  });

  /** Runs a script on the file, kills its process with -9 once it is done, and cuts the power. */
  async function crash(script: string, unsynced: Unsynced, seed = 1): Promise<string> {
    const code = `${head}${script}; fs.writeSync(1, "done"); setInterval(() => {}, 1000);`;
    const child = spawn(process.execPath, ["-e", code, file], {
      env: await environment(),
      stdio: ["ignore", "pipe", "inherit"],
    });
    await once(child.stdout, "data");
    child.kill("SIGKILL");
    await once(child, "exit");
    losePower(join(base, "undo"), unsynced, randomOf(seed));
    return letters(await readFile(file));
  }

  /** The first letter of each page, and "!" behind a page that is torn. */
  const letters = (bytes: Buffer): string => {
    let text = "";
    for (let at = 0; at < bytes.length; at += pageBytes) {
      const page = bytes.subarray(at, at + pageBytes);
      text += String.fromCharCode(page[0]!) + (page.every((one) => one === page[0]) ? "" : "!");
    }
    return text;
  };

  it("keeps synced bytes, and nothing else", async () => {
    const script = `page(0, "b"); fs.fsyncSync(fd); page(1, "c"); page(3, "d"); page(0, "e")`;
    assert.equal(await crash(script, "lost"), "baa");
  });

  it("keeps some of the pages that were not synced, each as it once was", async () => {
    const script = `page(0, "b"); fs.fdatasyncSync(fd); page(0, "c"); page(1, "c"); page(0, "d"); page(3, "e"); page(4, "e")`;
    const seen = new Set<string>();
    for (let seed = 1; seed <= 12; seed++) {
      await writeFile(file, Buffer.alloc(3 * pageBytes, "a"));
      const left = await crash(script, "some pages kept", seed);
      assert.match(left, /^[bcd][ac]ae{0,2}$/);
      seen.add(left);
    }
    assert.ok(seen.size > 3, [...seen].join(" "));
  });

  it("brings back bytes that were cut off, and removes a file that was never synced", async () => {
    assert.equal(await crash(`fs.ftruncateSync(fd, 0); page(0, "z")`, "lost"), "aaa");
    const other = join(base, "disk", "other");
    await crash(`fs.writeFileSync(${JSON.stringify(other)}, "x")`, "lost");
    await assert.rejects(readFile(other), { code: "ENOENT" });
  });

  it("fails writes, syncs and opens with the given error, until it is healed", async () => {
    const attempt = async (script: string) => {
      const code = `${head}try { ${script}; console.log("fine") } catch (e) { console.log(e.code) }`;
      const { stdout } = await run(process.execPath, ["-e", code, file], {
        env: await environment(),
      });
      return stdout.trim();
    };
    control.fail({ of: "write", error: "ENOSPC" });
    assert.equal(await attempt(`page(0, "b")`), "ENOSPC");
    control.heal();
    control.fail({ of: "sync", error: "EIO" });
    assert.equal(await attempt(`page(0, "b"); fs.fsyncSync(fd)`), "EIO");
    control.heal();
    assert.equal(await attempt(`page(0, "b"); fs.fsyncSync(fd)`), "fine");
    assert.ok(control.counts.failures === 2 && control.counts.syncs === 2);
  });

  it("sets the wall clock, and leaves the monotonic one alone", async () => {
    control.shiftClock(86_400_000);
    const code = "console.log(Date.now(), performance.now())";
    const { stdout } = await run(process.execPath, ["-e", code], { env: await environment() });
    const [wallMs = 0, monotonicMs = 0] = stdout.split(" ").map(Number);
    const aheadMs = wallMs - Date.now();
    assert.ok(aheadMs > 86_000_000 && aheadMs < 87_000_000, `${aheadMs}`);
    assert.ok(monotonicMs < 60_000, `${monotonicMs}`);
  });
});
