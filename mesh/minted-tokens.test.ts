/** A gateway that checks minted tokens by the keys that nodes publish, as docs/security.md has it. */
import assert from "node:assert/strict";
import { readFile } from "node:fs/promises";
import { Code, ConnectError } from "@connectrpc/connect";
import { Permission } from "../gen/runlog/v1/auth_pb.js";
import { Secrets } from "../test/support/secrets.ts";
import { startTestServer, type TestServer } from "../test/support/server.ts";
import { wires } from "../test/support/wire.ts";
import { proxies, type RunningProxy } from "./proxies.ts";

const page = new URL("../docs/security.md", import.meta.url);
const wire = wires.find(({ name }) => name === "gRPC (connect-node)")!;

describe("Envoy with the filter of docs/security.md", () => {
  let secrets: Secrets;
  let server: TestServer;
  let proxy: RunningProxy;

  before(async () => {
    const [, filter] = /```yaml\n(name: envoy\.filters\.http\.jwt_authn.*?)```/s.exec(
      await readFile(page, "utf8"),
    )!;
    secrets = await Secrets.make();
    const accessFile = secrets.path("node/access.json");
    server = await startTestServer({ accessFile, tls: secrets.pair("node") });
    const port = Number(new URL(server.url).port);
    proxy = await proxies["Envoy"]!({ nodePorts: [port, port, port], secrets, filter: filter! });
  });

  after(async () => {
    await proxy.stop();
    await server.remove();
    await secrets.remove();
  });

  const ask = async (url: string, token: string) => {
    const client = await wire.connect(url, token, secrets.tls);
    try {
      return (await client.auth.whoAmI({})).identity;
    } catch (error) {
      return Code[ConnectError.from(error).code];
    } finally {
      client.close();
    }
  };

  it("lets minted tokens through, and no others", async () => {
    const admin = await wire.connect(server.url, secrets.token, secrets.tls);
    const { token } = await admin.auth.mintToken({
      grants: [{ permissions: [Permission.READ] }],
      name: "browser",
    });
    admin.close();
    assert.equal(await ask(proxy.url, token), "admin>browser");
    const [head, body, signature = ""] = token.split(".");
    const forged = `${head}.${body}.${signature.split("").reverse().join("")}`;
    for (const other of [forged, secrets.token]) {
      assert.equal(await ask(proxy.url, other), "Unauthenticated");
    }
    assert.equal(await ask(server.url, secrets.token), "admin");
  });
});
