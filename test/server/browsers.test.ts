/** What browsers send for pages, over both versions of HTTP: who is served, and who may read the answer. */
import assert from "node:assert/strict";
import * as http2 from "node:http2";
import { create, toBinary } from "@bufbuild/protobuf";
import { Code, cors, createClient } from "@connectrpc/connect";
import { Reason } from "../../gen/runlog/v1/error_pb.js";
import { CreateRunRequestSchema, RunService } from "../../gen/runlog/v1/run_pb.js";
import {
  StopPolicy,
  SubscribeRequestSchema,
  SubscribeService,
} from "../../gen/runlog/v1/subscribe_pb.js";
import { connectTo } from "../../src/client/node/index.ts";
import { envelop } from "../../src/wire/envelope.ts";
import { AccessFile, allPermissions, tokenEntry, tokenOf } from "../support/access.ts";
import { rawCall, rawProtocols } from "../support/raw-call.ts";
import {
  httpVersions,
  type RawAnswer,
  type RawRequest,
  rawRequest,
} from "../support/raw-request.ts";
import { startTestServer, type TestServer } from "../support/server.ts";

const app = "https://app.example.com";
const dev = "http://localhost:5173";
/** Alike, and none of them on the list. */
const foreignOrigins = [
  "https://evil.example",
  "http://app.example.com",
  "https://app.example.com:8443",
  "https://app.example.com.evil.example",
  "https://sub.app.example.com",
  "https://APP.example.com",
  `${app},${app}`,
  "null",
  "",
];
const listRuns = "/runlog.v1.RunService/ListRuns";
const json = { "content-type": "application/json" };

/** The elements of a list in a header, in small letters. */
const listIn = (value: string | readonly string[] | undefined) =>
  String(value).toLowerCase().split(/,\s*/);

/** Asserts that the page of an origin may read an answer. */
function assertReadable({ headers }: RawAnswer, origin: string): void {
  assert.equal(headers["access-control-allow-origin"], origin);
  assert.ok(listIn(headers["vary"]).includes("origin"));
  assert.equal(headers["access-control-allow-credentials"], undefined);
}

/** Asserts that no page of another origin may read an answer. */
function assertUnreadable({ headers }: RawAnswer): void {
  for (const name of Object.keys(headers)) assert.doesNotMatch(name, /^access-control-/);
}

