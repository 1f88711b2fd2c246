/** Whom `runlog serve` serves, with the server as a process. */
import assert from "node:assert/strict";
import { mkdtemp, rm } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { isLoopback } from "../../src/server/auth/exposure.ts";
import { AccessFile, allPermissions, tokenEntry, tokenOf } from "../support/access.ts";
import { rawRequest } from "../support/raw-request.ts";
import { assertFailed, Commands } from "./commands.ts";

describe("runlog serve", () => {
  const commands = new Commands();
  let directory: string;
  let file: AccessFile;

  beforeEach(async () => {
    directory = await mkdtemp(join(tmpdir(), "runlog-serve-"));
    const grants = [{ namespace: "default", permissions: allPermissions }];
    file = await AccessFile.make({ tokens: [tokenEntry("somebody", grants)] });
  });

  afterEach(async () => {
    await commands.endAll();
    await rm(directory, { recursive: true });
    await file.remove();
  });

  const flagsOf = (listen: string, ...more: string[]) => {
    const journal = `sqlite:${join(directory, "journal.db")}`;
    return ["serve", "--listen", listen, "--journal", journal, ...more];
  };

  for (const listen of ["0.0.0.0:0", "[::]:0"]) {
    it(`does not listen on ${listen} without --allow-anyone`, async () => {
      const ended = await commands.run(flagsOf(listen));
      assert.equal(ended.status, 2);
      assert.match(ended.stderr, /--access FILE.*--listen 127.0.0.1:7400.*--allow-anyone/);
    });
  }

  it("listens on a network where anyone is allowed, or an access file says who", async () => {
    for (const more of [["--allow-anyone"], ["--access", file.path]]) {
      const server = commands.start(flagsOf("0.0.0.0:0", ...more), {});
      await server.until("stdout", /^listening on http:\/\/0\.0\.0\.0:\d+\n/);
      server.child.kill("SIGTERM");
      assert.equal((await server.ended).status, 0);
    }
    const both = await commands.run(flagsOf("0.0.0.0:0", "--allow-anyone", "--access", file.path));
    assert.equal(both.status, 2);
    assert.match(both.stderr, /contradict/);
  });

  it("is told as a server that answers where it refuses a stream for a quota", async () => {
    const grants = [{ namespace: "default", permissions: allPermissions }];
    const more = { quotas: { streams: 1 } };
    await file.write({ tokens: [tokenEntry("somebody", grants, more)] });
    const server = commands.start(flagsOf("127.0.0.1:0", "--access", file.path));
    commands.url = (await server.until("stdout", /^listening on (\S+)\n/))[1]!;
    const env = { RUNLOG_TOKEN: tokenOf("somebody") };
    assert.equal((await commands.run(["exec", "--", "true"], "", env)).status, 0);
    const first = commands.start(["tail", "--all"], env);
    await first.until("stdout", /succeeded/);
    const flags = ["--all", "--connect-timeout", "1"];
    const { status, stderr } = await commands.run(["tail", ...flags], "", env);
    assert.equal(status, 1);
    assert.match(stderr, /does not serve this now \(at most 1 streams? .*\), retrying/);
    assert.match(
      stderr,
      /did not serve this within 1 s \(at most 1 streams? [^;]*; retry[^;]*\)\n$/,
    );
    assert.doesNotMatch(stderr, /cannot reach|is `runlog serve` running/);
  });

  it("says what is wrong with an access file, all of it", async () => {
    await file.write({
      tokens: [{ name: "a b", sha256: "00" }, tokenEntry("x", []), tokenEntry("x", [])],
      issuers: [
        { issuer: "i", audience: "a", keys: "http://id.example.com/jwks" },
        { issuer: "j", audience: "a", keys: "keys.json", algorithms: ["HS256"] },
      ],
      policy: [{ claims: {}, grants: [] }],
    });
    const ended = await commands.run(flagsOf("127.0.0.1:0", "--access", file.path));
    assertFailed(ended, /tokens\[0\]\.sha256.*64 hex/);
    for (const mistake of [
      /issuers\[0\]\.keys.*https/,
      /issuers\[1\]\.algorithms/,
      /policy\[0\]\.claims: is empty/,
      /tokens: two of them have the name "x"/,
    ]) {
      assert.match(ended.stderr, mistake);
    }
    const missing = await commands.run(flagsOf("127.0.0.1:0", "--access", `${file.path}.no`));
    assertFailed(missing, /access\.json\.no: cannot be read \(ENOENT\)/);
  });

  it("lets pages call whose origins flags or the environment name", async () => {
    const origin = "https://app.example.com";
    const mayCall = async (started: ReturnType<Commands["start"]>) => {
      const [, url] = await started.until("stdout", /^listening on (\S+)\n/);
      const headers = {
        origin,
        host: "runlog.example.com",
        "content-type": "application/json",
      };
      const path = "/runlog.v1.RunService/ListRuns";
      const { status } = await rawRequest("HTTP/1.1", url!, { path, headers, body: "{}" });
      started.child.kill("SIGTERM");
      assert.equal((await started.ended).status, 0);
      return status === 200;
    };
    const flags = ["--allow-origin", origin, "--host-name", "runlog.example.com"];
    const more = ["--allow-origin", "https://b.example.com", "--host-name", "b.example.com"];
    const names = { RUNLOG_HOST_NAMES: "b.example.com runlog.example.com" };
    const origins = { RUNLOG_ALLOW_ORIGINS: `https://b.example.com ${origin}` };
    const started = (flags: readonly string[], environment: Readonly<Record<string, string>>) =>
      commands.start(flagsOf("127.0.0.1:0", ...flags), environment);
    assert.ok(await mayCall(started([...flags, ...more], {})));
    assert.ok(await mayCall(started([], { ...names, ...origins })));
    assert.ok(!(await mayCall(started([], names))));
    assert.ok(!(await mayCall(started([], origins))));
    assert.ok(!(await mayCall(started(more, { ...names, ...origins }))));
  });

  it("says which origin is none, and which host", async () => {
    for (const [flag, value] of [
      ["--allow-origin", "*"],
      ["--host-name", "https://runlog.example.com"],
    ] as const) {
      const ended = await commands.run(flagsOf("127.0.0.1:0", flag, value));
      assert.equal(ended.status, 2);
      assert.match(ended.stderr, new RegExp(`${flag}: "`));
    }
  });

  it("serves commands that show a token, and tells the others to", async () => {
    const server = commands.start(flagsOf("127.0.0.1:0"), { RUNLOG_ACCESS: file.path });
    const [, url] = await server.until("stdout", /^listening on (\S+)\n/);
    commands.url = url!;
    assertFailed(await commands.run(["runs"]), /the server needs a token/);
    const ended = await commands.run(["runs", "--token", tokenOf("somebody")]);
    assert.equal(ended.status, 0, ended.stderr);
    for (const probe of ["healthz", "readyz"]) {
      assert.equal((await fetch(`${url}/${probe}`)).status, 200);
    }
  });
});

describe("an address", () => {
  it("is loopback if nobody else reaches it", () => {
    for (const host of ["127.0.0.1", "127.8.9.1", "::1", "0:0:0:0:0:0:0:1", "localhost"]) {
      assert.equal(isLoopback(host), true, host);
    }
    for (const host of [
      "0.0.0.0",
      "::",
      "::ffff:127.0.0.1",
      "10.0.0.1",
      "127.0.0.1.example.com",
      "localhost.example.com",
      "example.com",
    ]) {
      assert.equal(isLoopback(host), false, host);
    }
  });
});
