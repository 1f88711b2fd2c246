/** The process of a bare gRPC server: it streams frames of events as fast as the client takes them. */
import { create, toBinary } from "@bufbuild/protobuf";
import { Server, ServerCredentials, type ServerWritableStream } from "@grpc/grpc-js";
import { SubscribeResponseSchema } from "../../gen/runlog/v1/subscribe_pb.js";
import { Payloads } from "../payloads.ts";

const payloads = new Payloads(256);
const perFrame = 256;
const asIs = (bytes: Buffer): Buffer => bytes;

function frameOf(first: number): Buffer {
  const events = Array.from({ length: perFrame }, (_, index) => ({
    seq: BigInt(first + index),
    runId: "run-1",
    runSeq: BigInt(first + index),
    recordTime: { seconds: 1_700_000_000n, nanos: 1 },
    record: { case: "event" as const, value: { type: "token", data: payloads.of(first + index) } },
  }));
  const response = create(SubscribeResponseSchema, {
    frame: { case: "events", value: { events } },
  });
  return Buffer.from(toBinary(SubscribeResponseSchema, response));
}

const frames: Buffer[] = [];

/** Encodes what is asked for; once, before the clock of a later call starts. */
function framesOf(count: number): readonly Buffer[] {
  if (count % perFrame !== 0) throw new Error(`${count} events are no whole frames`);
  for (let first = frames.length * perFrame + 1; first <= count; first += perFrame) {
    frames.push(frameOf(first));
  }
  return frames.slice(0, count / perFrame);
}

async function read(call: ServerWritableStream<Buffer, Buffer>): Promise<void> {
  for (const frame of framesOf(Number(call.request.toString()))) {
    if (!call.write(frame)) await new Promise((resolve) => call.once("drain", resolve));
  }
  call.end();
}

const server = new Server();
server.addService(
  {
    read: {
      path: "/bench/Read",
      requestStream: false,
      responseStream: true,
      requestSerialize: asIs,
      requestDeserialize: asIs,
      responseSerialize: asIs,
      responseDeserialize: asIs,
    },
  },
  { read: (call: ServerWritableStream<Buffer, Buffer>) => void read(call) },
);
server.bindAsync("127.0.0.1:0", ServerCredentials.createInsecure(), (error, port) => {
  if (error !== null) throw error;
  console.log(`127.0.0.1:${port}`);
});
process.once("SIGTERM", () => server.forceShutdown());
