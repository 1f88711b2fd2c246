/** What happens to exceptions that nobody caught, with a process of its own for each. */
import assert from "node:assert/strict";
import { Commands } from "../cli/commands.ts";

const serverOf = (name: string) => new URL(`../../src/server/${name}`, import.meta.url).href;
const prelude = `
  import { EventEmitter } from "node:events";
  import { pino } from "pino";
  import { defendProcess } from ${JSON.stringify(serverOf("last-defence.ts"))};
  const logger = pino({}, pino.destination({ dest: 2, sync: true }));
  defendProcess({ logger, end: () => process.exit(70) });
  const lost = Object.assign(new Error("lost"), { code: "ECONNRESET" });
`;

describe("a process that is defended", () => {
  const commands = new Commands();

  afterEach(() => commands.endAll());

  /** Runs code behind the defence; what it says last tells that it went on. */
  const run = (code: string) =>
    commands.startNode(["--input-type=module", "-e", `${prelude}${code}`]).ended;
  const goesOn = `setTimeout(() => console.log("went on"), 1);`;

  for (const [name, code] of [
    ["an exception in a timer", `setTimeout(() => { throw new Error("odd"); });`],
    ["a rejection", `void Promise.reject(new Error("odd"));`],
    [
      "an exception in a listener of an abort",
      `
      const abort = new AbortController();
      abort.signal.addEventListener("abort", () => { throw new Error("odd"); });
      abort.abort();`,
    ],
  ] as const) {
    it(`logs ${name} that nobody caught, and ends`, async () => {
      const { status, stdout, stderr } = await run(`${code}setImmediate(() => {${goesOn}});`);
      assert.equal(status, 70);
      assert.equal(stdout.toString(), "");
      assert.match(stderr, /"level":60,.*"message":"odd"/);
    });
  }

  it("logs the loss of a peer that nobody listened for, and goes on", async () => {
    const { status, stdout, stderr } = await run(
      `${goesOn} void Promise.reject(lost); new EventEmitter().emit("error", lost);`,
    );
    assert.deepEqual([status, stdout.toString()], [0, "went on\n"]);
    assert.equal(stderr.match(/"level":50,/g)?.length, 2);
  });
});
