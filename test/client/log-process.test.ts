/** What becomes of a process that uses a log. */
import assert from "node:assert/strict";
import { execFile } from "node:child_process";
import { promisify } from "node:util";
import { startTestServer, type TestServer } from "../support/server.ts";

const run = promisify(execFile);
const module = new URL("../../src/client/node/runlog.ts", import.meta.url).href;

describe("a process that uses a log", () => {
  let server: TestServer;

  beforeEach(async () => {
    server = await startTestServer();
  });

  afterEach(async () => {
    await server.remove();
    assert.deepEqual(server.errors, []);
  });

  /** Runs a program to its end; rejects where that is not a good one. */
  const program = (code: string) => {
    const head = `import { connect } from ${JSON.stringify(module)};
      const log = connect(${JSON.stringify(server.url)});`;
    return run(process.execPath, ["--input-type=module-typescript", "-e", `${head}\n${code}`]);
  };

  it("ends when its runs and loops have ended, without close", async () => {
    const { stdout, stderr } = await program(`
      await log.withRun({ runId: "r", agent: "planner" }, async (run) => {
        run.emit("plan.made", { steps: 3 });
      });
      for await (const e of log.follow({ run: "r" }, { until: "finished" })) console.log(e.seq, e.kind);
      for await (const e of log.follow({ all: true })) if (e.kind === "finished") break;
    `);
    assert.equal(stdout, "1 started\n2 event\n3 finished\n");
    assert.equal(stderr, "");
  });

  it("goes on where nobody awaits what fails, and says it once", async () => {
    const { stdout, stderr } = await program(`
      await log.startRun({ runId: "r", agent: "a" }).finish();
      const run = log.startRun({ runId: "r", agent: "another", limits: { maxBufferedEvents: 1 } });
      run.emit("one");
      run.emitAsync("two");
      run.flush();
      run.wait("input");
      run.waitFor("input");
      run.finish();
      run.fail(new Error("x"));
      run.cancelled();
      await run.over;
      run.emit("late");
      run.flush();
      console.log(run.state, run.error.reason);
    `);
    assert.equal(stdout, "failed RUN_EXISTS\n");
    assert.equal(stderr.match(/RunlogWarning: run r is recorded no longer/g)?.length, 1, stderr);
    assert.equal(stderr.match(/RunlogWarning/g)?.length, 2, stderr);
  });

  it("ends after close, whatever runs and loops there are", async () => {
    const { stdout } = await program(`
      const run = log.startRun();
      run.emit("last");
      const loop = (async () => {
        for await (const e of log.follow({ all: true })) console.log(e.kind);
      })();
      await run.flush();
      await log.close();
      await loop;
    `);
    assert.match(stdout, /^(started\n)?(event\n)?$/);
  });
});