for (const version of httpVersions) {
  describe(`a page in a browser, over ${version}`, () => {
    let server: TestServer;
    let ask: (request: RawRequest) => Promise<RawAnswer>;

    before(async () => {
      server = await startTestServer({
        allowOrigins: [app, dev],
        hostNames: ["Runlog.example.com"],
        limits: { maxMessageBytes: 64 * 1024 },
      });
      ask = (request) => rawRequest(version, server.url, request);
    });

    after(async () => {
      await server.remove();
      assert.deepEqual(server.errors, []);
    });

    /** A preflight, and what it asks for. */
    const preflight = (origin: string, path = listRuns): RawRequest => ({
      method: "OPTIONS",
      path,
      headers: {
        origin,
        "access-control-request-method": "POST",
        "access-control-request-headers": "authorization,content-type,connect-protocol-version",
      },
    });

    it("of an origin on the list may send what the protocols need", async () => {
      for (const origin of [app, dev]) {
        const answer = await ask(preflight(origin));
        assert.equal(answer.status, 204);
        assertReadable(answer, origin);
        const { headers } = answer;
        assert.deepEqual(listIn(headers["access-control-allow-methods"]), ["post", "get"]);
        const allowed = listIn(headers["access-control-allow-headers"]);
        const needed = ["authorization", ...cors.allowedHeaders];
        for (const name of needed) assert.ok(allowed.includes(name.toLowerCase()), name);
        assert.ok(!allowed.includes("x-forwarded-client-cert"));
        assert.equal(headers["access-control-max-age"], "7200");
        assert.equal(answer.body.length, 0);
      }
    });

    it("of another origin gets no leave to send anything", async () => {
      for (const origin of foreignOrigins) {
        const answer = await ask(preflight(origin));
        assert.equal(answer.status, 403, origin);
        assert.match(answer.body.toString(), /may not call this server.*--allow-origin/);
        assertUnreadable(answer);
      }
    });

    it("of an origin on the list reads every answer, errors too", async () => {
      const subscribe = create(SubscribeRequestSchema, {
        filter: { scope: { case: "all", value: {} } },
        stop: StopPolicy.CAUGHT_UP,
      });
      const enveloped = Buffer.concat(envelop([[toBinary(SubscribeRequestSchema, subscribe)]]));
      const subscribePath = "/runlog.v1.SubscribeService/Subscribe";
      const large = JSON.stringify({ namespace: "x".repeat(70_000) });
      const requests: Readonly<Record<string, [number, RawRequest]>> = {
        served: [200, { path: listRuns, headers: json, body: "{}" }],
        invalid: [400, { path: listRuns, headers: json, body: "{" }],
        "too large": [400, { path: listRuns, headers: json, body: large }],
        "another type": [415, { path: listRuns, headers: { "content-type": "a/b" }, body: "{}" }],
        "another method": [405, { method: "PUT", path: listRuns, headers: json, body: "{}" }],
        "an unknown path": [404, { path: "/nothing" }],
        "an unknown method of gRPC-Web": [
          200,
          { path: "/a.B/C", headers: { "content-type": "application/grpc-web" }, body: "" },
        ],
        health: [200, { path: "/healthz" }],
        ...Object.fromEntries(
          ["grpc-web+proto", "connect+proto", ...(version === "HTTP/2" ? ["grpc"] : [])].map(
            (type) => [
              type,
              [
                200,
                {
                  path: subscribePath,
                  headers: { "content-type": `application/${type}` },
                  body: enveloped,
                },
              ],
            ],
          ),
        ),
      };
      for (const [name, [status, request]] of Object.entries(requests)) {
        const answer = await ask({ ...request, headers: { ...request.headers, origin: app } });
        assert.equal(answer.status, status, `${name}: ${answer.body}`);
        assertReadable(answer, app);
        const exposed = listIn(answer.headers["access-control-expose-headers"]);
        for (const needed of ["grpc-status", "grpc-message", "grpc-status-details-bin"]) {
          assert.ok(exposed.includes(needed), `${name}: ${needed}`);
        }
      }
    });

    it("of another origin reads no answer, and a cache keeps none for it", async () => {
      const body = "{}";
      for (const origin of foreignOrigins) {
        for (const request of [
          { path: listRuns, headers: { ...json, origin }, body },
          { path: "/nothing", headers: { origin } },
          { path: "/healthz", headers: { origin } },
        ]) {
          assertUnreadable(await ask(request));
        }
      }
      const answer = await ask({ path: listRuns, headers: json, body });
      assertUnreadable(answer);
      assert.ok(listIn(answer.headers["vary"]).includes("origin"));
    });

    /** Calls a method with headers; what it was refused with. */
    async function refusalOf(headers: Readonly<Record<string, string>>): Promise<string> {
      const answer = await ask({ path: listRuns, headers: { ...json, ...headers }, body: "{}" });
      if (answer.status === 200) return "";
      const { code, message } = JSON.parse(answer.body.toString());
      assert.deepEqual([answer.status, code], [403, "permission_denied"], JSON.stringify(headers));
      return message;
    }

    it("is refused under a name that is not the server's: another page could have led here", async () => {
      for (const host of [
        "evil.example",
        "evil.example:7400",
        "localhost.evil.example",
        "127.0.0.1.evil.example",
        "sub.runlog.example.com",
        "[::1].evil.example",
        // HTTP/2 itself has no users.
        ...(version === "HTTP/2" ? [] : ["localhost@evil.example"]),
        "localhost:7400:1",
        "evil",
      ]) {
        const same = { host, origin: `http://${host}`, "sec-fetch-site": "same-origin" };
        for (const headers of [{ host }, same, { host, origin: app }]) {
          assert.match(await refusalOf(headers), /not known as .*--host-name/, host);
        }
      }
      for (const host of [
        "localhost",
        "LocalHost:7400",
        "127.0.0.1:1",
        "127.9.9.9",
        "[::1]",
        "[::1]:7400",
        "192.0.2.1",
        "runlog.example.com",
        "RUNLOG.example.com:443",
      ]) {
        for (const headers of [{ host }, { host, origin: app, "sec-fetch-site": "cross-site" }]) {
          assert.equal(await refusalOf(headers), "", host);
        }
      }
    });

    it("of another origin is refused, and so is whatever another site had it send", async () => {
      const host = "runlog.example.com:7400";
      for (const origin of foreignOrigins) {
        for (const more of [
          {},
          { "sec-fetch-site": "cross-site" },
          { "sec-fetch-site": "same-site" },
        ]) {
          assert.match(await refusalOf({ host, origin, ...more }), /pages of the origin .*may not/);
        }
      }
      for (const site of ["cross-site", "same-site", "unheard-of"]) {
        assert.match(await refusalOf({ host, "sec-fetch-site": site }), /pages of other sites/);
        // Its name is the server's, and its scheme or its port is not.
        const origin = `http://${host}`;
        assert.match(
          await refusalOf({ host, origin, "sec-fetch-site": site }),
          /pages of the origin/,
        );
      }
    });

    it("of the server itself is served, and so is a client that is no page", async () => {
      const host = "runlog.example.com:7400";
      for (const headers of [
        {},
        { host },
        { host, origin: `http://${host}` },
        { host, origin: `https://${host}`, "sec-fetch-site": "same-origin" },
        // A proxy may have changed the name.
        { host, origin: "https://runlog.example.org", "sec-fetch-site": "same-origin" },
        { host, "sec-fetch-site": "same-origin" },
        { host, "sec-fetch-site": "none" },
        { host, origin: dev, "sec-fetch-site": "cross-site" },
      ]) {
        assert.equal(await refusalOf(headers), "", JSON.stringify(headers));
      }
    });

    it("changes nothing by a call that is refused", async () => {
      for (const headers of [{ origin: "https://evil.example" }, { host: "evil.example" }]) {
        const body = JSON.stringify({ runId: "made-by-a-page", spec: {} });
        const path = "/runlog.v1.RunService/CreateRun";
        const answer = await ask({ path, headers: { ...json, ...headers }, body });
        assert.equal(answer.status, 403);
      }
      const { transport, close } = connectTo(server.url);
      const run = createClient(RunService, transport).getRun({ runId: "made-by-a-page" });
      await assert.rejects(run, { code: Code.NotFound }).finally(close);
    });

    it("may ask after the server's health, wherever it comes from", async () => {
      const headers = { host: "evil.example", origin: "https://evil.example" };
      for (const path of ["/healthz", "/readyz"]) {
        assert.equal((await ask({ path, headers })).status, 200);
      }
      const path = "/grpc.health.v1.Health/Check";
      const answer = await ask({ path, headers: { ...json, ...headers }, body: "{}" });
      assert.match(answer.body.toString(), /SERVING/);
    });
  });
}

