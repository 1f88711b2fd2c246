/** The same bytes get the same answers, however the network cuts them. */
import assert from "node:assert/strict";
import { once } from "node:events";
import * as http2 from "node:http2";
import * as net from "node:net";
import { create, toBinary } from "@bufbuild/protobuf";
import fc from "fast-check";
import { IngestRequestSchema } from "../../gen/runlog/v1/ingest_pb.js";
import { SubscribeRequestSchema, WatchRequestSchema } from "../../gen/runlog/v1/subscribe_pb.js";
import { envelop } from "../../src/wire/envelope.ts";
import { startTestServer, type TestServer } from "../support/server.ts";

const maxMessageBytes = 64 * 1024;
const filter = { scope: { case: "all" as const, value: {} } };
const message = (bytes: Uint8Array) => Buffer.concat(envelop([[bytes]]));
const listRuns = "/runlog.v1.RunService/ListRuns";

/** Forwards what is sent to it in pieces of some sizes, each handed to the kernel by itself. */
class CuttingPort {
  readonly #server: net.Server;
  readonly #sockets = new Set<net.Socket>();
  /** Sizes of the pieces, in turn. */
  sizes: readonly number[] = [];

  constructor(target: URL) {
    this.#server = net.createServer({ allowHalfOpen: true }, (client) => {
      const server = net.connect({
        host: target.hostname,
        port: Number(target.port),
        noDelay: true,
        allowHalfOpen: true,
      });
      for (const socket of [client, server]) {
        this.#sockets.add(socket);
        socket.on("error", () => undefined);
        socket.on("close", () => {
          client.destroy();
          server.destroy();
          this.#sockets.delete(socket);
        });
      }
      server.pipe(client);
      void this.#forward(client, server);
    });
  }

  async listen(): Promise<string> {
    this.#server.listen(0, "127.0.0.1");
    await once(this.#server, "listening");
    return `http://127.0.0.1:${(this.#server.address() as net.AddressInfo).port}`;
  }

  close(): void {
    this.#server.close();
    for (const socket of this.#sockets) socket.destroy();
  }

  async #forward(from: net.Socket, to: net.Socket): Promise<void> {
    const { sizes } = this;
    let piece = 0;
    try {
      for await (const chunk of from as AsyncIterable<Buffer>) {
        for (let at = 0; at < chunk.length; ) {
          const size = sizes[piece++ % sizes.length]!;
          await new Promise((sent) => to.write(chunk.subarray(at, at + size), sent));
          at += size;
        }
      }
      to.end();
    } catch {
      // One of them has closed already; close both.
    }
  }
}

interface Asked {
  readonly path: string;
  readonly type: string;
  readonly body: Uint8Array;
}

const openFrame = toBinary(
  IngestRequestSchema,
  create(IngestRequestSchema, { frame: { case: "open", value: { runId: "none" } } }),
);
const subscribe = toBinary(SubscribeRequestSchema, create(SubscribeRequestSchema, { filter }));
const watch = toBinary(
  WatchRequestSchema,
  create(WatchRequestSchema, { subscriptionId: 1, frame: { case: "stop", value: {} } }),
);
const ingestPath = "/runlog.v1.IngestService/Ingest";
const subscribePath = "/runlog.v1.SubscribeService/Subscribe";
const watchPath = "/runlog.v1.SubscribeService/Watch";
const grpc = "application/grpc";

/** Requests whose answers do not depend on when they are made. */
const requests: readonly Asked[] = [
  // Nobody has created the run: rejected twice, and the call goes on.
  { path: ingestPath, type: grpc, body: Buffer.concat([message(openFrame), message(openFrame)]) },
  { path: ingestPath, type: grpc, body: Buffer.concat([message(openFrame), Buffer.of(0, 0)]) },
  { path: ingestPath, type: grpc, body: message(Buffer.of(255, 255)) },
  { path: ingestPath, type: grpc, body: Buffer.of(0, 255, 255, 255, 255, 1, 2, 3) },
  { path: ingestPath, type: grpc, body: Buffer.of(1, 0, 0, 0, 1, 7) },
  {
    path: subscribePath,
    type: grpc,
    body: Buffer.concat([message(subscribe), message(subscribe)]),
  },
  { path: subscribePath, type: grpc, body: Buffer.alloc(0) },
  { path: watchPath, type: grpc, body: Buffer.concat([message(watch), message(watch)]) },
  {
    path: watchPath,
    type: "application/connect+proto",
    body: Buffer.concat([message(watch), Buffer.of(0)]),
  },
  { path: watchPath, type: "application/connect+json", body: message(Buffer.from("{")) },
  { path: listRuns, type: grpc, body: message(new Uint8Array(0)) },
  { path: listRuns, type: "application/grpc-web+proto", body: message(new Uint8Array(0)) },
  { path: listRuns, type: "application/json", body: Buffer.from('{"pageSize": 1}') },
  { path: listRuns, type: "application/json", body: Buffer.from('{"pageSize": ') },
  { path: listRuns, type: "application/proto", body: Buffer.of(255) },
  { path: listRuns, type: "application/json", body: Buffer.alloc(maxMessageBytes + 1, " ") },
  { path: `${listRuns}Nothing`, type: grpc, body: message(new Uint8Array(0)) },
];

