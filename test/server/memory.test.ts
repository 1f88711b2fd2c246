/**
 * One ceiling for the process, against clients that make it hold as much as they can. The
 * kernel says what it holds; meanwhile a producer, a subscriber and a health check go on.
 */
import assert from "node:assert/strict";
import { type ChildProcess, spawn } from "node:child_process";
import { once } from "node:events";
import { readFileSync } from "node:fs";
import { mkdtemp, rm } from "node:fs/promises";
import * as http2 from "node:http2";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { createInterface } from "node:readline";
import { fileURLToPath } from "node:url";
import { create, type DescMessage, type MessageInitShape, toBinary } from "@bufbuild/protobuf";
import { createClient } from "@connectrpc/connect";
import { Health } from "../../gen/grpc/health/v1/health_pb.js";
import { IngestRequestSchema, IngestService } from "../../gen/runlog/v1/ingest_pb.js";
import { RunState } from "../../gen/runlog/v1/run_pb.js";
import { SubscribeRequestSchema, SubscribeService } from "../../gen/runlog/v1/subscribe_pb.js";
import { connectTo, type NodeConnection } from "../../src/client/node/index.ts";

const KiB = 1024;
const MiB = 1024 * KiB;
const ceiling = 64 * MiB;
/**
 * Of the process: the ceiling, garbage that a busy machine has not collected yet, and what
 * Node grows by. Without a ceiling each of these attacks takes 400 MiB and more.
 */
const bound = 4 * ceiling + 48 * MiB;

const main = fileURLToPath(new URL("../../src/cli/main.ts", import.meta.url));
const all = { scope: { case: "all" as const, value: {} } };

/** A message in gRPC's envelope. */
function enveloped<S extends DescMessage>(schema: S, init: MessageInitShape<S>): Buffer {
  const bytes = toBinary(schema, create(schema, init));
  const header = Buffer.alloc(5);
  header.writeUInt32BE(bytes.length, 1);
  return Buffer.concat([header, bytes]);
}

