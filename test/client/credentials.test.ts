/** The client's credentials: what it shows, to whom, and how that changes while it runs. */
import assert from "node:assert/strict";
import { createClient } from "@connectrpc/connect";
import { RunService, RunState } from "../../gen/runlog/v1/run_pb.js";
import { freshTls, freshToken } from "../../src/cli/credential-files.ts";
import { follow, openRun } from "../../src/client/index.ts";
import { connectTo } from "../../src/client/node/index.ts";
import { AccessFile, allPermissions, tokenEntry, tokenOf } from "../support/access.ts";
import { Authority, type Certificate } from "../support/certificates.ts";
import { startTestServer, type TestServer } from "../support/server.ts";
import { refusalOf } from "../support/wire.ts";

const everything = [{ namespace: "*", permissions: allPermissions }];

describe("the client's credentials", () => {
  let authority: Authority;
  let own: Certificate;
  let file: AccessFile;
  let server: TestServer;

  before(async () => {
    authority = await Authority.make();
    own = await authority.signServer();
  });

  after(async () => {
    await authority.remove();
  });

  beforeEach(async () => {
    file = await AccessFile.make({
      tokens: [tokenEntry("one", everything), tokenEntry("two", everything)],
      policy: [{ certificate: "CN=writer", grants: everything }],
    });
    server = await startTestServer({
      accessFile: file.path,
      tls: { cert: own.certPath, key: own.keyPath, clientCa: authority.caPath },
    });
  });

  afterEach(async () => {
    await server.remove();
    await file.remove();
    assert.deepEqual(server.errors, []);
  });

  it("are not in the URL", () => {
    for (const url of ["https://user:secret@h", "http://user@h", "http://h,https://:secret@h"]) {
      assert.throws(
        () => connectTo(url),
        (error: Error) =>
          error instanceof TypeError &&
          /remove user and password/.test(error.message) &&
          !error.message.includes("secret"),
      );
    }
  });

  it("carry runs and subscriptions over TLS", async () => {
    const writer = await authority.sign("writer", { subject: "/CN=writer" });
    const connection = connectTo(server.url, { tls: authority.clientTls(writer) });
    const sender = openRun(connection.transport, { runId: "r", spec: {} });
    sender.emit({ type: "test" });
    await sender.finish({ state: RunState.SUCCEEDED });
    const seqs: bigint[] = [];
    const filter = { scope: { case: "all" as const, value: {} } };
    for await (const item of follow(connection.transport, { filter })) {
      if (item.t === "records") seqs.push(...item.records.map(({ seq }) => seq));
      if (seqs.length === 3) break;
    }
    assert.deepEqual(seqs, [1n, 2n, 3n]);
    connection.close();
  });

  it("trust the authorities that they name, and no others", async () => {
    const others = await Authority.make("others");
    for (const tls of [{}, others.clientTls()]) {
      const connection = connectTo(server.url, { tls });
      const { detail } = await refusalOf(
        createClient(RunService, connection.transport).listRuns({}),
      );
      assert.equal(detail, undefined);
      connection.close();
    }
    await others.remove();
  });

  it("are asked for anew: the headers for each call, the certificate for each connection", async () => {
    const writer = await authority.sign("writer", { subject: "/CN=writer" });
    const headers: Record<string, string> = { authorization: "Bearer wrong" };
    let shown = authority.clientTls();
    const connection = connectTo(server.url, { headers: () => ({ ...headers }), tls: () => shown });
    const runs = createClient(RunService, connection.transport);
    await refusalOf(runs.listRuns({}));
    headers["authorization"] = `Bearer ${tokenOf("one")}`;
    await runs.listRuns({});
    delete headers["authorization"];
    await refusalOf(runs.listRuns({}));
    shown = authority.clientTls(writer);
    server = await server.restart({ port: Number(new URL(server.url).port) });
    await runs.listRuns({});
    connection.close();
  });

  it("are read again when their files change, and stay where the new ones are wrong", async () => {
    const tokenFile = await file.writeText("token", `${tokenOf("one")}\n`);
    const writer = await authority.sign("writer", { subject: "/CN=writer" });
    const token = freshToken({ tokenFile });
    const paths = { ca: authority.caPath, cert: writer.certPath, key: writer.keyPath };
    const tls = freshTls(paths);
    assert.equal(token(), tokenOf("one"));
    assert.deepEqual(tls(), authority.clientTls(writer));
    await file.writeText("token", tokenOf("two"));
    assert.equal(token(), tokenOf("two"));
    await file.writeText("token", "two words");
    assert.equal(token(), tokenOf("two"));
    const next = await authority.sign("writer", { subject: "/CN=writer" });
    assert.deepEqual(tls(), authority.clientTls(next));
    await authority.write("writer.key", own.key);
    assert.deepEqual(tls(), authority.clientTls(next));
  });
});
