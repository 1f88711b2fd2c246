/** TLS with real certificates: every protocol, certificates that change, and peers that do not shake hands. */
import assert from "node:assert/strict";
import { execFileSync } from "node:child_process";
import { once } from "node:events";
import { copyFile, rm } from "node:fs/promises";
import * as net from "node:net";
import * as tls from "node:tls";
import { Code } from "@connectrpc/connect";
import { pino } from "pino";
import { TlsFileError, TlsFiles } from "../../src/server/http/tls-files.ts";
import { Authority, type Certificate } from "../support/certificates.ts";
import { open, Stream } from "../support/producer.ts";
import { startTestServer, type TestServer } from "../support/server.ts";
import { describeWire, refusalOf, wires } from "../support/wire.ts";

const all = { filter: { scope: { case: "all" as const, value: {} } } };

let authority: Authority;
let own: Certificate;
let server: TestServer;

before(async () => {
  authority = await Authority.make();
  own = await authority.signServer();
});

after(async () => {
  await authority.remove();
});

const pathsOf = ({ certPath, keyPath }: Certificate) => ({ cert: certPath, key: keyPath });

/** A connection with TLS that trusts the tests' authority. */
async function connectTls(url: string, options: tls.ConnectionOptions = {}) {
  const { hostname, port } = new URL(url);
  const socket = tls.connect({ host: hostname, port: Number(port), ca: authority.ca, ...options });
  await once(socket, "secureConnect");
  return socket;
}

/** Waits until the server has closed a connection; a reset, too, closes it. */
async function closed(socket: net.Socket): Promise<void> {
  const { promise, resolve } = Promise.withResolvers<void>();
  socket.on("error", () => undefined);
  socket.once("close", () => resolve());
  socket.resume();
  await promise;
}

/** The serial number of the certificate that a server shows to a new connection. */
async function serialOf(url: string): Promise<string | undefined> {
  const socket = await connectTls(url);
  const serial = socket.getPeerX509Certificate()?.serialNumber;
  socket.destroy();
  return serial;
}

describeWire("a server with TLS", (wire) => {
  beforeEach(async () => {
    server = await startTestServer({ tls: pathsOf(own) });
  });

  afterEach(async () => {
    await server.remove();
    assert.deepEqual(server.errors, []);
  });

  it("serves clients that trust its authority", async () => {
    const client = await wire.connect(server.url, undefined, authority.clientTls());
    await client.runs.createRun({ runId: "r" });
    const frames = client.subscribe.subscribe(all)[Symbol.asyncIterator]();
    for (const expected of ["subscribed", "events"]) {
      assert.equal((await frames.next()).value.frame.case, expected);
    }
    if (wire.isBidirectional) {
      const stream = new Stream(client);
      stream.send(open("r", null));
      await stream.expect("opened");
    }
    await frames.return?.(undefined);
    client.close();
  });

  it("is not trusted by others", async () => {
    const other = await Authority.make("others");
    const client = await wire.connect(server.url, undefined, other.clientTls());
    const call = client.runs.listRuns({}, { timeoutMs: 2_000 });
    const { code } = await refusalOf(call);
    assert.ok([Code.Unavailable, Code.Internal].includes(code));
    client.close();
    await other.remove();
  });
});

