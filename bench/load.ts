/**
 * Producers and subscribers over gRPC: @grpc/grpc-js with messages that are
 * encoded before the clock starts and not decoded when they arrive, so that the
 * server is measured.
 */
import { randomBytes } from "node:crypto";
import { once } from "node:events";
import { create, fromBinary, type MessageInitShape, toBinary } from "@bufbuild/protobuf";
import { Client, credentials } from "@grpc/grpc-js";
import { IngestRequestSchema, IngestResponseSchema } from "../gen/runlog/v1/ingest_pb.js";
import { RunState } from "../gen/runlog/v1/run_pb.js";
import {
  StopPolicy,
  SubscribeRequestSchema,
  SubscribeResponseSchema,
} from "../gen/runlog/v1/subscribe_pb.js";

export const payloadBytes = 256;

const asIs = (bytes: Buffer): Buffer => bytes;

/** A run that is written and read. */
export interface BenchRun {
  readonly namespace: string;
  readonly runId: string;
  readonly events: number;
  /** Events in one Append. */
  readonly perFrame: number;
}

/** What writing a run took. */
export interface Ingested {
  /** Milliseconds until everything was acknowledged. */
  readonly ms: number;
  /** Milliseconds from the writing of each Append to its acknowledgement. */
  readonly ackMs: readonly number[];
}

/** Connects to a server by its URL. */
export function clientOf(url: string): Client {
  return new Client(url.replace("http://", ""), credentials.createInsecure(), {
    "grpc.max_receive_message_length": -1,
  });
}

function encode(frame: MessageInitShape<typeof IngestRequestSchema>): Buffer {
  return Buffer.from(toBinary(IngestRequestSchema, create(IngestRequestSchema, frame)));
}

function framesOf({ runId, events, perFrame }: BenchRun): Buffer[] {
  // Nothing that a database could compress.
  const payloads = randomBytes(payloadBytes * 1_000);
  const frames: Buffer[] = [];
  for (let at = 0; at < events; at += perFrame) {
    const batch = Array.from({ length: perFrame }, (_, i) => {
      const from = ((at + i) % 1_000) * payloadBytes;
      return { type: "token", data: payloads.subarray(from, from + payloadBytes) };
    });
    const value = { runId, firstRunSeq: BigInt(at + 1), events: batch };
    frames.push(encode({ frame: { case: "append", value } }));
  }
  return frames;
}

/**
 * Sends a run and waits until all of it is acknowledged. With `unacked`, only so
 * many Appends are under way at once: then the time of an acknowledgement is the
 * server's and not that of the queue before it.
 */
export async function ingest(
  client: Client,
  run: BenchRun,
  unacked = Number.POSITIVE_INFINITY,
): Promise<Ingested> {
  const { namespace, runId, events, perFrame } = run;
  const frames = framesOf(run);
  const call = client.makeBidiStreamRequest("/runlog.v1.IngestService/Ingest", asIs, asIs);
  const opened = Promise.withResolvers<void>();
  const done = Promise.withResolvers<void>();
  const sentMs: number[] = [];
  const ackMs: number[] = [];
  let wake: () => void = () => undefined;
  call.on("error", done.reject);
  call.on("data", (bytes: Buffer) => {
    const { frame } = fromBinary(IngestResponseSchema, bytes);
    if (frame.case === "opened") {
      opened.resolve();
    } else if (frame.case === "ended") {
      done.resolve();
    } else if (frame.case === "ack") {
      const acked = Number(frame.value.runSeq) / perFrame;
      while (ackMs.length < acked) ackMs.push(performance.now() - sentMs[ackMs.length]!);
      wake();
    } else {
      done.reject(new Error(`unexpected ${frame.case}`));
    }
  });
  call.write(encode({ frame: { case: "open", value: { namespace, runId, create: {} } } }));
  await Promise.race([opened.promise, done.promise]);
  const start = performance.now();
  for (const frame of frames) {
    while (sentMs.length - ackMs.length >= unacked) {
      await new Promise<void>((resolve) => {
        wake = resolve;
      });
    }
    sentMs.push(performance.now());
    if (!call.write(frame)) await once(call, "drain");
  }
  const result = { state: RunState.SUCCEEDED };
  const value = { runId, lastRunSeq: BigInt(events), result };
  call.write(encode({ frame: { case: "finish", value } }));
  await done.promise;
  const ms = performance.now() - start;
  call.end();
  return { ms, ackMs };
}

/** Reads a run from its beginning and resolves with the milliseconds; checks the count and the order. */
export async function replay(
  client: Client,
  { namespace, runId, events }: BenchRun,
): Promise<number> {
  const request = create(SubscribeRequestSchema, {
    namespace,
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