describe("pages of other origins", () => {
  let server: TestServer;
  let session: http2.ClientHttp2Session | undefined;

  afterEach(async () => {
    session?.destroy();
    await server.remove();
    assert.deepEqual(server.errors, []);
  });

  it("are refused in every protocol, as it has it", async () => {
    server = await startTestServer({ allowOrigins: [app] });
    const connected = http2.connect(server.url);
    session = connected;
    const requests = [
      [
        RunService.method.createRun,
        toBinary(CreateRunRequestSchema, create(CreateRunRequestSchema)),
      ],
      [RunService.method.listRuns, new Uint8Array(0)],
      [SubscribeService.method.subscribe, new Uint8Array(0)],
      [SubscribeService.method.watch, new Uint8Array(0)],
    ] as const;
    for (const protocol of rawProtocols) {
      for (const [method, message] of requests) {
        if (!protocol.takes(method)) continue;
        for (const headers of [
          { origin: "https://evil.example" },
          { ":authority": "evil.example" },
          { "sec-fetch-site": "cross-site" },
        ]) {
          const name = `${protocol.name}, ${method.name}, ${JSON.stringify(headers)}`;
          const failure = await rawCall(connected, protocol, method, message, headers);
          assert.equal(failure?.code, Code.PermissionDenied, name);
          assert.equal(failure?.detail?.reason, Reason.PERMISSION, name);
        }
        const failure = await rawCall(connected, protocol, method, message, { origin: app });
        assert.notEqual(failure?.code, Code.PermissionDenied, protocol.name);
      }
    }
  });

  it("may be those of extensions and desktop apps", async () => {
    const origin = "chrome-extension://abcdefghijklmnop";
    server = await startTestServer({ allowOrigins: [origin] });
    const asked = { path: listRuns, headers: { ...json, origin }, body: "{}" };
    assertReadable(await rawRequest("HTTP/1.1", server.url, asked), origin);
  });

  it("are all but those of the server, where no list is given", async () => {
    server = await startTestServer();
    const { host } = new URL(server.url);
    const body = "{}";
    for (const [origin, status] of [
      [app, 403],
      [`http://${host}`, 200],
    ] as const) {
      const answer = await rawRequest("HTTP/2", server.url, {
        path: listRuns,
        headers: { ...json, origin },
        body,
      });
      assert.equal(answer.status, status);
      assertUnreadable(answer);
      assert.equal(answer.headers["vary"], undefined);
    }
  });
});

