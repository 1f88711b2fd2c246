/** Clients that others would write, each built by its language's own tools, against `runlog serve`. */
import assert from "node:assert/strict";
import { type ChildProcess, execFile, spawn } from "node:child_process";
import { once } from "node:events";
import { mkdtemp, rm } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { createInterface } from "node:readline";
import { promisify } from "node:util";
import { freePort } from "../dev/postgres-server.ts";
import { buildProgram, type Command, type Language, languages, missingTools } from "./programs.ts";

const main = join(import.meta.dirname, "../src/cli/main.ts");
const inCi = Boolean(process.env["CI"]);

const expected = [
  "opened 0",
  "acked 2",
  "ended RUN_STATE_SUCCEEDED",
  "started agent",
  'event plan.made {"steps":2}',
  'event step.done {"step":1}',
  "finished RUN_STATE_SUCCEEDED",
  "refused REASON_RUN_ID_LIMIT 100",
];

describe("a client in another language", () => {
  let directory: string;
  let server: ChildProcess;
  let address: string;
  const builds = new Map<Language, PromiseSettledResult<Command>>();

  before(async () => {
    directory = await mkdtemp(join(tmpdir(), "runlog-languages-"));
    address = `127.0.0.1:${await freePort()}`;
    const journal = `sqlite:${join(directory, "journal.db")}`;
    const args = [main, "serve", "--listen", address, "--journal", journal];
    server = spawn(process.execPath, args, { stdio: ["ignore", "pipe", "inherit"] });
    await once(createInterface({ input: server.stdout! }), "line");
    // Side by side: each waits for its registry most of the time.
    const building = languages.filter((language) => missingTools(language).length === 0);
    const results = await Promise.allSettled(building.map(buildProgram));
    building.forEach((language, index) => {
      builds.set(language, results[index]!);
    });
  });

  after(async () => {
    const ended = once(server, "exit");
    server.kill("SIGTERM");
    await ended;
    await rm(directory, { recursive: true });
  });

  for (const language of languages) {
    const { name } = language;
    const missing = missingTools(language);
    it(`sends a run, follows it, and decodes a refusal in ${name}`, async function () {
      if (missing.length > 0 && !inCi) {
        console.warn(`SKIPPED: the client in ${name}: there is no ${missing.join(", ")} here`);
        this.skip();
      }
      assert.deepEqual(missing, [], "these are not on the PATH");
      const built = builds.get(language);
      if (built?.status === "rejected") throw built.reason;
      const { file, args, env } = built!.value;
      const { stdout } = await promisify(execFile)(file, [...args, address, `run-${name}`], {
        env: { ...process.env, ...env },
      });
      assert.deepEqual(stdout.trim().split("\n"), expected);
    });
  }
});
