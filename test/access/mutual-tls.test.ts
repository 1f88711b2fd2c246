/** Client certificates as identities, over every protocol: the right ones, wrong ones, and a proxy's word. */
import assert from "node:assert/strict";
import { once } from "node:events";
import * as tls from "node:tls";
import { Code } from "@connectrpc/connect";
import { Reason } from "../../gen/runlog/v1/error_pb.js";
import { AccessFile, allPermissions, tokenEntry, tokenOf } from "../support/access.ts";
import { Authority, type Certificate } from "../support/certificates.ts";
import { startTestServer, type TestServer } from "../support/server.ts";
import { describeWire, refusalOf, type WireClient, wires } from "../support/wire.ts";

const everything = [{ namespace: "*", permissions: allPermissions }];
const reading = [{ namespace: "default", permissions: ["read"] }];
const spiffe = "spiffe://example.com/agents";
const certificate = (pattern: string, grants: object) => ({ certificate: pattern, grants });

let authority: Authority;
let own: Certificate;
let writer: Certificate;
let reader: Certificate;
let stranger: Certificate;
let file: AccessFile;
let server: TestServer;
let clients: WireClient[];

const rules = {
  tokens: [tokenEntry("reader", reading)],
  policy: [certificate(`${spiffe}/*`, everything), certificate("CN=reader,O=Example", reading)],
};

before(async () => {
  authority = await Authority.make();
  own = await authority.signServer();
  writer = await authority.sign("writer", { subject: "/CN=w", names: [`URI:${spiffe}/writer`] });
  reader = await authority.sign("reader", { subject: "/O=Example/CN=reader" });
  stranger = await authority.sign("stranger", { subject: "/CN=stranger" });
});

after(async () => {
  await authority.remove();
});

beforeEach(async () => {
  file = await AccessFile.make(rules);
  clients = [];
  server = await startTestServer({
    accessFile: file.path,
    tls: { cert: own.certPath, key: own.keyPath, clientCa: authority.caPath },
  });
});

afterEach(async () => {
  for (const client of clients) client.close();
  await server.remove();
  await file.remove();
  assert.deepEqual(server.errors, []);
});

const unauthenticated = [Code.Unauthenticated, Reason.UNAUTHENTICATED];
const denied = [Code.PermissionDenied, Reason.PERMISSION];

async function reasonOf(call: Promise<unknown>) {
  const { code, detail } = await refusalOf(call);
  return [code, detail?.reason];
}

