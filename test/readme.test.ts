/**
 * The commands and code of the README, the TypeScript of docs/clients.md and docs/input.md, and
 * examples/orchestrator.ts, run as they are written, against a server of their own.
 */
import assert from "node:assert/strict";
import { execFile } from "node:child_process";
import { mkdtemp, readFile, rm, writeFile } from "node:fs/promises";
import { join } from "node:path";
import { fileURLToPath } from "node:url";
import { promisify } from "node:util";
import { pino } from "pino";
import { connect } from "../src/client/node/runlog.ts";
import { type RunningServer, startServer } from "../src/server/server.ts";

const root = fileURLToPath(new URL("..", import.meta.url));
const run = promisify(execFile);

/** Where a clone has what the package exports. */
const sources: Readonly<Record<string, string>> = {
  '"runlog"': '"../../src/client/node/runlog.ts"',
};

describe("the README's code", () => {
  let directory: string;
  let server: RunningServer;

  before(async () => {
    // Inside the clone, so that packages resolve.
    directory = await mkdtemp(join(root, "test/.readme-"));
    const journal = `sqlite:${join(directory, "journal.db")}`;
    const logger = pino({ level: "silent" });
    server = await startServer({ host: "127.0.0.1", port: 0, journal, logger });
  });

  after(async () => {
    await server.drain();
    await rm(directory, { recursive: true });
  });

  /** Writes code to a file, for this server and for a clone. */
  const program = async (name: string, block: string): Promise<string> => {
    let code = block.replace("http://127.0.0.1:7400", server.url);
    for (const [from, to] of Object.entries(sources)) code = code.replaceAll(from, to);
    const file = join(directory, name);
    await writeFile(file, code);
    return file;
  };

  it("is used from a shell first, line by line", async () => {
    const readme = await readFile(join(root, "README.md"), "utf8");
    const path = /^export PATH=.*$/m.exec(readme)![0];
    const firstUse = readme.slice(
      readme.indexOf("## First use"),
      readme.indexOf("## Several nodes"),
    );
    const blocks = [...firstUse.matchAll(/```sh\n(.*?)```/gs)].map((match) => match[1]!);
    const commands = blocks.filter((block) => !block.startsWith("runlog serve"));
    assert.ok(commands.length >= 5);
    // As a user has it: in a directory of their own, and a command of exec's finds runlog too.
    const inside = "runlog exec --run outer -- sh -c 'runlog exec --run inner -- true'\n";
    const script = `${path}\ncd "$(mktemp -d -p "$HOME")"\ntouch listed\n${commands.join("")}${inside}`;
    const { stdout } = await run("bash", ["-euo", "pipefail", "-c", script], {
      cwd: root,
      env: {
        ...process.env,
        HOME: directory,
        RUNLOG_SERVER: server.url,
        RUNLOG_NAMESPACE: "shell",
      },
    });
    assert.match(stdout, /listed/);
    assert.match(stdout, /plan\.made/);
    assert.match(stdout, /second-try/);
  });

  /** The TypeScript of a page. */
  const blocksOf = async (page: string): Promise<string[]> => {
    const text = await readFile(join(root, page), "utf8");
    return [...text.matchAll(/```ts\n(.*?)```/gs)].map(([, code]) => code!);
  };

  it("records a run, and follows it", async () => {
    const [agent, reader, ...rest] = await blocksOf("README.md");
    assert.equal(rest.length, 0);
    const ran = await run(process.execPath, [await program("agent.ts", agent!)]);
    assert.deepEqual([ran.stdout, ran.stderr], ["", ""]);
    const { stdout } = await run(process.execPath, [await program("reader.ts", reader!)]);
    const lines = stdout
      .trim()
      .split("\n")
      .map((line) => line.trim());
    assert.deepEqual(lines, [
      "1 started",
      '2 event plan.made {"steps":3}',
      "3 event note looking around",
      "4 finished",
      "to go on later: 4",
    ]);
  });

  it("of docs/clients.md starts runs, and reads them", async () => {
    const [producer, reader, ...rest] = await blocksOf("docs/clients.md");
    assert.equal(rest.length, 0);
    const ran = await run(process.execPath, [await program("producer.ts", producer!)]);
    assert.deepEqual([ran.stdout, ran.stderr], ["1 0\n", ""]);
    const { stdout } = await run(process.execPath, [await program("reader.ts", reader!)]);
    assert.match(
      stdout,
      /^catching-up\n\d thought where to\?\n\d found \{"rooms":3\}\nlive\nended\n/,
    );
    assert.match(stdout, / SUCCEEDED\n$/);
  });

  it("of examples/orchestrator.ts starts sub-agents, and follows them all", async () => {
    const { stdout } = await run(process.execPath, [
      join(root, "examples/orchestrator.ts"),
      server.url,
    ]);
    const lines = stdout
      .trim()
      .split("\n")
      .map((line) => line.replace(/^\d+ /, ""));
    assert.equal(lines[0], "orchestrator: started");
    assert.equal(lines.at(-1), 'orchestrator: finished SUCCEEDED {"found":2}');
    assert.ok(lines.includes("dragons: finished FAILED nothing is known about dragons"));
    assert.ok(lines.includes('tides: finished SUCCEEDED {"length":5}'));
    assert.equal(lines.length, 15);
  });

  it("of docs/input.md waits for a signal, and sends one", async () => {
    const [agent, sender, ...rest] = await blocksOf("docs/input.md");
    assert.equal(rest.length, 0);
    await using log = connect(server.url);
    const ended = new AbortController();
    const running = run(process.execPath, [await program("agent.ts", agent!)]);
    running.catch(() => ended.abort());
    try {
      const { signal } = ended;
      for await (const { kind } of log.follow({ run: "tidy" }, { allowMissing: true, signal })) {
        if (kind === "waiting") break;
      }
      const sent = await run(process.execPath, [await program("sender.ts", sender!)]);
      assert.equal(sent.stdout, "sent 1\n");
      await running;
    } finally {
      running.child.kill();
    }
  });
});
