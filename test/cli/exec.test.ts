/** `runlog exec`: a log does not change, stop or lose what it logs. */
import assert from "node:assert/strict";
import { mkdtemp, readFile, rm, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { setTimeout } from "node:timers/promises";
import { assertFailed, Commands, main, resultOf, textsOf } from "./commands.ts";

const runlog = `"${process.execPath}" "${main}"`;

describe("runlog exec", () => {
  const servers = new Commands();
  const commands = new Commands();
  let directory: string;
  let tests = 0;

  before(async () => {
    directory = await mkdtemp(join(tmpdir(), "runlog-exec-"));
    await servers.serve(join(directory, "journal.db"));
    commands.url = servers.url;
  });

  beforeEach(() => {
    commands.namespace = `test-${++tests}`;
  });

  afterEach(() => commands.endAll());

  after(async () => {
    await servers.endAll();
    await rm(directory, { recursive: true });
  });

  const exec = (script: string, ...flags: string[]) =>
    commands.start(["exec", "--run", "r", ...flags, "--", "sh", "-c", script]);
  const recorded = () => commands.records("--run", "r", "--until", "finished");
  /** Fails where a process still runs; one that nobody has reaped does not. */
  const assertGone = async (pid: string) => {
    const stat = await readFile(`/proc/${pid}/stat`, "latin1").catch(() => ") Z");
    assert.equal(stat.slice(stat.lastIndexOf(")") + 2)[0], "Z");
  };

  it("ends a run when the last of the command's processes has ended, and records all of it", async () => {
    const fifo = join(directory, `go-${tests}`);
    const command = exec(`mkfifo ${fifo}; (read line < ${fifo}; echo late) & echo early`);
    await command.until("stdout", /early\n/);
    await command.until("stderr", /processes that it started have not/);
    await writeFile(fifo, "now\n");
    const { status, stdout } = await command.ended;
    assert.deepEqual([status, `${stdout}`], [0, "early\nlate\n"]);
    assert.deepEqual(textsOf(await recorded(), "r"), ["early", "late"]);
  });

  it("passes SIGTERM to the whole group: nothing that the command started is left", async () => {
    const command = exec("while :; do echo x; sleep 0.05; done & echo $!; exit 0");
    const [, pid] = await command.until("stdout", /^(\d+)$/m);
    await command.until("stderr", /processes that it started have not/);
    await command.kill("SIGTERM");
    await assertGone(pid!);
    assert.equal(resultOf(await recorded(), "r"), "SUCCEEDED");
  });

  it("ends all of it where the run is cancelled, before the run is CANCELLED", async () => {
    const command = exec("(sleep 60 & echo $!; wait) & wait");
    const [, pid] = await command.until("stdout", /^(\d+)\n/);
    await commands.run(["cancel", "r", "--reason", "enough\u001b[31m"]);
    const { stderr } = await command.ended;
    await assertGone(pid!);
    // biome-ignore lint/suspicious/noControlCharactersInRegex: others' words must not steer the terminal
    assert.doesNotMatch(stderr, /\u001b/);
    assert.equal(resultOf(await recorded(), "r"), "CANCELLED");
  });

  it("kills what ignores SIGTERM after the grace, and what ignores two signals at the third", async () => {
    const stubborn = "trap '' TERM INT; echo ready; while :; do sleep 0.1; done";
    const graced = exec(stubborn, "--grace", "200ms");
    await graced.until("stdout", /ready/);
    const { status, stderr } = await graced.kill("SIGTERM");
    assert.equal(status, 137);
    assert.match(stderr, /did not end within 0.2 s of SIGTERM: killed/);

    const pressed = commands.start(["exec", "--run", "s", "--", "sh", "-c", stubborn]);
    await pressed.until("stdout", /ready/);
    pressed.child.kill("SIGINT");
    // The second one is seen: signals of one kind would otherwise be merged.
    while (!/second signal/.test(pressed.stderr)) {
      pressed.child.kill("SIGINT");
      await new Promise((resolve) => setImmediate(resolve));
    }
    pressed.child.kill("SIGINT");
    assert.equal((await pressed.ended).status, 137);
  });

  for (const signal of ["SIGHUP", "SIGQUIT", "SIGINT"] as const) {
    it(`passes ${signal} on, and ends with the status of its command`, async () => {
      const command = exec(
        `trap 'echo got it; exit 7' ${signal.slice(3)}; echo ready; while :; do sleep 0.05; done`,
      );
      await command.until("stdout", /ready/);
      const { status } = await command.kill(signal);
      assert.equal(status, 7);
      assert.equal(textsOf(await recorded(), "r").at(-1), "got it");
    });
  }

  it("ends its run where the command cannot be given its pipes", async () => {
    const env = { TMPDIR: join(directory, "missing") };
    const ended = await commands.run(["exec", "--run", "r", "--", "echo", "hi"], "", env);
    assert.equal(ended.status, 1);
    assert.match(ended.stderr, /ENOENT.*missing/);
    assert.equal(resultOf(await recorded(), "r"), "FAILED not-started");
  });

  it("does not run a command for a run that has ended", async () => {
    await exec("echo once", "--name", "n").ended;
    const file = join(directory, "made-by-the-second");
    const again = await exec(`touch ${file}`, "--name", "n").ended;
    assertFailed(again, /has ended as SUCCEEDED .*RUN_FINISHED.*another --run/);
    assert.doesNotMatch(again.stderr, /continuing it|retrying/);
    await assert.rejects(readFile(file), { code: "ENOENT" });
  });

  it("gives real pipes: /dev/stdout and /dev/stderr can be opened", async () => {
    const ended = await exec("echo one > /dev/stdout; echo two > /dev/stderr").ended;
    assert.deepEqual([ended.status, `${ended.stdout}`], [0, "one\n"]);
    assert.match(ended.stderr, /^two$/m);
    const streams = (await recorded()).flatMap(({ event }) =>
      event === undefined ? [] : [event.attributes?.["stream"]],
    );
    assert.deepEqual(streams.toSorted(), ["stderr", "stdout"]);
  });

  it("leaves SIGPIPE to the commands of a pipeline", async () => {
    const { status, stdout } = await exec("yes | head -n 2").ended;
    assert.equal(status, 0);
    assert.equal(`${stdout}`, "y\ny\n");
  });

  it("goes on recording where nobody reads the output any more", async () => {
    const script = `${runlog} exec --run inner -- sh -c 'for i in $(seq 1 20000); do echo $i; done' | head -n 1`;
    const shell = commands.startNode(["-e", spawnShell(script)]);
    assert.equal((await shell.ended).stdout.toString(), "1\n");
    const records = await commands.records("--run", "inner", "--until", "finished");
    assert.equal(textsOf(records, "inner").length, 20_000);
    assert.equal(resultOf(records, "inner"), "SUCCEEDED");
  });

  it("loses nothing of a command that has ended, however slowly its output is read", async () => {
    const bytes = 210_000;
    const command = exec(`yes abc | head -c ${bytes}; echo over >&2`);
    command.child.stdout.pause();
    await command.until("stderr", /over/);
    // By now somebody has looked several times whether an output is held open.
    await setTimeout(1_000);
    command.child.stdout.resume();
    const { status, stdout, stderr } = await command.ended;
    assert.deepEqual([status, stdout.length], [0, bytes], stderr);
    assert.match(stderr, new RegExp(`${bytes / 4 + 1} events durable`));
  });

  it("says that a command cannot be run, and ends its run, whatever the system's reason", async () => {
    for (const [name, file] of [
      ["ENOTDIR", `${main}/x`],
      ["ENAMETOOLONG", "x".repeat(300)],
      ["ERR_INVALID_ARG_VALUE", ""],
    ] as const) {
      const { status, stderr } = await commands.start(["exec", "--", file]).ended;
      assert.equal(status, 126, stderr);
      assert.match(stderr, new RegExp(`cannot run .*${name}`));
      assert.match(stderr, /0 events durable, FAILED/);
    }
  });

  it("loses nothing of an exec in the background of another one", async () => {
    const inner = `${runlog} exec --run inner -- sh -c 'for i in 1 2 3; do sleep 0.1; echo $i; done'`;
    const { status } = await exec(`${inner} & echo started`).ended;
    assert.equal(status, 0);
    const records = await commands.records("--ancestor", "r", "--until", "finished");
    assert.deepEqual(textsOf(records, "inner"), ["1", "2", "3"]);
    assert.equal(resultOf(records, "inner"), "SUCCEEDED");
  });

  it("gives a terminal with --tty: a width, /dev/tty, one stream in its true order, its status", async () => {
    const script =
      "test -t 1 && test -t 2 && stty size; echo a; echo b >&2; echo c > /dev/tty; exit 3";
    const { status, stdout } = await exec(script, "--tty").ended;
    assert.equal(status, 3);
    assert.equal(`${stdout}`, "24 80\r\na\r\nb\r\nc\r\n");
    assert.deepEqual(textsOf(await recorded(), "r"), ["24 80\r", "a\r", "b\r", "c\r"]);
    const none = await commands.run(["exec", "--tty", "--", "no-such-command-here"]);
    assert.equal(none.status, 127);
  });

  it("records a prompt that waits, and progress that is written over itself", async () => {
    const command = exec(
      "printf 'Name? '; read name; printf '10 %%\\r100 %%\\r'; printf 'hello %s' $name",
    );
    const tail = ["tail", "--run", "r", "--json", "--until", "finished", "--wait"];
    const seen = commands.start(tail);
    await seen.until("stdout", /"line-end":"pause"/);
    command.child.stdin.write("you\n");
    assert.equal((await command.ended).status, 0);
    const records = await recorded();
    assert.deepEqual(textsOf(records, "r"), ["Name? ", "10 %", "100 %", "hello you"]);
    const ends = records.flatMap(({ event }) =>
      event === undefined ? [] : [event.attributes?.["line-end"]],
    );
    assert.deepEqual(ends.slice(0, 3), ["pause", "carriage-return", "carriage-return"]);
    // On a machine that is busy the end may come later than a pause.
    assert.ok(ends[3] === "end-of-input" || ends[3] === "pause");
  });

  it("keeps the order of each stream, and all of both", async () => {
    const script = "for i in $(seq 1 3000); do echo o$i; echo e$i >&2; done";
    await exec(script).ended;
    const texts = textsOf(await recorded(), "r");
    for (const stream of ["o", "e"]) {
      const own = texts.filter((text) => text.startsWith(stream));
      assert.deepEqual(
        own,
        Array.from({ length: 3_000 }, (_, i) => `${stream}${i + 1}`),
      );
    }
  });
});

/** A program for Node that runs a script by the shell with this process's outputs. */
function spawnShell(script: string): string {
  return `require("node:child_process").spawn("sh", ["-c", ${JSON.stringify(script)}], { stdio: "inherit" })`;
}

describe("recording while the server is away", () => {
  const commands = new Commands();
  let directory: string;
  let file: string;

  beforeEach(async () => {
    directory = await mkdtemp(join(tmpdir(), "runlog-exec-"));
    file = join(directory, "journal.db");
  });

  afterEach(async () => {
    await commands.endAll();
    await rm(directory, { recursive: true });
  });

  const count = 30_000;
  const lines = Array.from({ length: count }, (_, i) => `${i + 1}`);

  it("does not slow the command: output beyond the memory waits on disk, in order", async () => {
    const server = await commands.serve(file);
    const done = join(directory, "done");
    const script = `echo 0; read line; seq 1 ${count}; echo yes > ${done}; read line`;
    const command = commands.start(["exec", "--run", "r", "--", "sh", "-c", script]);
    await command.until("stdout", /^0\n/);
    const seen = commands.start(["tail", "--run", "r", "--json", "--wait"]);
    await seen.until("stdout", /"event"/);
    await server.kill("SIGKILL");
    command.child.stdin.write("go\n");
    await command.until("stderr", /keeping them on disk/);
    await command.until("stdout", new RegExp(`^${count}\n`, "m"));
    // The command is at its next line, and the server is still away.
    command.child.stdin.write("end\n");
    const isDone = async () => (await readFile(done, "utf8").catch(() => "")) === "yes\n";
    while (!(await isDone())) await new Promise((resolve) => setImmediate(resolve));
    await commands.serve(file, new URL(commands.url).host);
    const { status, stderr } = await command.ended;
    assert.equal(status, 0, stderr);
    const records = await commands.records("--run", "r", "--until", "finished");
    assert.deepEqual(textsOf(records, "r"), ["0", ...lines]);
  });

  it("says when the disk's share is used up, and then waits; nothing is lost", async () => {
    const server = await commands.serve(file);
    const command = commands.start(["ingest", "--run", "r", "--spool", "200KiB"]);
    command.child.stdin.write("0\n");
    const tail = commands.start(["tail", "--all", "--json"]);
    await tail.until("stdout", /"event"/);
    await server.kill("SIGKILL");
    command.child.stdin.end(`${lines.join("\n")}\n`);
    await command.until("stderr", /200.0 KiB are on disk.*input waits/);
    await commands.serve(file, new URL(commands.url).host);
    const { status, stderr } = await command.ended;
    assert.equal(status, 0, stderr);
    const records = await commands.records("--run", "r", "--until", "finished");
    assert.deepEqual(textsOf(records, "r"), ["0", ...lines]);
  });

  it("counts what a server that came back with a lower limit does not take, and says so in the log", async () => {
    const server = await commands.serve(file);
    const command = commands.start(["ingest", "--run", "r"]);
    await command.until("stderr", /^run r\n/);
    command.child.stdin.write("first\n");
    const tail = commands.start(["tail", "--all", "--json"]);
    await tail.until("stdout", /"event"/);
    await server.kill("SIGKILL");
    await command.until("stderr", /lost the connection/);
    command.child.stdin.end(`${"x".repeat(4_000)}\nlast\n`);
    const { host } = new URL(commands.url);
    const limited = commands.start([
      ...["serve", "--listen", host, "--journal", `sqlite:${file}`],
      ...["--limit", "max-event-bytes=1KiB"],
    ]);
    await limited.until("stdout", /listening/);
    const ended = await command.ended;
    assertFailed(ended, /1 not recorded/);
    const records = await commands.records("--run", "r", "--until", "finished");
    assert.deepEqual(
      records.flatMap(({ event }) => (event === undefined ? [] : [event.type])),
      ["line", "line", "runlog.dropped"],
    );
  });

  it("reads the same file again after a kill -9, and doubles nothing", async () => {
    await commands.serve(file);
    const input = join(directory, "input");
    // A line that is too long and an empty one count as well.
    const all = ["\ufefffirst", "", "y".repeat(1_100_000), ...lines.slice(0, 5_000), "last"];
    await writeFile(input, all.join("\r\n"));
    const args = ["ingest", "--run", "r", "--resume-input"];
    const first = commands.start(args);
    const half = (await readFile(input)).subarray(0, 1_110_000);
    first.child.stdin.write(half);
    const tail = commands.start(["tail", "--all", "--json"]);
    await tail.until("stdout", /"runSeq":"1000"/);
    await first.kill("SIGKILL");
    const second = await commands.run(args, await readFile(input));
    assert.match(second.stderr, /line 3 has .* not recorded|continuing it/);
    const records = await commands.records("--run", "r", "--until", "finished");
    const texts = textsOf(records, "r");
    assert.equal(texts.length, all.length);
    assert.deepEqual(texts.slice(3), [...lines.slice(0, 5_000).map((line) => `${line}\r`), "last"]);
    const third = await commands.run(args, await readFile(input));
    assert.equal(third.status, 0, third.stderr);
    assert.match(third.stderr, /run r: 0 events durable, SUCCEEDED/);
  });
});