describeWire("a client certificate", (wire) => {
  const connect = async (shown?: Certificate, token?: string) => {
    const client = await wire.connect(server.url, token, authority.clientTls(shown));
    clients.push(client);
    return client;
  };

  it("has the rights that the access file gives to its SPIFFE ID, or to its subject", async () => {
    const writing = await connect(writer);
    await writing.runs.createRun({ runId: "r" });
    const only = await connect(reader);
    assert.equal((await only.runs.getRun({ runId: "r" })).run?.runId, "r");
    assert.deepEqual(await reasonOf(only.runs.createRun({ runId: "s" })), denied);
    const none = await connect(stranger);
    assert.deepEqual(await reasonOf(none.runs.getRun({ runId: "r" })), denied);
  });

  it("names the sender of a signal", async () => {
    const client = await connect(writer);
    await client.runs.createRun({ runId: "r" });
    await client.runs.signalRun({ runId: "r", event: { type: "input" } });
    for await (const { frame } of client.subscribe.subscribe({
      filter: { scope: { case: "all", value: {} }, kinds: [2] },
    })) {
      if (frame.case !== "events") continue;
      const [record] = frame.value.events;
      assert.equal(record?.record.case, "signal");
      if (record?.record.case === "signal") {
        assert.equal(record.record.value.sender, `${spiffe}/writer`);
      }
      break;
    }
  });

  it("gives way to a token, and is not needed", async () => {
    const both = await connect(writer, tokenOf("reader"));
    assert.deepEqual(await reasonOf(both.runs.createRun({ runId: "r" })), denied);
    const wrong = await connect(writer, "no-token");
    assert.deepEqual(await reasonOf(wrong.runs.listRuns({})), unauthenticated);
    const token = await connect(undefined, tokenOf("reader"));
    await token.runs.listRuns({});
    const nothing = await connect();
    assert.deepEqual(await reasonOf(nothing.runs.listRuns({})), unauthenticated);
  });

  it("is refused with its connection where it has expired, or nobody knows its authority", async () => {
    const expired = await authority.sign("expired", {
      subject: "/CN=w",
      names: [`URI:${spiffe}/writer`],
      expires: new Date(Date.now() - 60_000),
    });
    const others = await Authority.make("others");
    const unknown = await others.sign("writer", {
      subject: "/CN=w",
      names: [`URI:${spiffe}/writer`],
    });
    for (const shown of [expired, unknown]) {
      // A good token does not help a bad certificate.
      const client = await connect(shown, tokenOf("reader"));
      const { code, detail } = await refusalOf(client.runs.listRuns({}, { timeoutMs: 2_000 }));
      assert.equal(detail, undefined);
      assert.notEqual(code, Code.Unauthenticated);
    }
    await others.remove();
  });

  it("counts by a proxy's word if the proxy is trusted, and the proxy's own does not", async () => {
    const word = { headers: { "x-forwarded-client-cert": `Hash=1;URI=${spiffe}/writer` } };
    if (wire.name.startsWith("gRPC (@grpc")) return;
    const untrusted = await connect(reader);
    assert.deepEqual(await reasonOf(untrusted.runs.createRun({ runId: "r" }, word)), denied);
    const anonymous = await connect();
    assert.deepEqual(await reasonOf(anonymous.runs.listRuns({}, word)), unauthenticated);
    server = await server.restart({ trustXfccFrom: ["127.0.0.0/8"] });
    const proxy = await connect(writer);
    await proxy.runs.createRun({ runId: "r" }, word);
    assert.deepEqual(await reasonOf(proxy.runs.listRuns({})), unauthenticated);
    const malformed = { headers: { "x-forwarded-client-cert": "writer" } };
    assert.deepEqual(await reasonOf(proxy.runs.listRuns({}, malformed)), unauthenticated);
  });
});

describe("a session of TLS", () => {
  it("is not resumed, since it would bring back a certificate that nobody looks at again", async () => {
    const { hostname: host, port } = new URL(server.url);
    const connect = async (more: tls.ConnectionOptions) => {
      const own = { ...authority.clientTls(writer), ALPNProtocols: ["http/1.1"] };
      const socket = tls.connect({ host, port: Number(port), ...own, ...more });
      socket.write("GET /healthz HTTP/1.1\r\nhost: x\r\n\r\n");
      await once(socket, "data");
      return socket;
    };
    for (const maxVersion of ["TLSv1.2", "TLSv1.3"] as const) {
      const first = await connect({ maxVersion });
      const session = first.getSession();
      first.destroy();
      assert.ok(session !== undefined);
      const second = await connect({ maxVersion, session });
      assert.equal(second.isSessionReused(), false);
      second.destroy();
    }
  });
});

describe("a certificate's open streams", () => {
  const all = { filter: { scope: { case: "all" as const, value: {} } } };
  const wire = wires.find(({ name }) => name === "gRPC (connect-node)")!;

  it("end when the access file takes a right", async () => {
    const client = await wire.connect(server.url, undefined, authority.clientTls(writer));
    clients.push(client);
    const frames = client.subscribe.subscribe(all)[Symbol.asyncIterator]();
    await frames.next();
    await file.write({ policy: [certificate(`${spiffe}/*`, reading)] });
    const untilEnd = async () => {
      while ((await frames.next()).done !== true) {
        // What it still had to get.
      }
    };
    assert.deepEqual(await reasonOf(untilEnd()), [Code.Unauthenticated, Reason.TOKEN_EXPIRED]);
    assert.deepEqual(await reasonOf(client.runs.createRun({ runId: "s" })), denied);
    await client.runs.listRuns({});
  });

  it("are asked to go elsewhere before it expires, so that its owner shows a new one", async () => {
    const expires = new Date(Date.now() + 5_000);
    const names = [`URI:${spiffe}/writer`];
    const short = await authority.sign("short", { subject: "/CN=w", names, expires });
    const client = await wire.connect(server.url, undefined, authority.clientTls(short));
    clients.push(client);
    const frames = client.subscribe.subscribe(all)[Symbol.asyncIterator]();
    for (const expected of ["subscribed", "caughtUp", "goAway"]) {
      assert.equal((await frames.next()).value.frame.case, expected);
    }
  });
});
