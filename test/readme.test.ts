/**
 * The commands and code of the README, and the code of docs/input.md, run as they are written,
 * against a server of their own.
 */
import assert from "node:assert/strict";
import { execFile } from "node:child_process";
import { once } from "node:events";
import { mkdtemp, readFile, rm, writeFile } from "node:fs/promises";
import { join } from "node:path";
import { fileURLToPath } from "node:url";
import { promisify } from "node:util";
import { pino } from "pino";
import { type RunningServer, startServer } from "../src/server/server.ts";

const root = fileURLToPath(new URL("..", import.meta.url));
const run = promisify(execFile);

/** Where a clone has what the package exports. */
const sources: Readonly<Record<string, string>> = {
  '"runlog"': '"../../src/client/index.ts"',
  '"runlog/node"': '"../../src/client/node/index.ts"',
  '"runlog/gen/': '"../../gen/',
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

  it("sends a run, follows it, and watches it", async () => {
    const readme = await readFile(join(root, "README.md"), "utf8");
    const blocks = [...readme.matchAll(/```ts\n(.*?)```/gs)].map((match) => match[1]!);
    assert.equal(blocks.length, 4);
    const outputs: string[] = [];
    for (const [index, block] of blocks.entries()) {
      const file = await program(`block-${index}.ts`, block);
      outputs.push((await run(process.execPath, [file])).stdout);
    }
    const [runId, durable] = outputs[0]!.trim().split(" ");
    assert.equal(durable, "1");
    const lines = outputs[1]!.trim().split("\n");
    assert.deepEqual(lines, [
      `1n ${runId} runStarted`,
      `2n ${runId} event`,
      `3n ${runId} runFinished`,
    ]);
    const counts = outputs[2]!.trim().split("\n");
    assert.deepEqual(counts.toSorted(), ["everything 3", "lives 2"]);
    const frames = outputs[3]!.trim().split("\n");
    assert.deepEqual(frames, ["1 response", "1 response", "1 response", "1 ended"]);
  });

  it("of docs/input.md waits for a signal, and sends one", async () => {
    const page = await readFile(join(root, "docs/input.md"), "utf8");
    const [agent, sender, ...rest] = [...page.matchAll(/```ts\n(.*?)```/gs)].map(
      ([, code]) => code!,
    );
    assert.equal(rest.length, 0);
    const running = run(process.execPath, [await program("agent.ts", agent!)]);
    try {
      assert.match(String(await once(running.child.stdout!, "data")), /waiting/);
      const sent = await run(process.execPath, [await program("sender.ts", sender!)]);
      assert.equal(sent.stdout, "sent 1\n");
      await running;
    } finally {
      running.child.kill();
    }
  });
});
