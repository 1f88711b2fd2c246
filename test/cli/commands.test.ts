/** The commands as people run them: processes against a server that is one too. */
import assert from "node:assert/strict";
import { type ChildProcess, spawn } from "node:child_process";
import { once } from "node:events";
import { mkdtemp, rm } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { createInterface } from "node:readline";
import { fileURLToPath } from "node:url";

const main = fileURLToPath(new URL("../../src/cli/main.ts", import.meta.url));

interface Ended {
  readonly status: number | null;
  readonly stdout: string;
  readonly stderr: string;
}

interface JsonRecord {
  readonly seq: string;
  readonly runId: string;
  readonly event?: { type: string; data?: string; contentType?: string; attributes?: object };
  readonly runStarted?: { spec: { parentRunId?: string; agentId?: string } };
  readonly runFinished?: { result: { state: string; failure?: { code: string } } };
}

describe("the command line", () => {
  let directory: string;
  let url: string;
  const children = new Set<ChildProcess>();

  const start = (args: readonly string[], env: object = {}): ChildProcess => {
    const child = spawn(process.execPath, [main, ...args], {
      env: { ...process.env, RUNLOG_SERVER: url, RUNLOG_RUN_ID: "", ...env },
    });
    children.add(child);
    child.once("close", () => children.delete(child));
    return child;
  };

  const ended = async (child: ChildProcess): Promise<Ended> => {
    let stdout = "";
    let stderr = "";
    child.stdout!.setEncoding("utf8").on("data", (text: string) => (stdout += text));
    child.stderr!.setEncoding("utf8").on("data", (text: string) => (stderr += text));
    const [status] = (await once(child, "close")) as [number | null];
    return { status, stdout, stderr };
  };

  const run = (args: readonly string[], input: string | Buffer = "", env: object = {}) => {
    const child = start(args, env);
    child.stdin!.end(input);
    return ended(child);
  };

  const serve = async (listen: string): Promise<ChildProcess> => {
    const journal = `sqlite:${join(directory, "journal.db")}`;
    const child = start(["serve", "--listen", listen, "--journal", journal]);
    const [line] = (await once(createInterface({ input: child.stdout! }), "line")) as [string];
    assert.match(line, /^listening on http:\/\/127\.0\.0\.1:\d+$/);
    url = line.replace("listening on ", "");
    return child;
  };

  const recordsOf = async (...args: string[]): Promise<JsonRecord[]> => {
    const { status, stdout, stderr } = await run(["tail", "--json", ...args]);
    assert.equal(status, 0, stderr);
    return stdout
      .split("\n")
      .filter((line) => line !== "")
      .map((line) => JSON.parse(line) as JsonRecord);
  };
  const textOf = (record: JsonRecord) => Buffer.from(record.event?.data ?? "", "base64").toString();

  let server: ChildProcess;

  beforeEach(async () => {
    directory = await mkdtemp(join(tmpdir(), "runlog-cli-"));
    url = "";
    server = await serve("127.0.0.1:0");
  });

  afterEach(async () => {
    for (const child of children) {
      child.kill("SIGKILL");
      await once(child, "close");
    }
    await rm(directory, { recursive: true });
  });

  it("teaches: every command has help with an example", async () => {
    for (const command of ["serve", "ingest", "exec", "tail", "runs"]) {
      const { status, stdout } = await run([command, "--help"]);
      assert.equal(status, 0);
      assert.match(stdout, new RegExp(`Examples:\\n +\\$ .*runlog ${command}`));
    }
    assert.equal((await run(["nonsense"])).status, 2);
  });

  it("ingests lines, whatever they hold, and says how many are durable", async () => {
    const lines = [
      '{"type":"tool.started","n":1}',
      '{"type":7}',
      "plain text",
      '{"half":',
      "",
      "no line feed at the end",
    ];
    const input = Buffer.concat([
      Buffer.from(`${lines.slice(0, 5).join("\n")}\n`),
      Buffer.from([0xff, 0xfe, 0x0a]),
      Buffer.from(lines[5]!),
    ]);
    const { status, stderr } = await run(["ingest", "--run", "r", "--agent", "a"], input);
    assert.equal(status, 0, stderr);
    assert.match(stderr.split("\n")[0]!, /\br\b/);
    const records = await recordsOf("--run", "r", "--until", "finished");
    const events = records.filter((record) => record.event !== undefined);
    assert.match(stderr, new RegExp(`${events.length} events durable`));
    const byText = new Map(events.map((record) => [textOf(record), record.event!]));
    assert.equal(byText.get(lines[0]!)?.type, "tool.started");
    assert.equal(byText.get(lines[1]!)?.type, "line");
    assert.equal(byText.get(lines[2]!)?.contentType, "text/plain");
    assert.equal(byText.get(lines[3]!)?.contentType, "text/plain");
    assert.ok(byText.has(lines[5]!));
    assert.ok(
      events.some((r) =>
        Buffer.from(r.event!.data ?? "", "base64").equals(Buffer.from([0xff, 0xfe])),
      ),
    );
    assert.equal(records.at(-1)?.runFinished?.result.state, "RUN_STATE_SUCCEEDED");
    assert.equal(records[0]?.runStarted?.spec.agentId, "a");
  });

  it("reports a line that is too long, keeps the rest, and fails", async () => {
    const input = `one\n${"x".repeat(1_100_000)}\nthree\n`;
    const { status, stderr } = await run(["ingest", "--run", "r"], input);
    assert.equal(status, 1);
    assert.match(stderr, /line 2/);
    const events = (await recordsOf("--run", "r", "--until", "finished")).filter((r) => r.event);
    assert.deepEqual(events.map(textOf), ["one", '{"bytes":1100000,"limit":1048576}', "three"]);
  });

  it("runs a command as a run: its output, its status, its children", async () => {
    const nested = [process.execPath, main, "exec", "--run", "child", "--"];
    const script = `echo out; echo err >&2; ${nested.join(" ")} echo nested; exit 3`;
    const { status, stdout, stderr } = await run([
      "exec",
      "--run",
      "parent",
      "--",
      "sh",
      "-c",
      script,
    ]);
    assert.equal(status, 3);
    assert.equal(stdout, "out\nnested\n");
    assert.match(stderr, /^err$/m);
    const records = await recordsOf("--ancestor", "parent", "--until", "finished");
    const parent = records.filter((record) => record.runId === "parent");
    const streamOf = (text: string) => parent.find((r) => textOf(r) === text)?.event?.attributes;
    assert.deepEqual(streamOf("out"), { stream: "stdout" });
    assert.deepEqual(streamOf("err"), { stream: "stderr" });
    const { result } = parent.at(-1)!.runFinished!;
    assert.deepEqual([result.state, result.failure?.code], ["RUN_STATE_FAILED", "exit-3"]);
    const child = records.filter((record) => record.runId === "child");
    assert.equal(child[0]?.runStarted?.spec.parentRunId, "parent");
    assert.equal(child.at(-1)?.runFinished?.result.state, "RUN_STATE_SUCCEEDED");
    const tree = await run(["runs", "--tree"]);
    assert.match(tree.stdout, /^.* failed .* parent .*exit-3.*\n└─ .* succeeded .* child\n$/);
    const noSelf = await recordsOf("--ancestor", "parent", "--no-self", "--until", "caught-up");
    assert.ok(noSelf.length > 0 && noSelf.every((record) => record.runId === "child"));
  });

  it("passes signals on to the command", async () => {
    const script = "trap 'echo caught; exit 9' TERM; echo ready; while :; do sleep 0.05; done";
    const child = start(["exec", "--run", "r", "--", "sh", "-c", script]);
    const lines = createInterface({ input: child.stdout! });
    const seen: string[] = [];
    lines.on("line", (line) => {
      seen.push(line);
      if (line === "ready") child.kill("SIGTERM");
    });
    const { status } = await ended(child);
    assert.equal(status, 9);
    assert.deepEqual(seen, ["ready", "caught"]);
  });

  it("filters by type, goes on after a seq, and writes no colours where nobody looks", async () => {
    await run(["ingest", "--run", "r"], '{"type":"a.1"}\n{"type":"b"}\n{"type":"a.2"}\n');
    const all = ["--all", "--until", "caught-up"];
    const types = (records: JsonRecord[]) =>
      records.flatMap((r) => (r.event ? [r.event.type] : []));
    assert.deepEqual(types(await recordsOf(...all, "--type", "a.*")), ["a.1", "a.2"]);
    assert.deepEqual(types(await recordsOf(...all, "--after", "2")), ["b", "a.2"]);
    const { stdout } = await run(["tail", ...all]);
    assert.equal(stdout.split("\n").length, 6);
    assert.ok(!stdout.includes("\u001b"));
    assert.equal((await run(["tail", "--until", "caught-up"])).status, 2);
  });

  it("tails on over a kill -9 and a restart of the server", async () => {
    const follower = start(["tail", "--run", "r", "s", "--json", "--until", "caught-up"]);
    assert.equal((await ended(follower)).status, 1, "runs that do not exist are an error");
    await run(["ingest", "--run", "parent"], "before\n");
    const tail = start(["tail", "--all", "--json"]);
    const lines = createInterface({ input: tail.stdout! })[Symbol.asyncIterator]();
    const next = async () => JSON.parse((await lines.next()).value as string) as JsonRecord;
    for (let seq = 1; seq <= 3; seq++) assert.equal((await next()).seq, String(seq));
    server.kill("SIGKILL");
    await once(server, "close");
    server = await serve(new URL(url).host);
    await run(["ingest", "--run", "later"], "after\n");
    for (let seq = 4; seq <= 6; seq++) assert.equal((await next()).seq, String(seq));
    tail.kill("SIGINT");
    await once(tail, "close");
  });

  it("drains on SIGTERM with a subscriber on it, and exits 0", async () => {
    const tail = start(["tail", "--all", "--json"]);
    await run(["ingest", "--run", "r"], "one\n");
    await once(createInterface({ input: tail.stdout! }), "line");
    server.kill("SIGTERM");
    const [status] = (await once(server, "close")) as [number];
    assert.equal(status, 0);
  });

  it("says in one line that a server cannot be reached", async () => {
    const nobody = "http://127.0.0.1:1";
    const args = ["--server", nobody, "--connect-timeout", "1"];
    for (const command of [["ingest"], ["tail", "--all"], ["runs"]]) {
      const { status, stderr } = await run([...command, ...args], "line\n");
      assert.equal(status, 1, command[0]);
      assert.match(stderr.trimEnd().split("\n").at(-1)!, /127\.0\.0\.1:1/);
      assert.ok(!stderr.includes("    at "), "no stack");
    }
  });
});
