/** What the protocols say about answers besides their messages: headers, statuses, encodings, ends. */
import assert from "node:assert/strict";
import { once } from "node:events";
import * as http2 from "node:http2";
import { gzipSync } from "node:zlib";
import { Code, ConnectError } from "@connectrpc/connect";
import { findTrailerError } from "@connectrpc/connect/protocol-grpc";
import * as grpc from "@grpc/grpc-js";
import { ErrorDetailSchema, Reason } from "../../gen/runlog/v1/error_pb.js";
import { envelop } from "../../src/wire/envelope.ts";
import { startTestServer, type TestServer } from "../support/server.ts";

const maxMessageBytes = 64 * 1024;
const empty = Buffer.concat(envelop([[new Uint8Array(0)]]));
/** A header that announces more than the limit. */
const tooLarge = Buffer.of(0, 0, 1, 0, 1);

interface Answer {
  readonly headers: http2.IncomingHttpHeaders;
  readonly trailers: http2.IncomingHttpHeaders;
  readonly body: Buffer;
  readonly rstCode: number | undefined;
}

describe("an answer", () => {
  let server: TestServer;
  let session: http2.ClientHttp2Session;

  beforeEach(async () => {
    server = await startTestServer({ limits: { maxMessageBytes } });
    session = http2.connect(server.url);
  });

  afterEach(async () => {
    session.destroy();
    await server.remove();
    assert.deepEqual(server.errors, []);
  });

  function ask(method: string, headers: http2.OutgoingHttpHeaders): http2.ClientHttp2Stream {
    const path = { ":method": "POST", ":path": `/runlog.v1.${method}` };
    return session.request({ ...path, te: "trailers", ...headers });
  }

  /** Waits until a call has closed, whether its request has ended or not. */
  async function answerTo(stream: http2.ClientHttp2Stream): Promise<Answer> {
    let headers: http2.IncomingHttpHeaders = {};
    let trailers: http2.IncomingHttpHeaders = {};
    const chunks: Buffer[] = [];
    stream.on("response", (received, flags) => {
      headers = received;
      if ((flags & http2.constants.NGHTTP2_FLAG_END_STREAM) !== 0) trailers = received;
    });
    stream.on("trailers", (received) => {
      trailers = received;
    });
    stream.on("data", (chunk: Buffer) => chunks.push(chunk));
    await once(stream, "close");
    return { headers, trailers, body: Buffer.concat(chunks), rstCode: stream.rstCode };
  }

  for (const method of ["IngestService/Ingest", "SubscribeService/Watch"]) {
    for (const type of [
      "application/grpc",
      "application/grpc+json",
      "application/connect+json",
      "application/grpc-web+proto",
    ]) {
      it(`to ${method} as ${type} begins before anything was sent`, async () => {
        const stream = ask(method, { "content-type": type });
        const [headers] = (await once(stream, "response")) as [http2.IncomingHttpHeaders];
        const expected =
          type === "application/grpc" && method.endsWith("Watch") ? `${type}+proto` : type;
        assert.deepEqual([headers[":status"], headers["content-type"]], [200, expected]);
        stream.end();
        stream.resume();
        await once(stream, "close");
      });
    }
  }

  for (const [method, type] of [
    ["IngestService/Ingest", "application/grpc"],
    ["SubscribeService/Subscribe", "application/grpc"],
    ["SubscribeService/Watch", "application/grpc"],
    ["RunService/ListRuns", "application/grpc"],
    ["RunService/ListRuns", "application/json"],
  ] as const) {
    it(`that refuses ${method} as ${type} ends its request with NO_ERROR`, async () => {
      const stream = ask(method, { "content-type": type, "content-length": "1000000" });
      stream.write(type === "application/json" ? Buffer.alloc(maxMessageBytes + 1, " ") : tooLarge);
      const { headers, trailers, body, rstCode } = await answerTo(stream);
      assert.equal(rstCode, http2.constants.NGHTTP2_NO_ERROR);
      if (type === "application/json") assert.match(body.toString(), /readMaxBytes|limit/);
      else assert.notEqual(trailers["grpc-status"] ?? headers["grpc-status"], "0");
    });
  }

  for (const method of ["IngestService/Ingest", "SubscribeService/Subscribe"]) {
    it(`to a message over the limit tells it, on ${method}`, async () => {
      const stream = ask(method, { "content-type": "application/grpc" });
      stream.end(tooLarge);
      const { trailers } = await answerTo(stream);
      const headers = new Headers();
      for (const name of ["grpc-status", "grpc-message", "grpc-status-details-bin"]) {
        headers.set(name, String(trailers[name]));
      }
      const error = findTrailerError(headers);
      assert.ok(error instanceof ConnectError);
      const [detail] = error.findDetails(ErrorDetailSchema);
      assert.deepEqual(
        [error.code, detail?.reason, detail?.limit],
        [Code.InvalidArgument, Reason.TOO_LARGE, BigInt(maxMessageBytes)],
      );
    });
  }

  for (const path of ["RunService/Nothing", "NoService/Nothing"]) {
    it(`to ${path} is UNIMPLEMENTED to gRPC, in headers alone`, async () => {
      const stream = ask(path, { "content-type": "application/grpc" });
      stream.write(empty);
      const { headers, trailers, rstCode } = await answerTo(stream);
      assert.deepEqual(
        [headers[":status"], trailers["grpc-status"], trailers["grpc-message"], rstCode],
        [200, "12", `there is no method /runlog.v1.${path}`, 0],
      );
    });

    it(`to ${path} is UNIMPLEMENTED to @grpc/grpc-js and gRPC-Web, and 404 to Connect`, async () => {
      const client = new grpc.Client(new URL(server.url).host, grpc.credentials.createInsecure());
      const code = await new Promise((resolve) => {
        const same = (bytes: Buffer) => bytes;
        const done = (error: grpc.ServiceError | null) => resolve(error?.code);
        client.makeUnaryRequest(`/runlog.v1.${path}`, same, same, Buffer.alloc(0), done);
      });
      client.close();
      assert.equal(code, Code.Unimplemented);
      const post = (type: string) =>
        fetch(`${server.url}/runlog.v1.${path}`, {
          method: "POST",
          headers: { "content-type": type },
          body: empty,
        });
      const web = await post("application/grpc-web+proto");
      assert.deepEqual([web.status, web.headers.get("grpc-status")], [200, "12"]);
      assert.equal((await post("application/json")).status, 404);
      assert.equal((await post("application/connect+proto")).status, 404);
    });
  }

  it("declares no encoding, whatever the request has and takes", async () => {
    const compressed = Buffer.concat([Buffer.of(1), Buffer.alloc(4), gzipSync("")]);
    compressed.writeUInt32BE(compressed.length - 5, 1);
    for (const [type, encoding, accept] of [
      ["application/grpc", "grpc-encoding", "grpc-accept-encoding"],
      ["application/grpc-web", "grpc-encoding", "grpc-accept-encoding"],
      ["application/connect+proto", "connect-content-encoding", "connect-accept-encoding"],
    ] as const) {
      for (const accepted of [undefined, "gzip", "identity, gzip"]) {
        const method = type.includes("connect") ? "SubscribeService/Watch" : "RunService/ListRuns";
        const stream = ask(method, {
          "content-type": type,
          [encoding]: "gzip",
          ...(accepted === undefined ? {} : { [accept]: accepted }),
        });
        stream.end(type.includes("connect") ? undefined : compressed);
        const { headers, trailers, body } = await answerTo(stream);
        assert.equal(headers[encoding], undefined);
        if (type === "application/grpc") assert.equal(trailers["grpc-status"], "0");
        else assert.ok(body.length > 0);
      }
    }
  });

  it("comes in time where the client's deadline is further off than a timer can wait", async () => {
    const long = { "grpc-timeout": "99999999H", "connect-timeout-ms": "9999999999" };
    const grpcAnswer = ask("RunService/ListRuns", { "content-type": "application/grpc", ...long });
    grpcAnswer.end(empty);
    assert.equal((await answerTo(grpcAnswer)).trailers["grpc-status"], "0");
    const ingest = ask("IngestService/Ingest", { "content-type": "application/grpc", ...long });
    ingest.end();
    assert.equal((await answerTo(ingest)).trailers["grpc-status"], "0");
    const connect = ask("RunService/ListRuns", { "content-type": "application/json", ...long });
    connect.end("{}");
    assert.equal((await answerTo(connect)).headers[":status"], 200);
  });
});
