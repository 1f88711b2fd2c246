/** The commands that look after runs and namespaces, against a server that is a process. */
import assert from "node:assert/strict";
import { mkdtemp, rm } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { assertFailed, Commands, jsonLines, main, resultOf, textsOf } from "./commands.ts";

interface JsonNamespace {
  readonly name: string;
  readonly latestSeq?: string;
  readonly runningCount?: string;
  readonly runCount?: string;
  readonly eventBytes?: string;
  readonly retention?: string;
}

interface JsonRun {
  readonly runId: string;
  readonly state: string;
  readonly spec?: { readonly parentRunId?: string; readonly agentId?: string };
  readonly fork?: { readonly runId: string; readonly runSeq?: string };
}

describe("looking after runs and namespaces", () => {
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

  /** Runs a command that has to succeed, and returns what it prints. */
  const output = async (args: readonly string[], input = ""): Promise<string> => {
    const { status, stdout, stderr } = await commands.run(args, input);
    assert.equal(status, 0, stderr);
    return stdout.toString();
  };
  const runsOf = async (): Promise<JsonRun[]> => jsonLines(await output(["runs", "--json"]));
  /** Starts a command as a run that says "ready"; it ends by SIGTERM, which exec passes on. */
  const startForever = async (runId: string, ...flags: string[]) => {
    const script = "echo ready; exec sleep 600";
    const command = commands.start(["exec", "--run", runId, ...flags, "--", "sh", "-c", script]);
    await command.until("stdout", /^ready$/m);
    return command;
  };

  describe("signal", () => {
    it("reads no more of an endless input than a signal can hold", async () => {
      const command = commands.start(["signal", "busy", "--type", "x", "-"]);
      const chunk = Buffer.alloc(1 << 20);
      const { stdin } = command.child;
      let written = 0;
      const feed = (error?: Error | null) => {
        if (error) return;
        // Four times what a signal can hold: the command does not end by itself.
        if (++written > 64) stdin.end();
        else stdin.write(chunk, feed);
      };
      feed();
      const ended = await command.ended;
      assertFailed(ended, /more than 16\.0 MiB/);
      assert.ok(written < 64);
    });

    it("takes no empty id, which would be another signal at each try", async () => {
      const { status, stderr } = await commands.run(["signal", "r", "--type", "x", "--id", ""]);
      assert.equal(status, 2);
      assert.match(stderr, /--id.*leave the option out/);
    });

    it("sends input to a run, once for each id, and shows that it awaits handling", async () => {
      const { status } = await commands.run(["ingest", "--run", "r", "--resume-input"], "1\n");
      assert.equal(status, 0);
      const running = await startForever("busy");
      const send = ["signal", "busy", "--type", "approval", "--id", "a", '{"ok":true}'];
      assert.match(await output(send), /^signal 1 at seq \d+, id a\n$/);
      assert.match(await output(send), /^signal 1 at seq \d+, id a\n$/);
      const other = await commands.run([...send.slice(0, -1), '{"ok":false}']);
      assertFailed(other, /another signal/);
      const text = ["signal", "busy", "--type", "message", "--json", "-"];
      assert.equal(JSON.parse(await output(text, "please hurry")).signalSeq, "2");
      assert.match(await output(["runs"]), /busy .* 2 signals$/m);
      const shown = await output(["tail", "--run", "busy", "--until", "caught-up"]);
      assert.match(shown, /! approval +1 \{"ok":true\}$/m);
      assert.match(shown, /! message +2 please hurry$/m);
      assertFailed(await commands.run(["signal", "r", "--type", "x"]), /ended|finished/);
      await running.kill("SIGTERM");
    });
  });

  describe("cancel", () => {
    it("ends what exec runs; the run is CANCELLED and the status that of the signal", async () => {
      const command = await startForever("r");
      const said = await output(["cancel", "r", "--reason", "over budget"]);
      assert.equal(said, "asked 1 running run to stop\n");
      const { status, stderr } = await command.ended;
      assert.equal(status, 143, stderr);
      assert.match(stderr, /asked to stop: over budget/);
      const records = await commands.records("--run", "r", "--until", "finished");
      assert.deepEqual(textsOf(records, "r"), ["ready"]);
      assert.equal(resultOf(records, "r"), "CANCELLED");
      const again = await output(["cancel", "r"]);
      assert.equal(again, "nothing to stop: the run has ended already\n");
    });

    it("ends what ingest reads, although its input is open, and keeps what came", async () => {
      const command = commands.start(["ingest", "--run", "r"]);
      command.child.stdin.write("1\n");
      const tail = commands.start(["tail", "--all", "--type", "line"]);
      await tail.until("stdout", / line /);
      assert.equal(await output(["cancel", "r"]), "asked 1 running run to stop\n");
      const { status, stderr } = await command.ended;
      assert.equal(status, 1);
      assert.match(stderr, /asked to stop: no reason given/);
      const records = await commands.records("--run", "r", "--until", "finished");
      assert.deepEqual([textsOf(records, "r"), resultOf(records, "r")], [["1"], "CANCELLED"]);
    });

    it("reaches the run alone, or with --descendants its whole family", async () => {
      const nested = [process.execPath, main, "exec", "--run", "child", "--", "sleep", "600"];
      const script = `${nested.join(" ")} & echo ready; wait`;
      const parent = commands.start(["exec", "--run", "parent", "--", "sh", "-c", script]);
      const tail = commands.start(["tail", "--all"]);
      await tail.until("stdout", /started +child /);
      const other = await startForever("other");
      const said = await output(["cancel", "parent", "--descendants"]);
      assert.equal(said, "asked 2 running runs to stop\n");
      await parent.ended;
      const records = await commands.records("--ancestor", "parent", "--until", "finished");
      assert.deepEqual(
        [resultOf(records, "parent"), resultOf(records, "child")],
        ["CANCELLED", "CANCELLED"],
      );
      const said2 = await output(["cancel", "parent", "--descendants"]);
      assert.equal(said2, "nothing to stop: the run and all its descendants have ended already\n");
      const running = (await runsOf()).filter(({ state }) => state === "RUN_STATE_RUNNING");
      assert.deepEqual(
        running.map(({ runId }) => runId),
        ["other"],
      );
      await other.kill("SIGTERM");
    });

    it("reaches a producer that opens the run afterwards", async () => {
      const first = commands.start(["ingest", "--run", "r"]);
      first.child.stdin.write("1\n");
      const tail = commands.start(["tail", "--all", "--type", "line"]);
      await tail.until("stdout", / line /);
      await first.kill("SIGKILL");
      assert.equal(await output(["cancel", "r"]), "asked 1 running run to stop\n");
      const { status, stderr } = await commands.start(["ingest", "--run", "r"]).ended;
      assert.equal(status, 1);
      assert.match(stderr, /asked to stop/);
      const records = await commands.records("--run", "r", "--until", "finished");
      assert.equal(resultOf(records, "r"), "CANCELLED");
    });

    it("says that there is no such run", async () => {
      await commands.run(["ingest"]);
      assertFailed(await commands.run(["cancel", "nobody"]), /RUN_NOT_FOUND.*`runlog runs`/);
    });
  });

  describe("fork", () => {
    beforeEach(() => output(["ingest", "--run", "source"], "1\n2\n3\n"));

    it("prints the new run's id alone, and how to go on with it", async () => {
      const { status, stdout, stderr } = await commands.run([
        "fork",
        "source",
        "--at",
        "2",
        "--agent",
        "planner",
        "--name",
        "it's new",
      ]);
      assert.equal(status, 0, stderr);
      const [, runId] = /^([0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12})\n$/.exec(
        stdout.toString(),
      )!;
      assert.match(stderr, /begins with source up to event 2$/m);
      assert.match(stderr, new RegExp(`runlog tail --run ${runId} --inherited$`, "m"));
      const flags = `--run ${runId} --agent planner --name 'it'\\''s new'`;
      assert.ok(stderr.includes(`runlog ingest ${flags}\n`), stderr);
      const [fork] = await runsOf();
      assert.deepEqual([fork?.runId, fork?.spec?.agentId], [runId, "planner"]);
      assert.deepEqual(fork?.fork, { runId: "source", runSeq: "2" });
      // The line that it printed means the same run.
      const ingest = ["ingest", "--run", runId!, "--agent", "planner", "--name", "it's new"];
      await output(ingest, "own\n");
      const inherited = await commands.records(
        "--run",
        runId!,
        "--inherited",
        "--until",
        "finished",
      );
      assert.deepEqual(textsOf(inherited, "source"), ["1", "2"]);
      assert.deepEqual(textsOf(inherited, runId!), ["own"]);
      const own = await commands.records("--run", runId!, "--until", "finished");
      assert.deepEqual([textsOf(own, "source"), textsOf(own, runId!)], [[], ["own"]]);
      const plain = await output(["tail", "--run", runId!, "--until", "finished"]);
      assert.match(plain, /> started .* fork of source at 2$/m);
    });

    it("inherits everything unless told otherwise, and nothing at 0", async () => {
      assert.equal(await output(["fork", "source", "--run", "whole"]), "whole\n");
      assert.equal(await output(["fork", "source", "--run", "empty", "--at", "0"]), "empty\n");
      const until = ["--inherited", "--until", "caught-up"];
      const whole = await commands.records("--run", "whole", ...until);
      assert.deepEqual(textsOf(whole, "source"), ["1", "2", "3"]);
      const empty = await commands.records("--run", "empty", ...until);
      assert.deepEqual(textsOf(empty, "source"), []);
    });

    it("takes its parent from the flag, else from RUNLOG_RUN_ID, else has none", async () => {
      await output(["ingest", "--run", "p"]);
      const env = { RUNLOG_RUN_ID: "p" };
      const wanted = [
        ["by-flag", "source", ["--parent", "source"]],
        ["by-env", "p", []],
        ["root", "", ["--no-parent"]],
      ] as const;
      for (const [runId, parent, flags] of wanted) {
        const args = ["fork", "source", "--run", runId, ...flags];
        const { status, stderr } = await commands.run(args, "", env);
        assert.equal(status, 0, stderr);
        const run = (await runsOf()).find((one) => one.runId === runId);
        assert.equal(run?.spec?.parentRunId ?? "", parent);
      }
    });

    it("says what is wrong: an unknown source, a missing event, an id in use", async () => {
      assertFailed(await commands.run(["fork", "nobody"]), /RUN_NOT_FOUND/);
      const beyond = await commands.run(["fork", "source", "--at", "4"]);
      assertFailed(beyond, /\[[A-Z_]+\]/);
      assert.equal(beyond.stdout.length, 0);
      assertFailed(await commands.run(["fork", "source", "--run", "source"]), /RUN_EXISTS/);
      assert.equal((await commands.run(["fork", "source", "--at", "-1"])).status, 2);
    });
  });

  describe("namespaces", () => {
    it("lists what each holds, as a table and as JSON", async () => {
      await output(["ingest", "--run", "r"], "1\n2\n");
      const command = await startForever("s");
      const all = jsonLines<JsonNamespace>(await output(["namespaces", "--json"]));
      const own = all.find(({ name }) => name === commands.namespace);
      // r: start, 2 events, end; s: start, 1 event.
      assert.deepEqual([own?.runningCount, own?.runCount, own?.latestSeq], ["1", "2", "6"]);
      assert.ok(Number(own?.eventBytes) > 0);
      const lines = (await output(["namespaces"])).trimEnd().split("\n");
      assert.match(lines[0]!, /^NAMESPACE +RUNNING\/RUNS +SEQS +SIZE +RETENTION +CREATED$/);
      const line = lines.find((one) => one.startsWith(`${commands.namespace} `));
      assert.match(line!, /^test-\d+ +1\/2 +1\.\.6 +\d+ B +forever +\d{4}-\d\d-\d\dT[\d:]{8}Z$/);
      assert.equal(lines.length, all.length + 1);
      await command.kill("SIGTERM");
    });
  });

  describe("retention", () => {
    beforeEach(() => output(["ingest", "--run", "r"], "1\n"));

    it("is forever until it is set, and says what it was set to", async () => {
      assert.equal(await output(["retention"]), "forever\n");
      assert.match(await output(["retention", "7d", "--yes"]), /"test-\d+": .* 7d after/);
      assert.equal(await output(["retention"]), "7d\n");
      const all = jsonLines<JsonNamespace>(await output(["namespaces", "--json"]));
      const own = all.find(({ name }) => name === commands.namespace);
      assert.equal(own?.retention, "604800s");
      // A longer one deletes nothing, so nobody is asked.
      await output(["retention", "200h"]);
      assert.equal(await output(["retention"]), "200h\n");
      assert.match(await output(["retention", "forever"]), /trees forever/);
      assert.equal(await output(["retention"]), "forever\n");
      assert.deepEqual(
        (await runsOf()).map(({ runId }) => runId),
        ["r"],
      );
    });

    it("is not shortened silently, and rejects text that is no duration", async () => {
      const unasked = await commands.run(["retention", "90s"]);
      assert.equal(unasked.status, 2);
      assert.match(unasked.stderr, /^runlog: .* cannot be undone, .*: use --yes\n$/);
      assert.equal(await output(["retention"]), "forever\n");
      for (const wrong of ["0s", "7", "soon", "-1d"]) {
        const { status, stderr } = await commands.run(["retention", wrong]);
        assert.equal(status, 2);
        if (!wrong.startsWith("-")) assert.match(stderr, /use a duration such as 7d/);
      }
    });

    it("says that there is no such namespace", async () => {
      assertFailed(
        await commands.run(["retention", "--namespace", "nowhere"]),
        /no namespace "nowhere".*`runlog namespaces`/,
      );
    });
  });

  describe("delete", () => {
    it("deletes a tree with --yes, says how much it was, and leaves the others", async () => {
      const nested = [process.execPath, main, "exec", "--run", "child", "--", "echo", "2"];
      await output(["exec", "--run", "root", "--", "sh", "-c", `echo 1; ${nested.join(" ")}`]);
      await output(["ingest", "--run", "other"], "3\n");
      const said = await output(["delete", "root", "--yes"]);
      assert.match(said, /^deleted 2 runs and [1-9]\d* records\n$/);
      assert.deepEqual(
        (await runsOf()).map(({ runId }) => runId),
        ["other"],
      );
      const left = await commands.records("--all", "--until", "caught-up");
      assert.ok(left.length > 0 && left.every(({ runId }) => runId === "other"));
      assertFailed(await commands.run(["delete", "root", "--yes"]), /RUN_NOT_FOUND/);
    });

    it("deletes nothing where nobody can be asked", async () => {
      await output(["ingest", "--run", "r"], "1\n");
      const { status, stdout, stderr } = await commands.run(["delete", "r"], "yes\n");
      assert.deepEqual([status, stdout.length], [2, 0]);
      assert.match(stderr, /^runlog: deleting a tree cannot be undone, .*: use --yes\n$/);
      assert.equal((await runsOf()).length, 1);
    });

    it("deletes only whole trees that have ended and that no fork elsewhere needs", async () => {
      const command = await startForever("root");
      assertFailed(
        await commands.run(["delete", "root", "--yes"]),
        /\[TREE_IN_USE\].*runlog cancel RUN --descendants/,
      );
      await output(["ingest", "--run", "child", "--parent", "root"], "1\n");
      assertFailed(
        await commands.run(["delete", "child", "--yes"]),
        /"child" is not a root: .* whose root is root$/,
      );
      await output(["cancel", "root"]);
      await command.ended;
      await output(["fork", "root", "--run", "fork"]);
      await output(["ingest", "--run", "fork"], "1\n");
      assertFailed(await commands.run(["delete", "root", "--yes"]), /\[TREE_IN_USE\]/);
      assert.match(await output(["delete", "fork", "--yes"]), /^deleted 1 run and /);
      assert.match(await output(["delete", "root", "--yes"]), /^deleted 2 runs and /);
    });
  });

  it("teaches: every command has help with an example", async () => {
    for (const command of ["cancel", "fork", "namespaces", "retention", "delete"]) {
      const help = await output([command, "--help"]);
      assert.match(help, new RegExp(`Examples:\\n +\\$ .*runlog ${command}`));
    }
    const { status, stderr } = await commands.run(["tail", "--all", "--inherited"]);
    assert.equal(status, 2);
    assert.match(stderr, /--inherited needs --run/);
  });
});