describe("a server that authenticates", () => {
  let file: AccessFile;
  let server: TestServer;

  beforeEach(async () => {
    const grants = [{ namespace: "default", permissions: allPermissions }];
    file = await AccessFile.make({ tokens: [tokenEntry("somebody", grants)] });
    server = await startTestServer({ accessFile: file.path, allowOrigins: [app] });
  });

  afterEach(async () => {
    await server.remove();
    await file.remove();
    assert.deepEqual(server.errors, []);
  });

  const statusOf = async (headers: Readonly<Record<string, string>>) => {
    const asked = { path: listRuns, headers: { ...json, ...headers }, body: "{}" };
    return (await rawRequest("HTTP/1.1", server.url, asked)).status;
  };
  const authorization = `Bearer ${tokenOf("somebody")}`;

  it("answers preflights, which bear no token", async () => {
    const headers = { origin: app, "access-control-request-method": "POST" };
    const asked = { method: "OPTIONS", path: listRuns, headers };
    assert.equal((await rawRequest("HTTP/1.1", server.url, asked)).status, 204);
  });

  it("lets pages on the list read that their token is refused", async () => {
    const asked = { path: listRuns, headers: { ...json, origin: app }, body: "{}" };
    const answer = await rawRequest("HTTP/1.1", server.url, asked);
    assert.equal(answer.status, 401);
    assertReadable(answer, app);
  });

  it("is called under every name, and by pages on the list only", async () => {
    for (const host of ["anything.example:1", "%", "[", "a,b"]) {
      assert.equal(await statusOf({ host, authorization }), 200);
      assert.equal(await statusOf({ host, authorization, origin: app }), 200);
      for (const origin of ["https://evil.example", "null"]) {
        assert.equal(await statusOf({ host, authorization, origin }), 403);
      }
      // A certificate would come by itself.
      assert.equal(await statusOf({ host, authorization, "sec-fetch-site": "cross-site" }), 403);
    }
  });

  it("is called under its own names, where it is given some", async () => {
    server = await server.restart({ hostNames: ["runlog.example.com"] });
    assert.equal(await statusOf({ host: "runlog.example.com", authorization }), 200);
    assert.equal(await statusOf({ host: "anything.example", authorization }), 403);
  });
});
