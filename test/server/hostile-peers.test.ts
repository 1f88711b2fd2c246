/** What peers send that no client of ours would: the server answers, and goes on. */
import assert from "node:assert/strict";
import { once } from "node:events";
import * as net from "node:net";
import {
  endHeaders,
  endStream,
  fields,
  frame,
  frameType,
  RawConnection,
} from "../support/raw-http2.ts";
import { startTestServer, type TestServer } from "../support/server.ts";

const listRuns = "/runlog.v1.RunService/ListRuns";
const readEvents = "/runlog.v1.SubscribeService/ReadEvents";
/** Of none of these a URL can be made, except of the last one; none is a name of the server. */
const hosts = ["[", "a b", "", "%", "x:99999", "[::1", "x:y", "\u00ff", "a,b", "ok"];

const head = (...lines: readonly string[]) =>
  Buffer.from(`${lines.join("\r\n")}\r\n\r\n`, "latin1");
const json = ["content-type: application/json", "content-length: 2", "connection: close"];

describe("a server, whatever its peers send,", () => {
  let server: TestServer;

  before(async () => {
    server = await startTestServer();
  });

  afterEach(async () => {
    assert.equal((await fetch(`${server.url}/healthz`)).status, 200);
    assert.deepEqual(server.errors, []);
  });

  after(() => server.remove());

  /** Sends bytes over a connection of their own; the answer's first line. */
  async function statusOf(...bytes: readonly Uint8Array[]): Promise<string> {
    const { hostname, port } = new URL(server.url);
    const socket = net.connect({ host: hostname, port: Number(port) });
    socket.on("error", () => undefined);
    const chunks: Buffer[] = [];
    socket.on("data", (chunk: Buffer) => chunks.push(chunk));
    socket.end(Buffer.concat(bytes));
    await once(socket, "close");
    return Buffer.concat(chunks).toString("latin1").split("\r\n", 1)[0] ?? "";
  }

  for (const host of hosts) {
    it(`answers a request for the host ${JSON.stringify(host)}`, async () => {
      const request = head(`POST ${listRuns} HTTP/1.1`, `host: ${host}`, ...json);
      const status = host === "" ? "200 OK" : "403 Forbidden";
      assert.equal(await statusOf(request, Buffer.from("{}")), `HTTP/1.1 ${status}`);
      for (const type of ["application/json", "application/grpc", "application/connect+proto"]) {
        const connection = new RawConnection(server.url);
        const block = fields({
          ":method": "POST",
          ":scheme": "http",
          ":path": type === "application/json" ? listRuns : "/runlog.v1.IngestService/Ingest",
          ":authority": host,
          "content-type": type,
        });
        await connection.send(
          frame(frameType.headers, endHeaders, 1, block),
          frame(frameType.data, endStream, 1, Buffer.from(type === "application/json" ? "{}" : "")),
        );
        // What HTTP/2 itself forbids is refused by Node, the rest is answered.
        assert.ok((await connection.receive(frameType.headers, frameType.rstStream)) !== undefined);
        connection.close();
      }
    });
  }

  const requests: Readonly<Record<string, readonly string[]>> = {
    "HTTP/1.0 without a host": [`POST ${listRuns} HTTP/1.0`, ...json],
    "HTTP/1.1 without a host": [`POST ${listRuns} HTTP/1.1`, ...json],
    "two hosts": [`POST ${listRuns} HTTP/1.1`, "host: a", "host: b", ...json],
    "a target that is no path": ["GET // HTTP/1.1", "host: localhost", "connection: close"],
    "a target that is a URL": [`POST http://[${listRuns} HTTP/1.1`, "host: localhost", ...json],
    "a target for the whole server": ["OPTIONS * HTTP/1.1", "host: localhost", "connection: close"],
    "a target for a proxy": ["CONNECT [:99999 HTTP/1.1", "host: localhost", "connection: close"],
    "a query that is none": [
      `GET ${readEvents}?%&=&message=%zz&encoding=json HTTP/1.1`,
      "host: localhost",
    ],
    "a query for a message that is none": [
      `GET ${readEvents}?base64=1&encoding=proto&message=!&connect=v1 HTTP/1.1`,
      "host: localhost",
      "connection: close",
    ],
    "an upgrade": [
      `POST ${listRuns} HTTP/1.1`,
      "host: localhost",
      "upgrade: h2c",
      "connection: upgrade",
    ],
    "an expectation": [
      `POST ${listRuns} HTTP/1.1`,
      "host: localhost",
      "expect: 100-continue",
      ...json,
    ],
    "another expectation": [`POST ${listRuns} HTTP/1.1`, "host: localhost", "expect: all", ...json],
    "fields that are no text": [
      `POST ${listRuns} HTTP/1.1`,
      "host: localhost",
      "a: \u00ff\u0080",
      ...json,
    ],
    "a timeout that is none": [
      `POST ${listRuns} HTTP/1.1`,
      "host: localhost",
      "connect-timeout-ms: x",
      ...json,
    ],
    "encodings that are none": [
      `POST ${listRuns} HTTP/1.1`,
      "host: localhost",
      "content-encoding: %",
      ...json,
    ],
    "a body whose chunks are none": [
      `POST ${listRuns} HTTP/1.1`,
      "host: localhost",
      "content-type: application/json",
      "transfer-encoding: chunked",
    ],
  };
  for (const [name, lines] of Object.entries(requests)) {
    it(`answers ${name}`, async () => {
      assert.match(await statusOf(head(...lines), Buffer.from("{}")), /^(HTTP\/1\.1 \d{3} |$)/);
    });
  }

  it("answers HTTP/2 requests without an authority, without a path, to connect", async () => {
    const connection = new RawConnection(server.url);
    const blocks = [
      {
        ":method": "POST",
        ":scheme": "http",
        ":path": listRuns,
        "content-type": "application/json",
      },
      { ":method": "POST", ":scheme": "http" },
      { ":method": "CONNECT", ":authority": "[" },
      { ":method": "POST", ":scheme": "http", ":path": "//", ":authority": "%" },
      { ":method": "GET", ":scheme": "http", ":path": `${readEvents}?%`, ":authority": "" },
    ];
    for (const [index, block] of blocks.entries()) {
      const id = 2 * index + 1;
      await connection.send(frame(frameType.headers, endHeaders | endStream, id, fields(block)));
    }
    const answered = new Set<number>();
    while (answered.size < blocks.length) {
      const answer = await connection.receive(frameType.headers, frameType.rstStream);
      assert.ok(answer !== undefined, "the connection was cut");
      answered.add(answer.streamId);
    }
    connection.close();
  });

  for (const beginning of ["P", "PR", "PRI"]) {
    it(`tells what begins with ${beginning}, and goes on meanwhile`, async () => {
      const { hostname, port } = new URL(server.url);
      const socket = net.connect({ host: hostname, port: Number(port), noDelay: true });
      await new Promise((sent) => socket.write(beginning, sent));
      // The others are served.
      assert.equal((await fetch(`${server.url}/healthz`)).status, 200);
      socket.write("X /healthz HTTP/1.1\r\nhost: x\r\n\r\n");
      const [answer] = (await once(socket, "data")) as [Buffer];
      assert.match(answer.toString(), /^HTTP\/1\.1 400 /);
      socket.destroy();
      assert.equal(await statusOf(Buffer.from(beginning)), "HTTP/1.1 400 Bad Request");
    });
  }
});
