/** A call with many subscriptions: what they cost, and whose turn it is. */
import assert from "node:assert/strict";
import { type ChildProcess, spawn } from "node:child_process";
import { once } from "node:events";
import { readFileSync } from "node:fs";
import { mkdtemp, rm } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { createInterface } from "node:readline";
import { fileURLToPath } from "node:url";
import { startTestServer } from "../support/server.ts";
import { isThorough } from "../support/thorough.ts";
import { ManySubscriber, Watcher } from "../support/watcher.ts";
import { describeWire, refusalOf, type Wire, type WireClient, wires } from "../support/wire.ts";

const KiB = 1024;
/** Calls take long to fill: over one protocol, and over all others in a thorough run. */
const isTried = (wire: Wire) => wire.isBidirectional && (isThorough || wire === wires[0]);

const main = fileURLToPath(new URL("../../src/cli/main.ts", import.meta.url));

const runs = (...runIds: string[]) => ({
  scope: { case: "runIds" as const, value: { runIds } },
});

/** Bytes that a process has in memory. */
function rssOf(pid: number): number {
  const status = readFileSync(`/proc/${pid}/status`, "utf8");
  return KiB * Number(/^VmRSS:\s+(\d+) kB$/m.exec(status)?.[1]);
}

async function createRuns(client: WireClient, ids: readonly string[]): Promise<void> {
  for (let i = 0; i < ids.length; i += 100) {
    await Promise.all(ids.slice(i, i + 100).map((runId) => client.runs.createRun({ runId })));
  }
}

/** Starts a subscription to each run and reads until all have caught up. */
async function followAll(watcher: Watcher, ids: readonly string[]): Promise<void> {
  for (const [index, runId] of ids.entries()) watcher.start(index + 1, runs(runId));
  for (let caughtUp = 0; caughtUp < ids.length; ) {
    const answer = await watcher.next();
    assert.ok(answer?.frame.case === "response", `${answer?.frame.case}`);
    if (answer.frame.value.frame.case === "caughtUp") caughtUp++;
  }
}

/** How a call has subscriptions to `quiet` runs, and under the id 5,000 to one that is busy. */
const callKinds = {
  async Watch(client: WireClient, quiet: readonly string[]) {
    const watcher = new Watcher(client);
    await followAll(watcher, quiet);
    watcher.start(5_000, runs("busy"));
    await watcher.expect(5_000, "subscribed");
    await watcher.records(5_000);
    return watcher;
  },
  async SubscribeMany(client: WireClient, quiet: readonly string[]) {
    const asked = quiet.map((runId, index): [number, { filter: ReturnType<typeof runs> }] => [
      index + 1,
      { filter: runs(runId) },
    ]);
    const filter = runs("busy");
    const many = new ManySubscriber(client, { ...Object.fromEntries(asked), 5000: { filter } });
    for (let caughtUp = 0; caughtUp < quiet.length; ) {
      const answer = await many.next();
      assert.ok(answer?.frame.case === "response", `${answer?.frame.case}`);
      if (answer.frame.value.frame.case === "caughtUp") caughtUp++;
    }
    return many;
  },
};

for (const [kind, open] of Object.entries(callKinds)) {
  describeWire(`1,000 subscriptions on one ${kind} call`, (wire: Wire) => {
    if (!isTried(wire)) return;

    it("share the call: a busy one goes one frame further for each round of the others", async () => {
      const server = await startTestServer();
      const client = await wire.connect(server.url);
      const other = await wire.connect(server.url);
      try {
        const ids = Array.from({ length: 999 }, (_, i) => `quiet-${i}`);
        await createRuns(client, ids);
        // 32 MiB in frames of 256 KiB: far more than all buffers on the way hold.
        const data = Buffer.alloc(4 * KiB, "x");
        let epoch = 0n;
        for (let at = 0; at < 8_000; at += 500) {
          const events = Array.from({ length: 500 }, () => ({ type: "test", data }));
          const request = { runId: "busy", epoch, firstRunSeq: BigInt(at + 1), events };
          ({ epoch } = await client.ingest.appendEvents({ ...request, create: {} }));
        }
        const call = await open(client, ids);
        // Not read meanwhile: the call is full when the others have their news.
        for (let i = 0; i < ids.length; i += 100) {
          await Promise.all(
            ids.slice(i, i + 100).map((runId) => {
              const events = [{ type: "news" }];
              return other.ingest.appendEvents({ runId, firstRunSeq: 1n, events });
            }),
          );
        }
        let busyFrames = 0;
        const seen = new Set<number>();
        while (seen.size < ids.length) {
          const answer = await call.next();
          if (answer?.subscriptionId === 5_000) busyFrames++;
          else seen.add(answer!.subscriptionId);
        }
        // What HTTP/2's windows and the sockets' buffers hold was sent before; of a call that
        // only the busy one had, all would come first.
        assert.ok(
          busyFrames <= 64,
          `${busyFrames} of about 125 frames came before the news of all`,
        );
        call.cancel();
        await refusalOf(
          (async () => {
            while ((await call.next()) !== undefined) {
              // What was on its way.
            }
          })(),
        );
      } finally {
        client.close();
        other.close();
        await server.remove();
      }
    });
  });
}

describeWire("5,000 idle subscriptions on one call", (wire: Wire) => {
  if (!isTried(wire)) return;
  const count = 5_000;
  let directory: string;
  let server: ChildProcess;
  let url: string;

  beforeEach(async () => {
    directory = await mkdtemp(join(tmpdir(), "runlog-many-"));
    const journal = `sqlite:${join(directory, "journal.db")}`;
    const args = [main, "serve", "--listen", "127.0.0.1:0", "--journal", journal];
    server = spawn(process.execPath, args, { stdio: ["ignore", "pipe", "inherit"] });
    const [line] = (await once(createInterface({ input: server.stdout! }), "line")) as [string];
    url = line.replace("listening on ", "");
  });

  afterEach(async () => {
    server.kill("SIGKILL");
    await once(server, "close");
    await rm(directory, { recursive: true });
  });

  it("cost less than 30 KiB each", async () => {
    const client = await wire.connect(url);
    const ids = Array.from({ length: count }, (_, i) => `run-${i}`);
    await createRuns(client, ids);
    const before = rssOf(server.pid!);
    const watcher = new Watcher(client);
    await followAll(watcher, ids);
    const each = (rssOf(server.pid!) - before) / count;
    console.log(`      ${(each / KiB).toFixed(1)} KiB each`);
    assert.ok(each < 30 * KiB, `${each} bytes each`);
    watcher.cancel();
    await refusalOf(watcher.next());
    client.close();
  });
});
