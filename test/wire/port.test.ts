/** The port itself: what a connection's first bytes decide, and what is no call. */
import assert from "node:assert/strict";
import { once } from "node:events";
import * as net from "node:net";
import { gzipSync } from "node:zlib";
import { frame, frameType, RawConnection } from "../support/raw-http2.ts";
import { startTestServer, type TestServer } from "../support/server.ts";

const http2Preface = Buffer.concat([
  Buffer.from("PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"),
  // An empty SETTINGS frame: length 0, type 4, no flags, stream 0.
  Buffer.from([0, 0, 0, 4, 0, 0, 0, 0, 0]),
]);
const settingsFrameType = 4;

describe("the port", () => {
  let server: TestServer;
  let socket: net.Socket;

  beforeEach(async () => {
    server = await startTestServer();
    const { hostname, port } = new URL(server.url);
    socket = net.connect({ host: hostname, port: Number(port), noDelay: true });
    await once(socket, "connect");
  });

  afterEach(async () => {
    socket.destroy();
    await server.remove();
    assert.deepEqual(server.errors, []);
  });

  /** Each byte in a packet of its own: the next one goes out when this one has. */
  const sendByBytes = async (bytes: Buffer) => {
    for (const byte of bytes) await new Promise((sent) => socket.write(Buffer.of(byte), sent));
  };
  const list = (init: RequestInit) =>
    fetch(`${server.url}/runlog.v1.RunService/ListRuns`, { method: "POST", ...init });

  it("tells HTTP/1.1 by its first bytes, however they arrive", async () => {
    await sendByBytes(Buffer.from("GET /healthz HTTP/1.1\r\nhost: x\r\n\r\n"));
    const [answer] = (await once(socket, "data")) as [Buffer];
    assert.match(answer.toString(), /^HTTP\/1\.1 200 OK\r\n/);
  });

  it("tells HTTP/2 by its first bytes, however they arrive", async () => {
    await sendByBytes(http2Preface);
    const [answer] = (await once(socket, "data")) as [Buffer];
    assert.equal(answer[3], settingsFrameType);
  });

  it("answers bytes of neither protocol with an error, and goes on", async () => {
    socket.write("PRINT this\r\n\r\n");
    const [answer] = (await once(socket, "data")) as [Buffer];
    assert.match(answer.toString(), /^HTTP\/1\.1 400 /);
    assert.equal((await fetch(`${server.url}/healthz`)).status, 200);
  });

  it("lets a client go before it has said anything", async () => {
    socket.end();
    await once(socket, "close");
    assert.equal((await fetch(`${server.url}/healthz`)).status, 200);
  });

  it("answers health to a probe, and 404 to other paths", async () => {
    assert.equal(await (await fetch(`${server.url}/healthz`)).text(), "serving\n");
    assert.equal((await fetch(server.url)).status, 404);
    assert.equal((await fetch(`${server.url}/runlog.v1.RunService/Nothing`)).status, 404);
  });

  it("answers every ping, however many come and with no call open", async () => {
    const connection = new RawConnection(server.url);
    const count = 500;
    for (let at = 0; at < count; at++) {
      const payload = Buffer.alloc(8);
      payload.writeUInt32BE(at);
      await connection.send(frame(frameType.ping, 0, 0, payload));
      const answer = await connection.receive(frameType.ping, frameType.goaway);
      assert.equal(answer?.type, frameType.ping);
      assert.deepEqual(answer.payload, payload);
    }
    connection.close();
  });

  it("understands compressed requests, and compresses no response", async () => {
    const headers = { "content-type": "application/json", "accept-encoding": "gzip" };
    const create = await fetch(`${server.url}/runlog.v1.RunService/CreateRun`, {
      method: "POST",
      headers: { ...headers, "content-encoding": "gzip" },
      body: gzipSync(JSON.stringify({ runId: "r", spec: { displayName: "x".repeat(256) } })),
    });
    assert.equal(create.status, 200);
    const runs = Array.from({ length: 20 }, (_, i) => `run-${i}`);
    for (const runId of runs) {
      await fetch(`${server.url}/runlog.v1.RunService/CreateRun`, {
        method: "POST",
        headers,
        body: JSON.stringify({ runId }),
      });
    }
    const listed = await list({ headers, body: "{}" });
    assert.equal(listed.headers.get("content-encoding"), null);
    const { runs: found } = (await listed.json()) as { runs: unknown[] };
    assert.equal(found.length, 21);
  });

  it("refuses broken JSON with a status, not by closing", async () => {
    const refused = await list({ headers: { "content-type": "application/json" }, body: "{" });
    assert.equal(refused.status, 400);
    assert.equal(((await refused.json()) as { code: string }).code, "invalid_argument");
  });
});

describe("the port's connections", () => {
  it("are refused beyond the limit, visibly, and taken again once one has closed", async () => {
    const server = await startTestServer({ limits: { maxConnections: 2 } });
    const { hostname: host, port } = new URL(server.url);
    const connect = () => net.connect({ host, port: Number(port) });
    const request = "GET /healthz HTTP/1.1\r\nhost: x\r\n\r\n";
    const answerOf = async (socket: net.Socket) => {
      socket.on("error", () => undefined).write(request);
      return ((await once(socket, "data")) as [Buffer])[0].toString();
    };
    const open = [connect(), connect()];
    try {
      for (const socket of open) assert.match(await answerOf(socket), /^HTTP\/1\.1 200 /);
      const refused = connect().on("error", () => undefined);
      const [answer] = (await once(refused, "data")) as [Buffer];
      assert.match(answer.toString(), /^HTTP\/1\.1 503 .*too many connections/s);
      await once(refused, "close");
      // The others are served meanwhile.
      assert.match(await answerOf(open[0]!), /^HTTP\/1\.1 200 /);
      open[1]!.end();
      await once(open[1]!.resume(), "close");
      const next = connect();
      open.push(next);
      assert.match(await answerOf(next), /^HTTP\/1\.1 200 /);
    } finally {
      for (const socket of open) socket.destroy();
      await server.remove();
    }
  });
});
