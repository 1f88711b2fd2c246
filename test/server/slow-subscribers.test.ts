/**
 * Subscribers that do not read. If the server kept for each of them what it has
 * not read, it would hold a gigabyte here; the kernel says what it holds.
 */
import assert from "node:assert/strict";
import { type ChildProcess, spawn } from "node:child_process";
import { once } from "node:events";
import { readFileSync } from "node:fs";
import { mkdtemp, rm } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { createInterface } from "node:readline";
import { fileURLToPath } from "node:url";
import { createClient } from "@connectrpc/connect";
import { IngestService } from "../../gen/runlog/v1/ingest_pb.js";
import { RunState } from "../../gen/runlog/v1/run_pb.js";
import { StopPolicy, SubscribeService } from "../../gen/runlog/v1/subscribe_pb.js";
import { connectTo } from "../../src/client/node/index.ts";

const eventCount = 200_000;
const payloadBytes = 256;
const eventsPerAppend = 500;
const slowCount = 20;
const MiB = 1024 * 1024;
/**
 * The tail (64 MiB), one page and one frame of each slow subscriber with its
 * HTTP/2 buffers, SQLite's two caches (64 MiB each), and the heap's slack.
 */
const bound = 400 * MiB;

const main = fileURLToPath(new URL("../../src/cli/main.ts", import.meta.url));

/** A figure of a process's status, in bytes. */
function memoryOf(pid: number, figure: "VmRSS" | "VmHWM"): number {
  const status = readFileSync(`/proc/${pid}/status`, "utf8");
  return 1024 * Number(new RegExp(`^${figure}:\\s+(\\d+) kB$`, "m").exec(status)?.[1]);
}

describe("subscribers that stop reading", () => {
  let directory: string;
  let server: ChildProcess;
  let url: string;

  beforeEach(async () => {
    directory = await mkdtemp(join(tmpdir(), "runlog-slow-"));
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

  it(`cost bounded memory while ${eventCount} events arrive, delay nobody, and get all of them later`, async () => {
    const connection = connectTo(url);
    const ingest = createClient(IngestService, connection.transport);
    await ingest.appendEvents({ runId: "run", create: {} });
    const before = memoryOf(server.pid!, "VmRSS");

    // Each on a connection of its own, and asked for its first frame only.
    const slow = await Promise.all(
      Array.from({ length: slowCount }, async () => {
        const own = connectTo(url);
        const frames = createClient(SubscribeService, own.transport)
          .subscribe({
            filter: {
              scope: { case: "ancestor", value: { ancestorRunId: "run", includeSelf: true } },
            },
            stop: StopPolicy.FINISHED,
          })
          [Symbol.asyncIterator]();
        const first = await frames.next();
        assert.equal(first.done === true ? undefined : first.value.frame.case, "subscribed");
        return { frames, close: own.close };
      }),
    );

    const data = Buffer.alloc(payloadBytes, "x");
    async function* requests() {
      yield { frame: { case: "open", value: { runId: "run" } } } as const;
      for (let at = 0; at < eventCount; at += eventsPerAppend) {
        const events = Array.from({ length: eventsPerAppend }, () => ({ type: "test", data }));
        const value = { runId: "run", firstRunSeq: BigInt(at + 1), events };
        yield { frame: { case: "append", value } } as const;
      }
      const result = { state: RunState.SUCCEEDED };
      const value = { runId: "run", lastRunSeq: BigInt(eventCount), result };
      yield { frame: { case: "finish", value } } as const;
    }
    const sending = (async () => {
      for await (const { frame } of ingest.ingest(requests())) {
        if (frame.case === "rejected") throw new Error(frame.value.message);
      }
    })();

    // A subscriber that reads has everything while the slow ones have read nothing.
    const reading = createClient(SubscribeService, connection.transport).subscribe({
      filter: { scope: { case: "runIds", value: { runIds: ["run"] } } },
      stop: StopPolicy.FINISHED,
    });
    let read = 0;
    for await (const { frame } of reading) {
      if (frame.case === "events") read += frame.value.events.length;
    }
    await sending;
    assert.equal(read, eventCount + 2);
    const peak = memoryOf(server.pid!, "VmHWM");
    const unread = (slowCount * eventCount * payloadBytes) / MiB;
    console.log(
      `      ${slowCount} subscribers left ${Math.round(unread)} MiB unread; the server grew from ${Math.round(before / MiB)} to ${Math.round(peak / MiB)} MiB at its peak`,
    );
    assert.ok(peak - before < bound, `${Math.round((peak - before) / MiB)} MiB`);

    // Two of them read on; the others go away without having read.
    for (const { frames, close } of slow.splice(0, 2)) {
      let seq = 0n;
      for (let next = await frames.next(); next.done !== true; next = await frames.next()) {
        if (next.value.frame.case !== "events") continue;
        for (const record of next.value.frame.value.events) assert.equal(record.seq, ++seq);
      }
      assert.equal(Number(seq), eventCount + 2);
      close();
    }
    for (const { close } of slow) close();
    connection.close();
  });
});
