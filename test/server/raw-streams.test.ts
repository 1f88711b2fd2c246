/** What a server answers where the client does not look after its calls itself. */
import assert from "node:assert/strict";
import { once } from "node:events";
import * as http2 from "node:http2";
import { create, type DescMessage, type MessageInitShape, toBinary } from "@bufbuild/protobuf";
import { Code } from "@connectrpc/connect";
import { IngestRequestSchema } from "../../gen/runlog/v1/ingest_pb.js";
import {
  SubscribeManyRequestSchema,
  SubscribeRequestSchema,
  WatchRequestSchema,
} from "../../gen/runlog/v1/subscribe_pb.js";
import { envelop } from "../../src/wire/envelope.ts";
import { startTestServer, type TestServer } from "../support/server.ts";

const filter = { scope: { case: "all" as const, value: {} } };
/** Milliseconds; the answer comes when it is over, whenever that is. */
const timeoutMs = 50;

function enveloped<Desc extends DescMessage>(
  schema: Desc,
  message: MessageInitShape<Desc>,
): Uint8Array {
  return Buffer.concat(envelop([[toBinary(schema, create(schema, message))]]));
}

const calls = {
  "SubscribeService/Subscribe": enveloped(SubscribeRequestSchema, { filter }),
  "SubscribeService/SubscribeMany": enveloped(SubscribeManyRequestSchema, {
    subscriptions: [{ subscriptionId: 1, request: { filter } }],
  }),
  "SubscribeService/Watch": enveloped(WatchRequestSchema, {
    subscriptionId: 1,
    frame: { case: "start", value: { request: { filter } } },
  }),
  "IngestService/Ingest": enveloped(IngestRequestSchema, {
    frame: { case: "open", value: { runId: "r", create: {} } },
  }),
};

describe("a server", () => {
  let server: TestServer;
  let session: http2.ClientHttp2Session;

  beforeEach(async () => {
    server = await startTestServer();
    session = http2.connect(server.url);
  });

  afterEach(async () => {
    session.destroy();
    await server.remove();
    assert.deepEqual(server.errors, []);
  });

  function request(method: string, headers: http2.OutgoingHttpHeaders): http2.ClientHttp2Stream {
    const path = { ":method": "POST", ":path": `/runlog.v1.${method}` };
    return session.request({ ...path, te: "trailers", ...headers });
  }

  for (const [method, message] of Object.entries(calls)) {
    it(`ends ${method} over gRPC at its deadline, and not with OK`, async () => {
      const headers = { "content-type": "application/grpc", "grpc-timeout": `${timeoutMs}m` };
      const stream = request(method, headers);
      stream.write(message);
      // Ingest and Watch are live for as long as they are not half-closed.
      if (method.includes("/Subscribe")) stream.end();
      stream.resume();
      const [trailers] = (await once(stream, "trailers")) as [http2.IncomingHttpHeaders];
      assert.equal(trailers["grpc-status"], String(Code.DeadlineExceeded));
      stream.close();
    });
  }

  it("ends Subscribe over Connect at its deadline, and not with OK", async () => {
    const type = { "content-type": "application/connect+proto", "connect-protocol-version": "1" };
    const stream = request("SubscribeService/Subscribe", {
      ...type,
      "connect-timeout-ms": String(timeoutMs),
    });
    stream.end(calls["SubscribeService/Subscribe"]);
    const body = Buffer.concat(await stream.toArray()).toString();
    assert.match(body, /deadline_exceeded/);
  });
});
