/** `runlog exec --signals`: a command that can be talked to, and the example of docs/input.md. */
import assert from "node:assert/strict";
import { mkdtemp, readFile, rm, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { fileURLToPath } from "node:url";
import { BreakingProxy } from "../client/breaking-proxy.ts";
import { Commands, type RunningCommand } from "./commands.ts";

const root = fileURLToPath(new URL("../..", import.meta.url));

/** A record of a run as `tail --json` prints it. */
interface Said {
  readonly handledSignalSeq?: string;
  readonly event?: { readonly type: string; readonly data?: string };
  readonly signal?: { readonly signalSeq: string };
  readonly runWaiting?: { readonly wait: { readonly code: string; readonly deadline?: string } };
  readonly runResumed?: object;
  readonly runFinished?: { readonly result: { readonly state: string } };
}

describe("runlog exec --signals", () => {
  const servers = new Commands();
  const commands = new Commands();
  let directory: string;
  let tests = 0;

  before(async () => {
    directory = await mkdtemp(join(tmpdir(), "runlog-signals-"));
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
    commands.start([
      "exec",
      "--run",
      "r",
      "--name",
      "r",
      "--signals",
      "stdin",
      ...flags,
      "--",
      "sh",
      "-c",
      script,
    ]);
  const signal = (type: string, data: string, ...flags: string[]) =>
    commands.run(["signal", "r", "--type", type, data, ...flags]);
  const records = async (run = "r"): Promise<Said[]> => {
    const { stdout } = await commands.run(["tail", "--run", run, "--until", "caught-up", "--json"]);
    const lines = `${stdout}`.split("\n").filter((line) => line !== "");
    return lines.map((line) => JSON.parse(line) as Said);
  };
  const handledBy = (all: readonly Said[]) =>
    all.flatMap(({ handledSignalSeq, event }) =>
      handledSignalSeq === undefined || event === undefined
        ? []
        : [`${event.type} ${handledSignalSeq}`],
    );
  const lastHandled = async () => {
    const { stdout } = await commands.run(["runs", "--json"]);
    return (JSON.parse(`${stdout}`.split("\n")[0]!) as { handledSignalSeq?: string })
      .handledSignalSeq;
  };
  /** Lets a script begin before it gets anything. */
  const begun = (command: RunningCommand) => command.until("stdout", /begun\n/);

  it("passes each as a line of JSON, and records the line that answers it as its handling", async () => {
    const command = exec(
      `echo begun; head -n 3
       echo '{"type":"answer","signal_seq":2}'`,
    );
    await begun(command);
    await signal("approval", '{"approved": [1, "ü"]}', "--id", "one");
    await signal("message", "plain text\nof two lines", "--id", "two");
    await signal("bytes", "", "--id", "three", "--content-type", "image/png");
    const { status, stdout } = await command.ended;
    assert.equal(status, 0);
    const lines = `${stdout}`.trim().split("\n").slice(1);
    assert.deepEqual(
      lines.slice(0, 3).map((line) => JSON.parse(line) as unknown),
      [
        { signal_seq: 1, signal_id: "one", type: "approval", data: { approved: [1, "ü"] } },
        {
          signal_seq: 2,
          signal_id: "two",
          type: "message",
          data: "plain text\nof two lines",
          content_type: "text/plain",
        },
        { signal_seq: 3, signal_id: "three", type: "bytes", content_type: "image/png" },
      ],
    );
    const all = await records();
    // The lines that the command repeated have a signal_seq, too.
    assert.deepEqual(handledBy(all), ["approval 1", "message 2", "bytes 3"]);
    assert.equal(all.at(-1)?.runFinished?.result.state, "RUN_STATE_SUCCEEDED");
  });

  it("passes JSON as it was sent, however large its numbers and however deep", async () => {
    const command = exec("echo begun; head -n 2; read a");
    await begun(command);
    const numbers = '{"id": 12345678901234567890,\r\n "x": 1e400}';
    await signal("m", numbers, "--id", "numbers");
    const deep = `${"[".repeat(100_000)}${"]".repeat(100_000)}`;
    await commands.run(["signal", "r", "--type", "m", "--id", "deep", "-"], deep);
    await signal("m", "1");
    const { status, stdout } = await command.ended;
    assert.equal(status, 0);
    assert.deepEqual(`${stdout}`.split("\n").slice(1, 3), [
      '{"signal_seq":1,"signal_id":"numbers","type":"m","data":{"id": 12345678901234567890,   "x": 1e400}}',
      `{"signal_seq":2,"signal_id":"deep","type":"m","data":${deep}}`,
    ]);
  });

  it("gets a signal once, though the answer to its sender was lost", async () => {
    const command = exec("echo begun; read a");
    await begun(command);
    let losses = 2;
    const proxy = await BreakingProxy.start(servers.url, () => (from, chunk) => {
      // Longer than SETTINGS and acknowledgements: the answer.
      if (from === "client" || chunk.length < 60 || losses === 0) return "forward";
      losses--;
      return "cut";
    });
    try {
      const args = ["signal", "r", "--type", "m", "1"];
      const { status } = await commands.run(args, "", { RUNLOG_SERVER: proxy.url });
      assert.deepEqual([status, proxy.cuts], [0, 2]);
    } finally {
      await proxy.close();
    }
    await command.ended;
    assert.equal((await records()).filter((record) => record.signal !== undefined).length, 1);
  });

  it("is sent no text that was meant as JSON, unless it is called text", async () => {
    const command = exec('echo begun; read -r line; echo "$line"');
    await begun(command);
    const broken = await signal("approval", ' {"approved": tru}');
    assert.equal(broken.status, 2);
    assert.match(broken.stderr, /begins as JSON and is none/);
    const flags = ["--content-type", "text/plain"];
    assert.equal((await signal("approval", "{braces}", ...flags)).status, 0);
    const { stdout } = await command.ended;
    assert.match(`${stdout}`, /"signal_seq":1,.*"data":"\{braces\}"/);
  });

  it("passes again what was not answered, and nothing else", async () => {
    const first = exec(
      `echo begun; read a; echo '{"type":"answer","signal_seq":1}'; read b; kill -9 $$`,
    );
    await begun(first);
    await signal("m", '"one"');
    await first.until("stdout", /"signal_seq":1}/);
    const killed = commands.start(["tail", "--run", "r", "--json"]);
    await killed.until("stdout", /"handledSignalSeq":"1"/);
    await first.kill("SIGKILL");
    // It may say again what it has handled.
    const idle = exec(`echo '{"type":"again","signal_seq":1}'; echo begun; read a`);
    await begun(idle);
    assert.doesNotMatch((await idle.kill("SIGKILL")).stderr, /answers none/);
    await signal("m", '"two"');
    const second = exec('read a; echo "$a"');
    const { stdout, stderr } = await second.ended;
    assert.match(`${stdout}${stderr}`, /"signal_seq":2,.*"data":"two"/);
    assert.doesNotMatch(`${stdout}`, /"data":"one"/);
  });

  it("ends the input of a command whose run another one continues, and says so", async () => {
    const first = exec("echo begun; cat; echo over");
    await begun(first);
    const second = exec("echo begun; read a");
    await begun(second);
    const { status, stdout, stderr } = await first.ended;
    assert.deepEqual([status, `${stdout}`], [1, "begun\nover\n"]);
    assert.match(stderr, /gets no more signals: another producer has opened the run/);
    await signal("m", "1");
    assert.equal((await second.ended).status, 0);
  });

  it("takes no number for an answer that no signal has", async () => {
    // More than JSON.stringify takes; as an argument there is a limit.
    const deep = `${"[".repeat(20_000)}${"]".repeat(20_000)}`;
    const command = exec(
      `echo begun; read a
       for n in 2 0 1.5 '"1"' ${deep}; do
         echo "{\\"type\\":\\"answer\\",\\"signal_seq\\":$n}"
       done
       echo '  {"type":"answer","signal_seq":1}'`,
    );
    await begun(command);
    await signal("m", "1");
    const { status, stderr } = await command.ended;
    assert.equal(status, 0);
    assert.equal(stderr.match(/recorded as a line that answers none/g)?.length, 5);
    assert.ok(stderr.length < 1_000);
    const all = await records();
    assert.deepEqual(handledBy(all), ["answer 1"]);
    assert.equal(all.filter(({ event }) => event?.type === "answer").length, 6);
  });

  it("counts one as handled once it was written, where a flag says so", async () => {
    const command = exec("echo begun; read a; echo got", "--signals-when-written");
    await begun(command);
    await signal("m", "1");
    await command.ended;
    assert.equal(await lastHandled(), "1");
    assert.deepEqual(handledBy(await records()), []);
  });

  it("does not disturb a command that has closed its standard input", async () => {
    const command = exec(
      "exec 0<&-; echo begun; while kill -0 $PPID; do sleep 0.02; done",
      "--grace",
      "5s",
    );
    await begun(command);
    const large = `"${"x".repeat(200_000)}"`;
    for (let i = 0; i < 3; i++) await commands.run(["signal", "r", "--type", "m", "-"], large);
    await command.until("stderr", /closed its standard input; they stay unhandled/);
    await command.kill("SIGTERM");
    assert.equal((await records()).filter((record) => record.signal !== undefined).length, 3);
    assert.equal(await lastHandled(), undefined);
  });

  it("records a command that does not read its standard input, to its end", async () => {
    const go = join(directory, "go");
    const command = exec(
      `echo begun; while [ ! -e ${go} ] && kill -0 $PPID; do sleep 0.02; done; echo end`,
    );
    await begun(command);
    const large = `"${"x".repeat(200_000)}"`;
    for (let i = 0; i < 3; i++) await commands.run(["signal", "r", "--type", "m", "-"], large);
    await writeFile(go, "");
    const { status, stdout } = await command.ended;
    assert.deepEqual([status, `${stdout}`], [0, "begun\nend\n"]);
    assert.equal(await lastHandled(), undefined);
    assert.equal((await records()).at(-1)?.runFinished?.result.state, "RUN_STATE_SUCCEEDED");
  });

  it("does not let the run wait once the next line answers what came before", async () => {
    const command = exec(
      `echo begun; read a
       printf '{"type":"q","wait":{"code":"a"}}\\n{"type":"answer","signal_seq":1}\\n'`,
    );
    await begun(command);
    await signal("m", "1");
    assert.equal((await command.ended).status, 0);
    const all = await records();
    assert.deepEqual(handledBy(all), ["answer 1"]);
    assert.ok(!all.some(({ runWaiting }) => runWaiting !== undefined));
  });

  it("lets the run wait where a line says so, and go on with the next", async () => {
    const command = exec(
      `echo begun; echo '{"type":"q","wait":{"code":"approval","deadline":"2100-01-01T00:00:00Z"}}'
       read a; echo "$a"; echo '{"wait":{"code":""}}'; echo '{"wait":1}'
       echo '{"wait":{"code":"a","deadline":4102444800}}'
       echo '{"wait":{"code":"a","deadline":"-000001-01-01T00:00:00Z"}}'`,
    );
    const waits = commands.start(["tail", "--run", "r", "--json", "--wait"]);
    await waits.until("stdout", /runWaiting/);
    const { stdout } = await commands.run(["runs"]);
    assert.match(`${stdout}`, /approval/);
    await signal("m", "1");
    const { stderr } = await command.ended;
    assert.equal(stderr.match(/a wait that is none/g)?.length, 2);
    assert.match(stderr, /does not wait: wait\.wait\.code: is missing/);
    assert.match(stderr, /does not wait: wait\.wait\.deadline/);
    const facts = (await records()).flatMap(({ runWaiting, runResumed, event }) =>
      runWaiting
        ? [`waits ${runWaiting.wait.code}`]
        : runResumed
          ? ["resumes"]
          : event
            ? [event.type]
            : [],
    );
    assert.deepEqual(facts, [
      "line",
      "q",
      "waits approval",
      "resumes",
      "m",
      "line",
      "line",
      "line",
      "line",
    ]);
  });

  it("is refused with a terminal, and its companion without it", async () => {
    for (const [flags, message] of [
      [["--signals", "stdin", "--tty"], /--tty.*cannot be used with.*--signals/],
      [["--signals-when-written"], /--signals-when-written needs --signals/],
      [["--signals", "file"], /Allowed choices are stdin/],
    ] as const) {
      const { status, stderr } = await commands.run(["exec", ...flags, "--", "true"]);
      assert.equal(status, 2);
      assert.match(stderr, message);
    }
  });

  it("makes the agent of docs/input.md one that is killed, comes back and goes on", async () => {
    const page = await readFile(join(root, "docs/input.md"), "utf8");
    const blocks = [...page.matchAll(/```sh\nrunlog (.*?)\n```/gs)].map((match) => match[1]!);
    const [, start, message, approval, tail] = blocks;
    const words = (line: string) =>
      [...line.matchAll(/'([^']*)'|(\S+)/g)].map(([, quoted, bare]) => quoted ?? bare!);
    const startAgent = () =>
      commands.start(
        words(start!).map((word) => {
          if (word === "node") return process.execPath;
          return word.startsWith("examples/") ? join(root, word) : word;
        }),
      );
    const first = startAgent();
    await first.until("stdout", /"type":"question"/);
    await commands.run(words(message!));
    await first.until("stdout", /"type":"answer".*\n.*"type":"question"/);
    const seen = commands.start(["tail", "--run", "cleanup", "--json"]);
    await seen.until("stdout", /runWaiting(.|\n)*runWaiting/);
    await first.kill("SIGKILL");
    await commands.run(words(approval!));
    const second = startAgent();
    const { status, stdout } = await second.ended;
    assert.equal(status, 0);
    assert.match(`${stdout}`, /"type":"backups.deleted","signal_seq":2/);
    assert.doesNotMatch(`${stdout}`, /"type":"answer"/);
    const shown = await commands.run(words(tail!));
    assert.match(`${shown.stdout}`, /succeeded/);
    assert.deepEqual(handledBy(await records("cleanup")), ["answer 1", "backups.deleted 2"]);
  });
});
