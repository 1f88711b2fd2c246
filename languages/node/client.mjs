/** Sends a run, follows it, and shows why a call is refused: SERVER RUN_ID. */
import { join } from "node:path";
import { fromBinary } from "@bufbuild/protobuf";
import { BinaryReader } from "@bufbuild/protobuf/wire";
import { AnySchema, anyUnpack } from "@bufbuild/protobuf/wkt";
import * as grpc from "@grpc/grpc-js";
import { loadSync } from "@grpc/proto-loader";
import { ErrorDetailSchema, Reason } from "runlog/gen/runlog/v1/error_pb.js";

const includeDirs = [join(import.meta.dirname, "../../proto")];

// snippet: connect
const files = ["runlog/v1/ingest.proto", "runlog/v1/subscribe.proto"];
const settings = { longs: String, enums: String, defaults: true, oneofs: true };
const { runlog } = grpc.loadPackageDefinition(loadSync(files, { includeDirs, ...settings }));

function connect(server) {
  const options = {
    "grpc.keepalive_time_ms": 10_000,
    "grpc.keepalive_timeout_ms": 10_000,
    "grpc.keepalive_permit_without_calls": 1,
    "grpc.max_receive_message_length": 20 << 20,
  };
  const credentials = grpc.credentials.createInsecure();
  const ingest = new runlog.v1.IngestService(server, credentials, options);
  const subscribe = new runlog.v1.SubscribeService(server, credentials, options);
  return { ingest, subscribe };
}
// snippet end

// snippet: detail
/** Tells why the server refused a call; undefined where the server did not say. */
function detailOf(error) {
  for (const status of error.metadata.get("grpc-status-details-bin")) {
    // google.rpc.Status, whose third field is: repeated google.protobuf.Any details.
    const reader = new BinaryReader(status);
    while (reader.pos < reader.len) {
      const [field, wireType] = reader.tag();
      if (field === 3) {
        const packed = fromBinary(AnySchema, reader.bytes());
        const detail = anyUnpack(packed, ErrorDetailSchema);
        if (detail !== undefined) return detail;
      } else {
        reader.skip(wireType);
      }
    }
  }
  return undefined;
}
// snippet end

async function send({ ingest }, runId) {
  const stream = ingest.Ingest({ deadline: Date.now() + 30_000 });
  stream.write({ open: { runId, create: { agentId: "agent" }, producerId: runId, attempt: 1 } });
  for await (const answer of stream) {
    switch (answer.frame) {
      case "opened": {
        const { lastRunSeq } = answer.opened;
        console.log("opened", lastRunSeq);
        const events = [
          { type: "plan.made", data: Buffer.from('{"steps":2}') },
          { type: "step.done", data: Buffer.from('{"step":1}') },
        ];
        stream.write({ append: { runId, firstRunSeq: Number(lastRunSeq) + 1, events } });
        break;
      }
      case "ack": {
        const { runSeq } = answer.ack;
        console.log("acked", runSeq);
        const result = { state: "RUN_STATE_SUCCEEDED" };
        stream.write({ finish: { runId, lastRunSeq: runSeq, result } });
        break;
      }
      case "ended":
        console.log("ended", answer.ended.run.state);
        stream.end();
        break;
      case "rejected":
        throw new Error(`rejected: ${JSON.stringify(answer.rejected)}`);
    }
  }
}

async function subscribe({ subscribe: service }, runIds) {
  const request = { filter: { runIds: { runIds } }, stop: "STOP_POLICY_FINISHED" };
  for await (const answer of service.Subscribe(request, { deadline: Date.now() + 30_000 })) {
    for (const { record, ...values } of answer.events?.events ?? []) {
      switch (record) {
        case "runStarted":
          console.log("started", values.runStarted.spec.agentId);
          break;
        case "event":
          console.log("event", values.event.type, String(values.event.data));
          break;
        case "runFinished":
          console.log("finished", values.runFinished.result.state);
          break;
      }
    }
  }
}

const [server, runId] = process.argv.slice(2);
const client = connect(server);
await send(client, runId);
await subscribe(client, [runId]);
try {
  await subscribe(client, new Array(101).fill(""));
} catch (error) {
  const detail = detailOf(error);
  console.log("refused", `REASON_${Reason[detail?.reason ?? 0]}`, String(detail?.limit));
}
client.ingest.close();
client.subscribe.close();
