/** A gateway that checks minted tokens by the keys that nodes publish, as docs/security.md has it. */
import assert from "node:assert/strict";
import { readFile } from "node:fs/promises";
import { Code, ConnectError } from "@connectrpc/connect";
import { Permission } from "../gen/runlog/v1/auth_pb.js";
import { AccessFile, mintingKey, tokenEntry, tokenOf } from "../test/support/access.ts";
import { startTestServer, type TestServer } from "../test/support/server.ts";
import { wires } from "../test/support/wire.ts";
import { proxies, type RunningProxy } from "./proxies.ts";

const page = new URL("../docs/security.md", import.meta.url);
const wire = wires.find(({ name }) => name === "gRPC (connect-node)")!;

describe("Envoy with the filter of docs/security.md", () => {
  let file: AccessFile;
  let server: TestServer;
  let proxy: RunningProxy;

  before(async () => {
    const [, filter] = /```yaml\n(name: envoy\.filters\.http\.jwt_authn.*?)```/s.exec(
      await readFile(page, "utf8"),
    )!;
    file = await AccessFile.make({});
    const entry = tokenEntry("planner", [{ namespace: "default", permissions: ["read"] }]);
    await file.write({
      minting: { keys: [await file.writeText("minting.pem", mintingKey())] },
      tokens: [entry],
    });
    server = await startTestServer({ accessFile: file.path });
    const port = Number(new URL(server.url).port);
    proxy = await proxies["Envoy"]!({ nodePorts: [port, port, port], filter: filter! });
  });

  after(async () => {
    await proxy.stop();
    await server.remove();
    await file.remove();
  });

  const ask = async (url: string, token: string) => {
    const client = await wire.connect(url, token);
    try {
      return (await client.auth.whoAmI({})).identity;
    } catch (error) {
      return Code[ConnectError.from(error).code];
    } finally {
      client.close();
    }
  };

  it("lets minted tokens through, and no others", async () => {
    const planner = await wire.connect(server.url, tokenOf("planner"));
    const { token } = await planner.auth.mintToken({
      grants: [{ permissions: [Permission.READ] }],
      name: "browser",
    });
    planner.close();
    assert.equal(await ask(proxy.http2Url, token), "planner>browser");
    const [head, body, signature = ""] = token.split(".");
    const forged = `${head}.${body}.${signature.split("").reverse().join("")}`;
    for (const other of [forged, tokenOf("planner")]) {
      assert.equal(await ask(proxy.http2Url, other), "Unauthenticated");
    }
    assert.equal(await ask(server.url, tokenOf("planner")), "planner");
  });
});
