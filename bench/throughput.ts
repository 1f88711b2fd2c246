/**
 * How many events a second go in and out over gRPC, by the number of events in
 * an Append frame. The server is a process of its own on a new SQLite file, with
 * fsync; the client is @grpc/grpc-js with messages that are encoded before the
 * clock starts and not decoded when they arrive, so that the server is measured.
 *
 *     npm run bench:throughput
 */
import { spawn } from "node:child_process";
import { once } from "node:events";
import { mkdtemp, rm } from "node:fs/promises";
import { cpus, tmpdir, totalmem } from "node:os";
import { join } from "node:path";
import { createInterface } from "node:readline";
import { fileURLToPath } from "node:url";
import { create, fromBinary, type MessageInitShape, toBinary } from "@bufbuild/protobuf";
import { Client, credentials } from "@grpc/grpc-js";
import { IngestRequestSchema, IngestResponseSchema } from "../gen/runlog/v1/ingest_pb.js";
import { RunState } from "../gen/runlog/v1/run_pb.js";
import {
  StopPolicy,
  SubscribeRequestSchema,
  SubscribeResponseSchema,
} from "../gen/runlog/v1/subscribe_pb.js";

const payloadBytes = 256;
const cases = [
  { perFrame: 1, events: 100_000 },
  { perFrame: 16, events: 400_000 },
  { perFrame: 256, events: 400_000 },
];
const rounds = 3;
const main = fileURLToPath(new URL("../src/cli/main.ts", import.meta.url));
const asIs = (bytes: Buffer): Buffer => bytes;

function encode(frame: MessageInitShape<typeof IngestRequestSchema>): Buffer {
  return Buffer.from(toBinary(IngestRequestSchema, create(IngestRequestSchema, frame)));
}

function framesOf(runId: string, events: number, perFrame: number): Buffer[] {
  const data = Buffer.alloc(payloadBytes, "x");
  const frames: Buffer[] = [];
  for (let at = 0; at < events; at += perFrame) {
    const batch = Array.from({ length: perFrame }, () => ({ type: "token", data }));
    frames.push(
      encode({
        frame: { case: "append", value: { runId, firstRunSeq: BigInt(at + 1), events: batch } },
      }),
    );
  }
  return frames;
}

/** Sends a run of `events` and resolves with the milliseconds until all are acknowledged. */
async function ingest(
  client: Client,
  runId: string,
  events: number,
  perFrame: number,
): Promise<number> {
  const frames = framesOf(runId, events, perFrame);
  const call = client.makeBidiStreamRequest("/runlog.v1.IngestService/Ingest", asIs, asIs);
  const opened = Promise.withResolvers<void>();
  const done = Promise.withResolvers<void>();
  call.on("error", done.reject);
  call.on("data", (bytes: Buffer) => {
    const { frame } = fromBinary(IngestResponseSchema, bytes);
    if (frame.case === "opened") opened.resolve();
    else if (frame.case === "ended") done.resolve();
    else if (frame.case !== "ack") done.reject(new Error(`unexpected ${frame.case}`));
  });
  call.write(encode({ frame: { case: "open", value: { runId, create: {} } } }));
  await opened.promise;
  const start = performance.now();
  for (const frame of frames) if (!call.write(frame)) await once(call, "drain");
  const result = { state: RunState.SUCCEEDED };
  call.write(
    encode({ frame: { case: "finish", value: { runId, lastRunSeq: BigInt(events), result } } }),
  );
  await done.promise;
  const ms = performance.now() - start;
  call.end();
  return ms;
}

/** Reads a run from its beginning and resolves with the milliseconds; checks the count and the order. */
async function replay(client: Client, runId: string, events: number): Promise<number> {
  const request = create(SubscribeRequestSchema, {
    filter: { scope: { case: "runIds", value: { runIds: [runId] } } },
    stop: StopPolicy.FINISHED,
  });
  const start = performance.now();
  const call = client.makeServerStreamRequest(
    "/runlog.v1.SubscribeService/Subscribe",
    asIs,
    asIs,
    Buffer.from(toBinary(SubscribeRequestSchema, request)),
  );
  const received: Buffer[] = [];
  call.on("data", (bytes: Buffer) => received.push(bytes));
  await once(call, "end");
  const ms = performance.now() - start;
  let runSeq = 0n;
  for (const bytes of received) {
    const { frame } = fromBinary(SubscribeResponseSchema, bytes);
    if (frame.case !== "events") continue;
    for (const record of frame.value.events) {
      if (record.record.case === "event" && record.runSeq !== ++runSeq)
        throw new Error("out of order");
    }
  }
  if (Number(runSeq) !== events) throw new Error(`${runSeq} events instead of ${events}`);
  return ms;
}

function median(values: number[]): number {
  return values.toSorted((a, b) => a - b)[Math.floor(values.length / 2)] ?? Number.NaN;
}

const directory = await mkdtemp(join(tmpdir(), "runlog-bench-"));
const args = [
  main,
  "serve",
  "--listen",
  "127.0.0.1:0",
  "--journal",
  `sqlite:${directory}/bench.db`,
];
const server = spawn(process.execPath, args, { stdio: ["ignore", "pipe", "inherit"] });
try {
  const [line] = (await once(createInterface({ input: server.stdout }), "line")) as [string];
  const target = line.replace("listening on http://", "");
  const client = new Client(target, credentials.createInsecure(), {
    "grpc.max_receive_message_length": -1,
  });
  console.log(
    `${cpus().length} cores, ${Math.round(totalmem() / 2 ** 30)} GiB, Node ${process.version}, ${payloadBytes}-byte payloads, median of ${rounds}`,
  );
  console.log("events per Append | ingest, events/s, acknowledged durable | replay, events/s");
  // Warm up.
  await ingest(client, "warm-up", 25_600, 256);
  await replay(client, "warm-up", 25_600);
  for (const { perFrame, events } of cases) {
    const count = Math.floor(events / perFrame) * perFrame;
    const inMs: number[] = [];
    const outMs: number[] = [];
    for (let round = 0; round < rounds; round++) {
      const runId = `run-${perFrame}-${round}`;
      inMs.push(await ingest(client, runId, count, perFrame));
      outMs.push(await replay(client, runId, count));
    }
    const rate = (ms: number) => Math.round((count / ms) * 1000).toLocaleString("en");
    console.log(`${perFrame} | ${rate(median(inMs))} | ${rate(median(outMs))}`);
  }
  client.close();
} finally {
  server.kill("SIGTERM");
  await once(server, "close");
  await rm(directory, { recursive: true });
}
