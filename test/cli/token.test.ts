/** `runlog token` and `runlog whoami`, with the server as a process. */
import assert from "node:assert/strict";
import { mkdtemp, rm } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { AccessFile, mintingKey, tokenEntry, tokenOf } from "../support/access.ts";
import { assertFailed, Commands } from "./commands.ts";

describe("runlog token", () => {
  const servers = new Commands();
  let directory: string;
  let file: AccessFile;
  const planner = { RUNLOG_TOKEN: tokenOf("planner") };

  before(async () => {
    directory = await mkdtemp(join(tmpdir(), "runlog-token-"));
    const permissions = ["ingest", "read", "signal"];
    file = await AccessFile.make({});
    await file.write({
      minting: { keys: [await file.writeText("minting.pem", mintingKey())] },
      tokens: [
        tokenEntry("planner", [{ namespace: "default", permissions }]),
        tokenEntry("early", [{ namespace: "later", permissions }]),
      ],
    });
    const journal = `sqlite:${join(directory, "journal.db")}`;
    const server = servers.start([
      ...["serve", "--listen", "127.0.0.1:0", "--journal", journal, "--access", file.path],
    ]);
    const [, url] = await server.until("stdout", /^listening on (\S+)\n/);
    servers.url = url!;
    for (const run of ["mine", "other"]) {
      const { status } = await servers.run(["exec", "--run", run, "--", "true"], "", planner);
      assert.equal(status, 0);
    }
  });

  after(async () => {
    await servers.endAll();
    await file.remove();
    await rm(directory, { recursive: true });
  });

  it("prints a token alone, which gives what the flags say", async () => {
    const flags = ["--permission", "read", "signal", "--ancestor", "mine", "--name", "phone"];
    const ended = await servers.run(["token", ...flags, "--expires", "10m"], "", planner);
    assert.equal(ended.status, 0, ended.stderr);
    assert.match(ended.stderr, /token of planner>phone, expires \d{4}-/);
    const token = `${ended.stdout}`.trimEnd();
    assert.match(token, /^[\w-]+\.[\w-]+\.[\w-]+$/);
    const phone = { RUNLOG_TOKEN: token };
    const read = await servers.run(["read", "--run", "mine"], "", phone);
    assert.equal(read.status, 0, read.stderr);
    assert.notEqual((await servers.run(["read", "--run", "other"], "", phone)).status, 0);
    const who = await servers.run(["whoami"], "", phone);
    assert.match(`${who.stdout}`, /^identity {3}planner>phone, minted from planner$/m);
    assert.match(`${who.stdout}`, /^expires {4}\d{4}-\d\d-/m);
    assert.match(`${who.stdout}`, /^may {8}read signal in default, run mine \(seq 1\) and below$/m);
    assert.match(`${who.stdout}`, /^namespaces default$/m);
    const early = await servers.run(["whoami"], "", { RUNLOG_TOKEN: tokenOf("early") });
    assert.match(`${early.stdout}`, /^may .* in later\nnamespaces none that exists /m);
    const more = ["token", "--permission", "ingest", "--ancestor", "mine"];
    assertFailed(await servers.run(more, "", phone), /"ingest".*\[PERMISSION\]/);
  });

  it("prints all of the answer with --json", async () => {
    const ended = await servers.run(["token", "--permission", "read", "--json"], "", planner);
    const answer = JSON.parse(`${ended.stdout}`) as Record<string, unknown>;
    const keys = ["expireTime", "grants", "identity", "lifetime", "token"];
    assert.deepEqual(Object.keys(answer).toSorted(), keys);
    const who = await servers.run(["whoami", "--json"], "", planner);
    const { identity } = JSON.parse(`${who.stdout}`) as { identity: string };
    assert.equal(identity, "planner");
  });

  it("says what is wrong", async () => {
    for (const [flags, status, why] of [
      [[], 2, /--permission <permission...>' not specified/],
      [["--permission", "write"], 2, /Allowed choices are ingest, read, signal, cancel, admin/],
      [["--permission", "read", "--expires", "soon"], 2, /use a duration/],
      [["--permission", "cancel"], 1, /"cancel" in namespace "default"/],
      [["--permission", "read", "--ancestor", "none"], 1, /run "none" does not exist/],
    ] as const) {
      const ended = await servers.run(["token", ...flags], "", planner);
      assert.equal(ended.status, status, ended.stderr);
      assert.match(ended.stderr, why);
    }
  });
});
