/** `runlog exec` under authentication: what its command can do, and what it never gets. */
import assert from "node:assert/strict";
import { mkdtemp, rm, stat } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { AccessFile, mintingKey, tokenEntry, tokenOf } from "../support/access.ts";
import { Commands, main } from "./commands.ts";

const runlog = `"${process.execPath}" "${main}"`;
const planner = { RUNLOG_TOKEN: tokenOf("planner") };

describe("runlog exec, for a server that authenticates", () => {
  const commands = new Commands();
  let directory: string;
  let file: AccessFile;

  const serve = async (minting: object | undefined, permissions = ["ingest", "read", "signal"]) => {
    await file.write({
      ...(minting && { minting }),
      tokens: [tokenEntry("planner", [{ namespace: "default", permissions }])],
    });
    const journal = `sqlite:${join(directory, "journal.db")}`;
    const flags = ["--listen", "127.0.0.1:0", "--journal", journal, "--access", file.path];
    const server = commands.start(["serve", ...flags]);
    const [, url] = await server.until("stdout", /^listening on (\S+)\n/);
    commands.url = url!;
  };
  const exec = (script: string, env: Readonly<Record<string, string>> = planner) =>
    commands.start(["exec", "--run", "r", "--", "sh", "-c", script], env);

  beforeEach(async () => {
    directory = await mkdtemp(join(tmpdir(), "runlog-exec-"));
    file = await AccessFile.make({});
    await file.writeText("minting.pem", mintingKey());
  });

  afterEach(async () => {
    await commands.endAll();
    await file.remove();
    await rm(directory, { recursive: true });
  });

  it("gives the command a token for its own run, in a file of its own, and nothing else", async () => {
    await serve({ keys: ["minting.pem"] });
    const other = await commands.run(["exec", "--run", "other", "--", "true"], "", planner);
    assert.equal(other.status, 0, other.stderr);
    const script = `
      echo "env $RUNLOG_TOKEN/$RUNLOG_CERT/$RUNLOG_KEY/"
      echo "file $RUNLOG_TOKEN_FILE"
      stat -c 'mode %a' "$RUNLOG_TOKEN_FILE" "$(dirname "$RUNLOG_TOKEN_FILE")"
      ${runlog} whoami
      ${runlog} exec --run inner -- ${runlog} whoami
      ${runlog} read --run other 2>&1
      ${runlog} exec --run root --no-parent -- true 2>&1
      ${runlog} signal r --type x 2>&1
      true`;
    const env = { ...planner, RUNLOG_CERT: "", RUNLOG_KEY: "" };
    const { status, stdout, stderr } = await exec(script, env).ended;
    const text = `${stdout}`;
    assert.equal(status, 0, stderr);
    assert.match(text, /^env \/\/\/$/m);
    assert.match(text, /^mode 600\nmode 700$/m);
    assert.match(text, /^identity {3}planner>r, minted from planner$/m);
    assert.match(text, /^may {8}ingest read in default, run r \(seq \d+\) and below$/m);
    assert.match(text, /^identity {3}planner>r>inner, minted from planner$/m);
    assert.match(text, /^may {8}ingest read in default, run inner \(seq \d+\) and below$/m);
    assert.match(text, /run "other" does not exist/);
    assert.match(text, /the token may start no root/);
    assert.match(text, /"signal" in namespace "default"/);
    assert.doesNotMatch(text + stderr, /token-of-planner/);
    const [, path = ""] = /^file (.+)$/m.exec(text) ?? [];
    await assert.rejects(stat(path), { code: "ENOENT" });
  });

  it("takes credentials out of the command's environment, whoever put them there", async () => {
    await serve(undefined);
    const env = { RUNLOG_TOKEN_FILE: await file.writeText("own-token", tokenOf("planner")) };
    const { status, stdout, stderr } = await exec(
      "env | grep RUNLOG_ | grep -v RUNLOG_TEST_ | sort",
      env,
    ).ended;
    assert.equal(status, 0, stderr);
    const names = `${stdout}`.split("\n").map((line) => line.split("=")[0]);
    assert.deepEqual(names, ["RUNLOG_NAMESPACE", "RUNLOG_RUN_ID", "RUNLOG_SERVER", ""]);
    assert.match(stderr, /the command gets no token: .*minting\.keys \[MINTING_UNAVAILABLE\]\n/);
  });

  it("hands on what it has itself, where that is less", async () => {
    await serve({ keys: ["minting.pem"] }, ["ingest"]);
    // Naming a run would look whether it has ended, which is reading.
    const words = ["exec", "--", "sh", "-c", `${runlog} whoami`];
    const { status, stdout, stderr } = await commands.run(words, "", planner);
    assert.equal(status, 0, stderr);
    assert.match(`${stdout}`, /^may {8}ingest in default, run [0-9a-f-]{36} \(seq 1\) and below$/m);
  });

  it("renews the command's token before it expires, and that of the command's command", async () => {
    await serve({ keys: ["minting.pem"], max_lifetime_seconds: 6 });
    // The inner exec opens its stream with a token that is over by the second line.
    const inner = `
      for i in 1 2; do
        token=$(cat "$RUNLOG_TOKEN_FILE")
        while [ "$token" = "$(cat "$RUNLOG_TOKEN_FILE")" ]; do sleep 0.1; done
        echo $i
      done`;
    const words = ["exec", "--run", "r", "--", process.execPath, main];
    const command = [...words, "exec", "--run", "inner", "--", "sh", "-c", inner];
    const { status, stdout, stderr } = await commands.run(command, "", planner);
    assert.deepEqual([status, `${stdout}`], [0, "1\n2\n"], stderr);
    assert.match(stderr, /run inner: 2 events durable, SUCCEEDED/);
  });

  it("says nothing of tokens for a server that does not authenticate", async () => {
    await commands.serve(join(directory, "journal.db"));
    const { status, stdout, stderr } = await exec("echo $RUNLOG_TOKEN_FILE", {}).ended;
    assert.deepEqual([status, `${stdout}`], [0, "\n"]);
    assert.doesNotMatch(stderr, /token/);
  });
});
