/** `runlog ingest` and `runlog exec`: what they record, and what they say where they cannot. */
import assert from "node:assert/strict";
import { mkdtemp, rm, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import {
  assertFailed,
  Commands,
  main,
  type RunningCommand,
  resultOf,
  textsOf,
} from "./commands.ts";

const nobody = ["--server", "http://127.0.0.1:1", "--connect-timeout", "1"];

describe("recording from the command line", () => {
  const servers = new Commands();
  const commands = new Commands();
  let directory: string;
  let tests = 0;

  before(async () => {
    directory = await mkdtemp(join(tmpdir(), "runlog-cli-"));
    await servers.serve(join(directory, "journal.db"));
    commands.url = servers.url;
  });

  beforeEach(() => {
    // A namespace each: tests share a server and no run.
    commands.namespace = `test-${++tests}`;
  });

  afterEach(() => commands.endAll());

  after(async () => {
    await servers.endAll();
    await rm(directory, { recursive: true });
  });

  /** Waits until a run has an event with this text. */
  const untilRecorded = async (runId: string, text: string) => {
    const tail = commands.start(["tail", "--all", "--json", "--wait"]);
    const data = Buffer.from(text).toString("base64").replace(/[+/]/g, "\\$&");
    await tail.until("stdout", new RegExp(`"runId":"${runId}".*"data":"${data}"`));
    await tail.kill("SIGKILL");
  };

  describe("ingest", () => {
    it("says the run's id before it reads anything, and how many events are durable at the end", async () => {
      const command = commands.start(["ingest"]);
      const uuid = "[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}";
      const [, runId] = await command.until("stderr", new RegExp(`^run (${uuid})\n$`));
      command.child.stdin.end("1\n2\n3");
      const { status, stderr, stdout } = await command.ended;
      assert.deepEqual([status, stdout.length], [0, 0]);
      assert.equal(stderr, `run ${runId}\nrun ${runId}: 3 events durable, SUCCEEDED\n`);
      assert.deepEqual(
        textsOf(await commands.records("--run", runId!, "--until", "finished"), runId!),
        ["1", "2", "3"],
      );
    });

    it("takes its parent from the flag, else from RUNLOG_RUN_ID, else has none", async () => {
      await commands.run(["ingest", "--run", "p"]);
      await commands.run(["ingest", "--run", "q"]);
      const env = { RUNLOG_RUN_ID: "p" };
      await commands.run(["ingest", "--run", "by-env"], "", env);
      await commands.run(["ingest", "--run", "by-flag", "--parent", "q"], "", env);
      await commands.run(["ingest", "--run", "root", "--no-parent"], "", env);
      const parents = (await commands.records("--all", "--until", "caught-up")).flatMap(
        ({ runId, runStarted }) =>
          runStarted === undefined ? [] : [[runId, runStarted.spec.parentRunId ?? ""]],
      );
      assert.deepEqual(Object.fromEntries(parents), {
        p: "",
        q: "",
        "by-env": "p",
        "by-flag": "q",
        root: "",
      });
    });

    it("says in one line what is wrong with a run, and what to do", async () => {
      const unknownParent = await commands.run(["ingest", "--parent", "nobody"], "1\n");
      assertFailed(unknownParent, /PARENT_NOT_FOUND.*--no-parent/);
      await commands.run(["ingest", "--run", "r"], "1\n");
      assertFailed(
        await commands.run(["ingest", "--run", "r"], "2\n"),
        /RUN_FINISHED.*another --run/,
      );
      assertFailed(
        await commands.run(["ingest", "--run", "x".repeat(129)]),
        /run_id.*INVALID_FIELD/,
      );
      assertFailed(await commands.run(["ingest", ...nobody], "1\n"), /cannot reach .*runlog serve/);
      assert.deepEqual(textsOf(await commands.records("--run", "r", "--until", "finished"), "r"), [
        "1",
      ]);
    });

    it("refuses a directory as its input, and makes no run", async () => {
      const script = `"${process.execPath}" "${main}" ingest < /`;
      const { status, stderr } = await commands.run([
        "exec",
        "--run",
        "r",
        "--",
        "sh",
        "-c",
        script,
      ]);
      assert.equal(status, 1, stderr);
      assert.match(stderr, /standard input is a directory/);
      const records = await commands.records("--all", "--until", "caught-up");
      assert.deepEqual([...new Set(records.map(({ runId }) => runId))], ["r"]);
    });

    it("goes on with the run of one that was killed", async () => {
      const first = commands.start(["ingest", "--run", "r"]);
      first.child.stdin.write("1\n");
      await untilRecorded("r", "1");
      await first.kill("SIGKILL");
      const { status, stderr } = await commands.run(["ingest", "--run", "r"], "2\n");
      assert.equal(status, 0, stderr);
      assert.match(stderr, /has 1 events? already; continuing it/);
      const records = await commands.records("--run", "r", "--until", "finished");
      assert.deepEqual(textsOf(records, "r"), ["1", "2"]);
    });

    it("ends at once where another one takes its run, although input is still open", async () => {
      const first = commands.start(["ingest", "--run", "r"]);
      first.child.stdin.write("1\n");
      await untilRecorded("r", "1");
      const second = await commands.run(["ingest", "--run", "r"], "2\n");
      assert.equal(second.status, 0, second.stderr);
      assertFailed(await first.ended, /FENCED/);
      const records = await commands.records("--run", "r", "--until", "finished");
      assert.deepEqual(textsOf(records, "r"), ["1", "2"]);
    });

    it("ends a run as CANCELLED on SIGTERM, with what it had read", async () => {
      const command = commands.start(["ingest", "--run", "r"]);
      command.child.stdin.write("1\nhalf a line");
      await untilRecorded("r", "1");
      const { status, stderr } = await command.kill("SIGTERM");
      assert.equal(status, 143, stderr);
      const records = await commands.records("--run", "r", "--until", "finished");
      assert.deepEqual(textsOf(records, "r"), ["1", "half a line"]);
      assert.equal(resultOf(records, "r"), "CANCELLED");
    });
  });

  describe("exec", () => {
    it("passes SIGTERM on, ends as the command does, and still shows its output", async () => {
      const script = "echo ready; exec sleep 60";
      const command = commands.start(["exec", "--run", "r", "--", "sh", "-c", script]);
      await command.until("stdout", /^ready\n$/);
      const { status, stderr } = await command.kill("SIGTERM");
      assert.equal(status, 143, stderr);
      const records = await commands.records("--run", "r", "--until", "finished");
      assert.deepEqual(textsOf(records, "r"), ["ready"]);
      assert.equal(resultOf(records, "r"), "FAILED SIGTERM");
    });

    it("makes a tree of runs of a tree of processes, whatever server its flag names", async () => {
      const runlog = `"${process.execPath}" "${main}"`;
      const inner = `${runlog} exec --run grandchild -- sh -c 'echo deep | ${runlog} ingest --run leaf'`;
      const flags = ["--server", commands.url, "--namespace", "tree"];
      const args = ["exec", "--run", "root", ...flags, "--", "sh", "-c", inner];
      const { status, stderr } = await commands.run(args, "", {
        RUNLOG_SERVER: "http://127.0.0.1:1",
      });
      assert.equal(status, 0, stderr);
      commands.namespace = "tree";
      const records = await commands.records("--ancestor", "root", "--until", "finished");
      const depths = records.flatMap(({ runId, runStarted }) =>
        runStarted === undefined ? [] : [[runId, runStarted.depth ?? 0]],
      );
      assert.deepEqual(depths, [
        ["root", 0],
        ["grandchild", 1],
        ["leaf", 2],
      ]);
      assert.deepEqual(textsOf(records, "leaf"), ["deep"]);
    });

    it("shows every byte as it is, and records every line", async () => {
      const bytes = Buffer.from([...Array.from({ length: 256 }, (_, i) => i), 0x0a, 0xc3]);
      const file = join(directory, "bytes");
      await writeFile(file, bytes);
      const { status, stdout } = await commands.run(["exec", "--run", "r", "--", "cat", file]);
      assert.equal(status, 0);
      assert.deepEqual(stdout, bytes);
      const records = await commands.records("--run", "r", "--until", "finished");
      const lines = records.flatMap(({ event }) =>
        event === undefined ? [] : [Buffer.from(event.data ?? "", "base64")],
      );
      assert.deepEqual(lines, [
        bytes.subarray(0, 10),
        // A carriage return alone ends a line as well.
        bytes.subarray(11, 13),
        bytes.subarray(14, 256),
        bytes.subarray(257),
      ]);
    });

    it("gives the command its standard input", async () => {
      const { stdout } = await commands.run(["exec", "--", "cat"], "from outside\n");
      assert.equal(stdout.toString(), "from outside\n");
    });

    it("says 127 for no such command and 126 for one that cannot be run, and records both", async () => {
      const file = join(directory, "not-executable");
      await writeFile(file, "");
      const none = await commands.run(["exec", "--run", "none", "--", join(directory, "none")]);
      const not = await commands.run(["exec", "--run", "not", "--", file]);
      assert.deepEqual([none.status, not.status], [127, 126]);
      assert.match(none.stderr, /cannot run .*no such command/);
      const records = await commands.records("--all", "--until", "caught-up");
      assert.equal(resultOf(records, "none"), "FAILED ENOENT");
      assert.equal(resultOf(records, "not"), "FAILED EACCES");
    });

    it("does not start the command where the run cannot be opened", async () => {
      const ended = await commands.run(["exec", ...nobody, "--", "echo", "started"]);
      assertFailed(ended, /cannot reach/);
      assert.equal(ended.stdout.toString(), "");
    });

    it("lets the command work on where its run is taken away, and says so", async () => {
      const script = "echo one; read line; echo two";
      const command = commands.start([
        "exec",
        "--run",
        "r",
        "--name",
        "n",
        "--",
        "sh",
        "-c",
        script,
      ]);
      await untilRecorded("r", "one");
      const second = await commands.run(["ingest", "--run", "r", "--name", "n"]);
      assert.equal(second.status, 0, second.stderr);
      command.child.stdin.end("go\n");
      const ended = await command.ended;
      assertFailed(ended, /FENCED/);
      assert.equal(ended.stdout.toString(), "one\ntwo\n");
      const records = await commands.records("--run", "r", "--until", "finished");
      assert.deepEqual(textsOf(records, "r"), ["one"]);
    });

    it("ends although something that left the command's group holds its output", async () => {
      const script = "setsid sleep 60 & echo $!";
      const command = commands.start(["exec", "--run", "r", "--", "sh", "-c", script]);
      const [, pid] = await command.until("stdout", /^(\d+)\n$/);
      try {
        const { status, stderr } = await command.ended;
        assert.equal(status, 0, stderr);
        assert.match(stderr, /holds the output open/);
      } finally {
        process.kill(Number(pid), "SIGKILL");
      }
      const records = await commands.records("--run", "r", "--until", "finished");
      assert.equal(resultOf(records, "r"), "SUCCEEDED");
    });
  });
});

describe("recording while the server goes and comes", () => {
  const commands = new Commands();
  let directory: string;
  let file: string;
  let server: RunningCommand;

  beforeEach(async () => {
    directory = await mkdtemp(join(tmpdir(), "runlog-cli-"));
    file = join(directory, "journal.db");
    server = await commands.serve(file);
  });

  afterEach(async () => {
    await commands.endAll();
    await rm(directory, { recursive: true });
  });

  const lines = (from: number, to: number) =>
    Array.from({ length: to - from + 1 }, (_, i) => `${from + i}`);
  const text = (from: number, to: number) => `${lines(from, to).join("\n")}\n`;

  it("loses and doubles nothing over a kill -9, and says what happens", async () => {
    const ingest = commands.start(["ingest", "--run", "r"]);
    const tail = commands.start(["tail", "--all", "--json"]);
    ingest.child.stdin.write(text(1, 3_000));
    await tail.until("stdout", /"runSeq":"2000"/);
    await server.kill("SIGKILL");
    ingest.child.stdin.end(text(3_001, 6_000));
    await ingest.until("stderr", /lost the connection to .*retrying/);
    await commands.serve(file, new URL(commands.url).host);
    const { status, stderr } = await ingest.ended;
    assert.equal(status, 0, stderr);
    assert.match(stderr, /connected to .* again/);
    assert.match(stderr, /run r: 6000 events durable, SUCCEEDED\n$/);
    const records = await commands.records("--run", "r", "--until", "finished");
    assert.deepEqual(textsOf(records, "r"), lines(1, 6_000));
    // The reader that was there all the time saw the same.
    await tail.until("stdout", /"runFinished"/);
    assert.deepEqual(
      tail.stdout
        .trimEnd()
        .split("\n")
        .map((line) => JSON.parse(line) as unknown),
      await commands.records("--all", "--until", "caught-up"),
    );
  });

  it("lets a server drain on SIGTERM and exit with 0, and goes on with the next one", async () => {
    const ingest = commands.start(["ingest", "--run", "r"]);
    ingest.child.stdin.write("1\n");
    const tail = commands.start(["tail", "--all", "--json"]);
    await tail.until("stdout", /"event"/);
    const { status, stderr } = await server.kill("SIGTERM");
    assert.equal(status, 0, stderr);
    await commands.serve(file, new URL(commands.url).host);
    ingest.child.stdin.end("2\n");
    assert.equal((await ingest.ended).status, 0);
    await tail.until("stdout", /"runFinished"/);
    const records = await commands.records("--run", "r", "--until", "finished");
    assert.deepEqual(textsOf(records, "r"), ["1", "2"]);
    assert.equal(resultOf(records, "r"), "SUCCEEDED");
  });
});