describe("the port with TLS", () => {
  beforeEach(async () => {
    server = await startTestServer({ tls: pathsOf(own) });
  });

  afterEach(async () => {
    await server.remove();
    assert.deepEqual(server.errors, []);
  });

  const connectTcp = () => {
    const { hostname: host, port } = new URL(server.url);
    return net.connect({ host, port: Number(port) }).on("error", () => undefined);
  };
  const request = "GET /healthz HTTP/1.1\r\nhost: x\r\n\r\n";
  const answerOf = async (socket: tls.TLSSocket, bytes: string | Buffer) => {
    socket.write(bytes);
    return ((await once(socket, "data")) as [Buffer])[0];
  };
  const preface = Buffer.concat([
    Buffer.from("PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"),
    Buffer.from([0, 0, 0, 4, 0, 0, 0, 0, 0]),
  ]);

  it("serves what ALPN says, and what the first bytes say where the client does not use it", async () => {
    for (const ALPNProtocols of [["http/1.1"], undefined]) {
      const socket = await connectTls(server.url, ALPNProtocols && { ALPNProtocols });
      assert.match(String(await answerOf(socket, request)), /^HTTP\/1\.1 200 OK/);
      socket.destroy();
      await once(socket, "close");
    }
    for (const ALPNProtocols of [["h2", "http/1.1"], undefined]) {
      const socket = await connectTls(server.url, ALPNProtocols && { ALPNProtocols });
      assert.equal((await answerOf(socket, preface))[3], 4);
      socket.destroy();
      await once(socket, "close");
    }
  });

  it("speaks TLS 1.2 and later, and no other protocol than HTTP", async () => {
    const socket = await connectTls(server.url, { maxVersion: "TLSv1.2" });
    assert.equal(socket.getProtocol(), "TLSv1.2");
    socket.destroy();
    await assert.rejects(
      connectTls(server.url, {
        maxVersion: "TLSv1.1",
        minVersion: "TLSv1",
        ciphers: "ALL:@SECLEVEL=0",
      }),
      { code: /PROTOCOL_VERSION/ },
    );
    await assert.rejects(connectTls(server.url, { ALPNProtocols: ["smtp"] }), {
      code: /NO_APPLICATION_PROTOCOL/,
    });
  });

  it("closes connections that do not shake hands in time, however they go about it", async () => {
    server = await server.restart({ limits: { firstBytesTimeoutMs: 1_000 } });
    const silent = connectTcp();
    await closed(silent);
    const begun = connectTcp();
    // The start of a ClientHello of 512 bytes, and then one byte after the other.
    begun.write(Buffer.from([0x16, 3, 1, 2, 0, 1, 0, 1, 0xfc, 3, 3]));
    const dripping = setInterval(() => begun.write(Buffer.of(0)), 10);
    await closed(begun);
    clearInterval(dripping);
    const shaken = await connectTls(server.url);
    await closed(shaken);
    const plain = connectTcp();
    plain.write(request);
    await closed(plain);
  });

  it("counts connections that have not shaken hands, and takes new ones once they are gone", async () => {
    server = await server.restart({ limits: { maxConnections: 3 } });
    const silent = [connectTcp(), connectTcp(), connectTcp()];
    await Promise.all(silent.map((socket) => once(socket, "connect")));
    await assert.rejects(connectTls(server.url));
    for (const socket of silent) socket.end();
    await Promise.all(silent.map(closed));
    const socket = await connectTls(server.url);
    assert.match(String(await answerOf(socket, request)), /^HTTP\/1\.1 200 OK/);
    socket.destroy();
  });

  it("has plaintext beside it if it is asked to", async () => {
    assert.equal(server.plaintextUrl, undefined);
    server = await server.restart({ plaintext: { host: "127.0.0.1", port: 0 } });
    assert.equal(await (await fetch(`${server.plaintextUrl}/healthz`)).text(), "serving\n");
    const socket = await connectTls(server.url);
    assert.match(String(await answerOf(socket, request)), /^HTTP\/1\.1 200 OK/);
    socket.destroy();
  });

  it("is not for a network without an access file, nor is plaintext beside it", async () => {
    for (const address of [{ host: "0.0.0.0" }, { plaintext: { host: "0.0.0.0", port: 0 } }]) {
      const started = startTestServer({ tls: pathsOf(own), ...address });
      await assert.rejects(started, { name: "ExposedError", host: "0.0.0.0" });
    }
  });
});

describe("certificates that change", () => {
  let first: Certificate;

  beforeEach(async () => {
    first = await authority.signServer("changing");
  });

  it("are used by new connections, and open streams go on", async () => {
    server = await startTestServer({ tls: pathsOf(first) });
    const before = await serialOf(server.url);
    const wire = wires.find(({ name }) => name === "gRPC (connect-node)")!;
    const client = await wire.connect(server.url, undefined, authority.clientTls());
    const frames = client.subscribe.subscribe(all)[Symbol.asyncIterator]();
    const next = async () => (await frames.next()).value.frame.case;
    assert.deepEqual([await next(), await next()], ["subscribed", "caughtUp"]);
    await authority.signServer("changing");
    while ((await serialOf(server.url)) === before) await new Promise(setImmediate);
    await client.runs.createRun({ runId: "r" });
    assert.equal(await next(), "events");
    client.close();
    await server.remove();
    assert.deepEqual(server.errors, []);
  });

  it("stay as they were where the new ones are wrong", async () => {
    const logged: string[] = [];
    const logger = pino({ level: "info" }, { write: (line: string) => logged.push(line) });
    const files = await TlsFiles.open(pathsOf(first), logger);
    const { context } = files;
    const other = await authority.signServer("other");
    for (const [path, problem] of [
      [other.keyPath, /changing\.key: is not the key of .*changing\.pem/],
      [authority.caPath, /changing\.key: is not the key/],
    ] as const) {
      await copyFile(path, first.keyPath);
      await files.reload();
      assert.match(logged.join(""), problem);
      assert.equal(files.context, context);
    }
    await rm(first.keyPath);
    execFileSync("mkfifo", [first.keyPath]);
    await files.reload();
    assert.match(logged.join(""), /changing\.key: is no regular file/);
    await rm(first.keyPath);
    const seen: unknown[] = [];
    files.onChange((changed) => seen.push(changed));
    await authority.signServer("changing");
    await files.reload();
    assert.deepEqual(seen, [files.context]);
    assert.notEqual(files.context, context);
    await files.close();
  });

  it("are refused at the start, with the name of the file", async () => {
    const logger = pino({ level: "silent" });
    const { cert, key } = pathsOf(first);
    const empty = await authority.write("empty.pem", "");
    for (const [paths, message] of [
      [{ cert: `${cert}.no`, key }, /changing\.pem\.no: cannot be read \(ENOENT\)/],
      [{ cert: empty, key }, /empty\.pem: holds no certificates/],
      [{ cert, key, clientCa: empty }, /empty\.pem: holds no certificates/],
      [{ cert, key: own.keyPath }, /server\.key: is not the key of .*changing\.pem/],
    ] as const) {
      await assert.rejects(TlsFiles.open(paths, logger), (error: Error) => {
        assert.ok(error instanceof TlsFileError);
        assert.match(error.message, message);
        return true;
      });
    }
  });
});
