/** `runlog tail`, `runlog read` and `runlog runs`: what they show, and what they say where they cannot. */
import assert from "node:assert/strict";
import { mkdtemp, rm } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { assertFailed, Commands, type JsonRecord, jsonLines, main, textsOf } from "./commands.ts";

describe("reading from the command line", () => {
  const servers = new Commands();
  const commands = new Commands();
  let directory: string;

  before(async () => {
    directory = await mkdtemp(join(tmpdir(), "runlog-cli-"));
    await servers.serve(join(directory, "journal.db"));
    commands.url = servers.url;
    // One family and a run of its own: root (1) → failed child (2) → leaf (1); other (2).
    const record = async (flags: readonly string[], input: string) => {
      const { status, stderr } = await commands.run(["ingest", ...flags], input);
      assert.equal(status, 0, stderr);
    };
    await record(["--run", "root", "--agent", "planner", "--conversation", "c"], "r1\n");
    const script = "echo c1; echo c2; exit 4";
    const child = ["exec", "--run", "child", "--parent", "root", "--name", "worker"];
    assert.equal((await commands.run([...child, "--", "sh", "-c", script])).status, 4);
    await record(["--run", "leaf", "--parent", "child"], "l1\n");
    await record(
      ["--run", "other"],
      '{"type":"\\u001b[31mred","x":"\\u001b]0;title\\u0007"}\no\u001b[2J2\n',
    );
  });

  afterEach(() => commands.endAll());

  after(async () => {
    await servers.endAll();
    await rm(directory, { recursive: true });
  });

  const runIdsOf = (records: readonly JsonRecord[]) => new Set(records.map(({ runId }) => runId));

  it("shows what its scope says", async () => {
    const expected = [
      [["--all"], "root child leaf other"],
      [["--run", "leaf", "other"], "leaf other"],
      [["--ancestor", "root"], "root child leaf"],
      [["--ancestor", "root", "--no-self"], "child leaf"],
      [["--ancestor", "root", "--max-depth", "1"], "root child"],
      [["--ancestor", "child"], "child leaf"],
    ] as const;
    for (const [flags, runIds] of expected) {
      const records = await commands.records(...flags, "--until", "caught-up");
      assert.deepEqual([...runIdsOf(records)].join(" "), runIds, flags.join(" "));
      const seqs = records.map(({ seq }) => Number(seq));
      assert.deepEqual(
        seqs,
        [...new Set(seqs)].sort((a, b) => a - b),
      );
    }
    const finished = await commands.records("--ancestor", "root", "--until", "finished");
    assert.deepEqual(textsOf(finished, "child"), ["c1", "c2"]);
  });

  it("prints who, where in the tree and what, and nothing that a producer could steer a terminal with", async () => {
    const args = ["tail", "--all", "--until", "caught-up"];
    const { status, stdout } = await commands.run(args);
    const text = stdout.toString();
    assert.equal(status, 0);
    // biome-ignore lint/suspicious/noControlCharactersInRegex: these are what it is about
    const steering = /[\u0000-\u0009\u000b-\u001f\u007f]/;
    assert.doesNotMatch(text, steering);
    assert.match(
      text,
      /^ +1 \S+ {2}planner +> started +root depth 0 agent planner conversation c$/m,
    );
    assert.match(text, /^ +\d+ \S+ {2}planner\/worker +line +c2$/m);
    assert.match(text, /^ +\d+ \S+ {2}planner\/worker +< failed +2 events: exit-4 /m);
    assert.match(text, /^ +\d+ \S+ {2}planner\/worker\/leaf +line +l1$/m);
    assert.match(text, /^ +\d+ \S+ {2}other +line +o2$/m);
    assert.equal(text.trimEnd().split("\n").length, 14);
  });

  it("goes on where it was stopped", async () => {
    const tail = commands.start(["tail", "--all", "--json"]);
    await tail.until("stdout", /"seq":"14"[^\n]*\n/);
    const { status, stderr } = await tail.kill("SIGINT");
    assert.equal(status, 130);
    const [, after] = /--after (\d+)$/m.exec(stderr) ?? [];
    assert.equal(after, "14");
    const rest = await commands.records("--all", "--after", "12", "--until", "caught-up");
    assert.deepEqual(
      rest.map(({ seq }) => seq),
      ["13", "14"],
    );
    assert.deepEqual(await commands.records("--all", "--after", after, "--until", "caught-up"), []);
  });

  it("begins with the newest records, or with those of a time", async () => {
    const seqsOf = async (...flags: string[]) =>
      (await commands.records("--all", ...flags, "--until", "caught-up"))
        .map(({ seq }) => seq)
        .join(" ");
    assert.equal(await seqsOf("--last", "3"), "12 13 14");
    assert.equal(await seqsOf("--last", "0"), "");
    assert.equal(await seqsOf("--last", "1", "--type", "line", "--kind", "events"), "13");
    assert.equal((await seqsOf("--since", "1d")).split(" ").length, 14);
    assert.equal((await seqsOf("--since", "2020-01-31")).split(" ").length, 14);
    assert.equal(await seqsOf("--since", "2199-01-31T12:00:00Z"), "");
    for (const flags of [
      ["--last", "1001"],
      ["--last", "3", "--after", "1"],
      ["--since", "10m", "--last", "3"],
      ["--since", "10m", "--now"],
      ["--since", "yesterday"],
      ["--since", "5"],
      ["--kind", "facts"],
      ["--until", "finished", "--exit-status", "--kind", "events"],
    ]) {
      const { status } = await commands.run(["tail", "--run", "root", ...flags]);
      assert.equal(status, 2, flags.join(" "));
    }
  });

  it("shows only the kinds that are asked for", async () => {
    await commands.run(["signal", "other", "--type", "chat", "hello"]);
    const kindsOf = async (...flags: string[]) => {
      const { stdout } = await commands.run(["read", "--all", "--json", ...flags]);
      const fields = jsonLines<object>(stdout).flatMap((record) => Object.keys(record));
      const kinds = ["event", "signal", "runStarted", "runFinished"];
      return kinds.filter((kind) => fields.includes(kind)).join(" ");
    };
    assert.equal(await kindsOf(), "event runStarted runFinished");
    assert.equal(await kindsOf("--kind", "events"), "event");
    assert.equal(await kindsOf("--kind", "lifecycle"), "runStarted runFinished");
    assert.equal(await kindsOf("--kind", "lifecycle", "signals"), "runStarted runFinished");
  });

  it("begins at the end of the log with --now", async () => {
    const namespaced = new Commands();
    namespaced.url = commands.url;
    namespaced.namespace = "now";
    try {
      await namespaced.run(["ingest", "--run", "before"], "b\n");
      const tail = namespaced.start(["tail", "--all", "--now", "--json"]);
      // Nothing says when it stands: record until something comes.
      const first = tail.until("stdout", /\n/);
      let isThere = false;
      first.then(
        () => (isThere = true),
        () => (isThere = true),
      );
      for (let i = 1; !isThere; i++) await namespaced.run(["ingest", "--run", `run-${i}`], "x\n");
      await first;
      await namespaced.run(["ingest", "--run", "last"], "x\n");
      await tail.until("stdout", /"runId":"last"[^\n]*"runFinished"[^\n]*\n/);
      const records = jsonLines<JsonRecord>(tail.stdout);
      assert.ok(!runIdsOf(records).has("before"));
      const begin = Number(records[0]!.seq);
      assert.deepEqual(
        records.map(({ seq }) => Number(seq)),
        records.map((_, i) => begin + i),
      );
    } finally {
      await namespaced.endAll();
    }
  });

  it("ends where its reader does, without a word", async () => {
    const args = ["tail", "--all", "--json", "--wait"];
    const tail = commands.start(args, { RUNLOG_NAMESPACE: "pipe" });
    const inPipe = { RUNLOG_NAMESPACE: "pipe" };
    await commands.run(["ingest"], "1\n", inPipe);
    await tail.until("stdout", /"runFinished"/);
    tail.child.stdout.destroy();
    await commands.run(["ingest"], "2\n", inPipe);
    const { status, stderr } = await tail.ended;
    assert.deepEqual([status, stderr], [0, ""]);
  });

  const readSeqs = async (...flags: string[]) => {
    const { status, stdout, stderr } = await commands.run(["read", "--json", ...flags]);
    assert.deepEqual([status, stderr], [0, ""], flags.join(" "));
    return jsonLines<JsonRecord>(stdout)
      .map(({ seq }) => seq)
      .join(" ");
  };

  it("reads a page, oldest or newest first, with the scopes of tail", async () => {
    assert.equal(await readSeqs("--all"), "1 2 3 4 5 6 7 8 9 10 11 12 13 14");
    assert.equal(await readSeqs("--all", "--after", "11"), "12 13 14");
    assert.equal(await readSeqs("--all", "--after", "11", "--limit", "2"), "12 13");
    assert.equal(await readSeqs("--all", "--backward", "--limit", "3"), "14 13 12");
    assert.equal(await readSeqs("--all", "--before", "3"), "2 1");
    assert.equal(await readSeqs("--all", "--before", "3", "--backward"), "2 1");
    assert.equal(await readSeqs("--all", "--before", "1"), "");
    assert.equal(await readSeqs("--all", "--after", "14"), "");
    assert.equal(await readSeqs("--run", "root", "--backward"), "3 2 1");
    assert.equal(await readSeqs("--ancestor", "root", "--no-self", "--max-depth", "1"), "4 5 6 7");
    assert.equal(await readSeqs("--run", "root", "--type", "nothing*"), "1 3");
  });

  it("reads more than one call gives", async () => {
    const inMany = { RUNLOG_NAMESPACE: "many" };
    const lines = Array.from({ length: 2_100 }, (_, i) => `${i}\n`).join("");
    assert.equal((await commands.run(["ingest"], lines, inMany)).status, 0);
    const countOf = async (...flags: string[]) =>
      (await readSeqs("--namespace", "many", "--all", ...flags)).split(" ").length;
    assert.equal(await countOf(), 100);
    assert.equal(await countOf("--limit", "2050"), 2_050);
    assert.equal(await countOf("--limit", "9999", "--backward"), 2_102);
  });

  it("knows names newest first too, whose runs began with the page's last line", async () => {
    const { stdout } = await commands.run(["read", "--all", "--backward"]);
    const lines = stdout.toString().trimEnd().split("\n");
    assert.equal(lines.length, 14);
    assert.match(lines[0]!, /^ +14 /);
    assert.ok(lines.some((line) => /^ +\d+ \S+ {2}planner\/worker +line +c2$/.test(line)));
  });

  it("says on a terminal how to go on, where there is more", async () => {
    // `script` gives it a terminal and passes on what it writes there.
    const inTerminal = `require("node:child_process").spawnSync("script", ["-qec", process.argv[1], "/dev/null"], { stdio: "inherit" })`;
    const linesOf = async (...flags: string[]) => {
      const command = [process.execPath, main, "read", ...flags].join(" ");
      const { status, stdout } = await commands.startNode(["-e", inTerminal, command]).ended;
      assert.equal(status, 0);
      return stdout.toString().trimEnd().split(/\r?\n/);
    };
    const forward = await linesOf("--all", "--limit", "4");
    assert.deepEqual(
      [forward.length, forward.at(-1)],
      [5, "runlog: more: runlog read … --after 4"],
    );
    const backward = await linesOf("--all", "--backward", "--limit", "4");
    assert.equal(backward.at(-1), "runlog: more: runlog read … --before 11");
    const whole = await linesOf("--all", "--limit", "14");
    assert.equal(whole.length, 14);
    assert.match(whole.at(-1)!, /14.*other/);
  });

  it("says in one line what it cannot show, and what to do (R1)", async () => {
    const ids = Array.from({ length: 101 }, (_, i) => `run-${i}`);
    assertFailed(await commands.run(["tail", "--run", ...ids]), /100.*RUN_ID_LIMIT.*--ancestor/);
    assertFailed(await commands.run(["tail", "--run", "nobody"]), /RUN_NOT_FOUND.*runlog runs/);
    assertFailed(await commands.run(["tail", "--ancestor", "nobody"]), /RUN_NOT_FOUND/);
    assertFailed(await commands.run(["tail", "--all", "--after", "99"]), /CURSOR_AHEAD.*--after/);
    assertFailed(await commands.run(["read", "--run", "nobody"]), /RUN_NOT_FOUND.*runlog runs/);
    assertFailed(await commands.run(["read", "--all", "--before", "99"]), /AHEAD.*--before/);
    assertFailed(await commands.run(["runs", "--ancestor", "nobody"]), /RUN_NOT_FOUND/);
    assertFailed(await commands.run(["runs", "--namespace", "-"]), /namespace.*INVALID_FIELD/);
  });

  it("lists runs, newest first, by what they are", async () => {
    const idsOf = async (...flags: string[]) => {
      const { status, stdout, stderr } = await commands.run(["runs", "--json", ...flags]);
      assert.equal(status, 0, stderr);
      return jsonLines<{ runId: string }>(stdout).map(({ runId }) => runId);
    };
    assert.deepEqual(await idsOf(), ["other", "leaf", "child", "root"]);
    assert.deepEqual(await idsOf("--state", "failed"), ["child"]);
    assert.deepEqual(await idsOf("--state", "failed", "--state", "running"), ["child"]);
    assert.deepEqual(await idsOf("--conversation", "c"), ["root"]);
    assert.deepEqual(await idsOf("--ancestor", "child"), ["leaf", "child"]);
    assert.deepEqual(await idsOf("--conversation", "none"), []);
    const { stdout } = await commands.run(["runs"]);
    const lines = stdout.toString().trimEnd().split("\n");
    assert.match(lines[2]!, /^failed +child +2 events +\d\S+ +worker +exit-4: /);
    assert.match(lines[3]!, /^succeeded +root +1 event +\d\S+ +planner$/);
  });

  it("draws trees, oldest first", async () => {
    const { stdout } = await commands.run(["runs", "--tree"]);
    const shapes = stdout
      .toString()
      .trimEnd()
      .split("\n")
      .map((line) => line.split(/ {2,}(?=succeeded|failed)/)[0]?.trimEnd());
    assert.deepEqual(shapes, ["planner", "└─ worker", "   └─ leaf", "other"]);
  });

  it("refuses wrong flags with 2, before anything is done", async () => {
    const wrong: readonly (readonly [string[], RegExp])[] = [
      [["tail"], /exactly one of --ancestor ID, --run ID… and --all/],
      [["tail", "--all", "--run", "r"], /exactly one/],
      [["tail", "--all", "--no-self"], /need --ancestor/],
      [["tail", "--all", "--until", "finished"], /--all never ends/],
      [["tail", "--all", "--after", "-1"], /use a seq/],
      [["tail", "--all", "--after", "18446744073709551616"], /use a seq/],
      [["tail", "--all", "--now", "--after", "1"], /cannot be used with/],
      [["read"], /exactly one of --ancestor ID, --run ID… and --all/],
      [["read", "--all", "--max-depth", "1"], /need --ancestor/],
      [["read", "--all", "--after", "1", "--before", "9"], /cannot be used with/],
      [["read", "--all", "--after", "1", "--backward"], /cannot be used with/],
      [["read", "--all", "--before", "0"], /use a seq: 1/],
      [["read", "--all", "--limit", "0"], /1 or more/],
      [["runs", "--state", "sleeping"], /use one of running, /],
      [["runs", "--server", "localhost:7400"], /use a URL/i],
      [["serve", "--listen", "7400"], /use HOST:PORT/],
      [["serve", "--listen", "127.0.0.1:65536"], /use HOST:PORT/],
      [["exec"], /missing required argument/],
      [["ingest", "--connect-timeout", "0"], /use seconds/],
    ];
    const ended = await Promise.all(wrong.map(([args]) => commands.run(args)));
    for (const [i, { status, stderr, stdout }] of ended.entries()) {
      const [args, line] = wrong[i]!;
      assert.deepEqual([status, stdout.length], [2, 0], args.join(" "));
      assert.match(stderr, line);
    }
    const env = { RUNLOG_SERVER: "nonsense" };
    const { status, stderr } = await commands.run(["runs"], "", env);
    assert.equal(status, 2);
    assert.match(stderr, /RUNLOG_SERVER 'nonsense' is invalid/);
  });
});