describe("the process's memory", () => {
  let directory: string;
  let server: ChildProcess;
  let url: string;
  let canary: NodeConnection;
  let sessions: http2.ClientHttp2Session[];
  /** How streams of the attack ended: gRPC's status, or HTTP/2's error code. */
  let ends: string[];

  beforeEach(async () => {
    directory = await mkdtemp(join(tmpdir(), "runlog-memory-"));
    const journal = `sqlite:${join(directory, "journal.db")}`;
    const limits = [`memory-bytes=${ceiling}`, `tail-bytes=${MiB}`];
    const args = [main, "serve", "--listen", "127.0.0.1:0", "--journal", journal];
    args.push(...limits.flatMap((limit) => ["--limit", limit]));
    server = spawn(process.execPath, args, { stdio: ["ignore", "pipe", "inherit"] });
    const [line] = (await once(createInterface({ input: server.stdout! }), "line")) as [string];
    url = line.replace("listening on ", "");
    canary = connectTo(url);
    sessions = [];
    ends = [];
  });

  afterEach(async () => {
    for (const session of sessions) session.destroy();
    canary.close();
    server.kill("SIGKILL");
    await once(server, "close");
    await rm(directory, { recursive: true });
  });

  function residentBytes(): number {
    const status = readFileSync(`/proc/${server.pid}/status`, "utf8");
    return 1024 * Number(/^VmRSS:\s+(\d+) kB$/m.exec(status)?.[1]);
  }

  /** A connection whose streams read nothing. */
  function deafSession(): http2.ClientHttp2Session {
    const session = http2.connect(url, { settings: { initialWindowSize: 0 } });
    session.on("error", () => undefined);
    sessions.push(session);
    return session;
  }

  function call(session: http2.ClientHttp2Session, method: string): http2.ClientHttp2Stream {
    const stream = session.request({
      ":method": "POST",
      ":path": `/runlog.v1.${method}`,
      "content-type": "application/grpc",
      te: "trailers",
    });
    stream.on("error", () => undefined);
    stream.on("response", ({ "grpc-status": status }) => {
      if (status !== undefined) ends.push(String(status));
    });
    stream.on("trailers", ({ "grpc-status": status }) => ends.push(String(status)));
    stream.on("close", () => ends.push(`reset ${stream.rstCode}`));
    return stream;
  }

  /** Writes a history of some bytes. */
  async function write(runId: string, bytes: number): Promise<void> {
    const { appendEvents } = createClient(IngestService, canary.transport);
    const events = Array.from({ length: 4 }, () => ({ type: "t", data: Buffer.alloc(MiB / 4) }));
    await appendEvents({ runId, create: {} });
    for (let at = 0; at * MiB < bytes; at++) {
      await appendEvents({ runId, firstRunSeq: BigInt(4 * at + 1), events });
    }
  }

  /** An event goes through the server, and a health check is answered, `count` times. */
  async function sing(count: number): Promise<void> {
    const { appendEvents } = createClient(IngestService, canary.transport);
    const health = createClient(Health, canary.transport);
    await appendEvents({ runId: "canary", create: {} });
    const { lastRunSeq } = await appendEvents({ runId: "canary", create: {} });
    const abort = new AbortController();
    const frames = createClient(SubscribeService, canary.transport)
      .subscribe(
        {
          filter: { scope: { case: "runIds", value: { runIds: ["canary"] } } },
          start: { case: "fromNow", value: true },
        },
        abort,
      )
      [Symbol.asyncIterator]();
    for (let at = 0; at < 2; at++) await frames.next();
    for (let at = 1; at <= count; at++) {
      const firstRunSeq = lastRunSeq + BigInt(at);
      await appendEvents({ runId: "canary", firstRunSeq, events: [{ type: "song" }] });
      const { frame } = (await frames.next()).value;
      assert.ok(frame.case === "events" && frame.value.events[0]?.runSeq === firstRunSeq);
      assert.equal((await health.check({})).status, 1);
    }
    abort.abort();
    await frames.next().catch(() => undefined);
  }

  function assertBounded(before: number): void {
    const grown = residentBytes() - before;
    const counts = new Map<string, number>();
    for (const end of ends) counts.set(end, (counts.get(end) ?? 0) + 1);
    console.log(
      `      grew by ${Math.round(grown / MiB)} MiB; ends: ${JSON.stringify([...counts])}`,
    );
    assert.ok(grown < bound, `${Math.round(grown / MiB)} MiB, of ${bound / MiB} at most`);
  }

  it("is bounded where 400 subscribers never read", async () => {
    await write("history", 3 * MiB);
    await sing(5);
    const before = residentBytes();
    const request = enveloped(SubscribeRequestSchema, { filter: all });
    for (let connection = 0; connection < 4; connection++) {
      const session = deafSession();
      for (let at = 0; at < 100; at++) call(session, "SubscribeService/Subscribe").end(request);
    }
    // Some have been cut for the sake of others: there is no memory for all.
    while (!ends.includes(`reset ${http2.constants.NGHTTP2_ENHANCE_YOUR_CALM}`)) await sing(1);
    await sing(10);
    assertBounded(before);
  });

  it("is bounded where 200 messages never end", async () => {
    await sing(5);
    const before = residentBytes();
    // The header announces 7 MiB, of which 3 come.
    const part = Buffer.alloc(3 * MiB);
    part.writeUInt32BE(7 * MiB, 1);
    for (let connection = 0; connection < 4; connection++) {
      // In megabytes: with less than it has to send, Node resets streams that are answered.
      const session = http2.connect(url, { maxSessionMemory: 1_000 });
      session.on("error", () => undefined);
      sessions.push(session);
      for (let at = 0; at < 50; at++) call(session, "IngestService/Ingest").resume().write(part);
    }
    while (!ends.includes("8")) await sing(1);
    await sing(10);
    assertBounded(before);
  });

  it("is bounded where a producer never reads its answers", async () => {
    await sing(5);
    const before = residentBytes();
    const output = Buffer.alloc(100 * KiB);
    const run = (runId: string) =>
      Buffer.concat([
        enveloped(IngestRequestSchema, { frame: { case: "open", value: { runId, create: {} } } }),
        enveloped(IngestRequestSchema, {
          frame: {
            case: "finish",
            value: { runId, result: { state: RunState.SUCCEEDED, output } },
          },
        }),
      ]);
    const stream = call(deafSession(), "IngestService/Ingest");
    let sent = 0;
    let wake: () => void = () => undefined;
    stream.on("drain", () => wake()).on("close", () => wake());
    const sending = (async () => {
      for (; sent < 6_000 && !stream.destroyed; sent++) {
        if (stream.write(run(`r${sent}`))) continue;
        await new Promise<void>((resolve) => {
          wake = resolve;
        });
      }
    })();
    await sing(30);
    assertBounded(before);
    // It is not read any more: its answers would take 600 MiB.
    assert.ok(sent < 5_800, `${sent}`);
    stream.destroy();
    await sending.catch(() => undefined);
  });
});