const http1 = (body: string, ...lines: readonly string[]) =>
  Buffer.from(
    `${[`POST ${listRuns} HTTP/1.1`, "host: localhost", "connection: close", ...lines].join("\r\n")}\r\n\r\n${body}`,
  );
const json = "content-type: application/json";

/** Connections of HTTP/1.1, or of no protocol at all. */
const connections: readonly Buffer[] = [
  Buffer.from("GET /healthz HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\r\n"),
  http1("{}", json, "content-length: 2"),
  http1("1\r\n{\r\n1;x=y\r\n}\r\n0\r\n\r\n", json, "transfer-encoding: chunked"),
  http1("1\r\n{\r\nx\r\n", json, "transfer-encoding: chunked"),
  http1("{", json, "content-length: 1"),
  Buffer.from("PUT / HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\r\n"),
  Buffer.from("PRINT this\r\n\r\n"),
  Buffer.from("PRI"),
  Buffer.from("G"),
];

describe("the answers of a server", () => {
  let server: TestServer;
  let port: CuttingPort;
  let url: string;

  before(async () => {
    server = await startTestServer({ limits: { maxMessageBytes } });
    port = new CuttingPort(new URL(server.url));
    url = await port.listen();
  });

  after(async () => {
    port.close();
    await server.remove();
    assert.deepEqual(server.errors, []);
  });

  async function answersOverHttp2(target: string): Promise<unknown[]> {
    const session = http2.connect(target);
    const answers = await Promise.all(
      requests.map(async ({ path, type, body }) => {
        const stream = session.request({
          ":method": "POST",
          ":path": path,
          te: "trailers",
          "content-type": type,
        });
        stream.on("error", () => undefined);
        const heads: http2.IncomingHttpHeaders[] = [];
        stream.on("response", (headers) => heads.push(headers));
        stream.on("trailers", (headers) => heads.push(headers));
        stream.end(body);
        const chunks: Buffer[] = [];
        for await (const chunk of stream) chunks.push(chunk as Buffer);
        const merged = Object.assign({}, ...heads) as Record<string, unknown>;
        delete merged["date"];
        return { ...merged, body: Buffer.concat(chunks).toString("latin1") };
      }),
    );
    session.close();
    return answers;
  }

  function answersOverSockets(target: string): Promise<string[]> {
    const { hostname: host, port: to } = new URL(target);
    return Promise.all(
      connections.map(async (bytes) => {
        const socket = net.connect({ host, port: Number(to), allowHalfOpen: true });
        socket.on("error", () => undefined);
        socket.end(bytes);
        const chunks: Buffer[] = [];
        for await (const chunk of socket) chunks.push(chunk as Buffer);
        return Buffer.concat(chunks)
          .toString("latin1")
          .replace(/\r\ndate: [^\r]+/i, "");
      }),
    );
  }

  const sizes = fc.array(fc.integer({ min: 1, max: 9_000 }), { minLength: 1, maxLength: 8 });
  const small = fc.array(fc.integer({ min: 1, max: 8 }), { minLength: 1, maxLength: 8 });

  it("do not depend on how a connection of HTTP/1.1, or of none, is cut", async () => {
    const expected = await answersOverSockets(server.url);
    const property = fc.asyncProperty(small, async (pieces) => {
      port.sizes = pieces;
      assert.deepEqual(await answersOverSockets(url), expected);
    });
    await fc.assert(property, { numRuns: 15, examples: [[[1]], [[2]], [[3]], [[4]]] });
  });

  it("do not depend on how a connection of HTTP/2 is cut", async () => {
    const expected = await answersOverHttp2(server.url);
    const property = fc.asyncProperty(sizes, async (pieces) => {
      port.sizes = pieces;
      assert.deepEqual(await answersOverHttp2(url), expected);
    });
    await fc.assert(property, { numRuns: 15, examples: [[[1, 2, 3, 5, 2_000]], [[17, 3]]] });
  });
});
