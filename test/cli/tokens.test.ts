/** What becomes of commands when their token expires. */
import assert from "node:assert/strict";
import { Reason } from "../../gen/runlog/v1/error_pb.js";
import { follow, openRun } from "../../src/client/index.ts";
import { connectTo, type NodeConnection } from "../../src/client/node/index.ts";
import { isRefusal, succeeded } from "../client/sender-rig.ts";
import { allPermissions, tokenEntry, tokenOf } from "../support/access.ts";
import { JwtIssuer } from "../support/jwt-issuer.ts";
import { startTestServer, type TestServer } from "../support/server.ts";
import { assertFailed, Commands } from "./commands.ts";

/** Milliseconds; enough to start a command on a busy machine. */
const soonMs = 5_000;
const hourMs = 3_600_000;
const everything = { filter: { scope: { case: "all" as const, value: {} } } };

describe("a command whose token expires", () => {
  const commands = new Commands();
  let issuer: JwtIssuer;
  let server: TestServer;
  let owner: NodeConnection;

  beforeEach(async () => {
    const grants = [{ namespace: "*", permissions: allPermissions }];
    issuer = await JwtIssuer.make({ tokens: [tokenEntry("owner", grants)] });
    server = await startTestServer({ accessFile: issuer.accessFile.path });
    commands.url = server.url;
    owner = connectTo(server.url, { token: tokenOf("owner") });
  });

  afterEach(async () => {
    await commands.endAll();
    owner.close();
    await server.remove();
    await issuer.accessFile.remove();
    assert.deepEqual(server.errors, []);
  });

  /** Waits until streams have ended with this token, which they do together. */
  const untilExpired = async (token: string) => {
    const { transport, close } = connectTo(server.url, { token });
    const reading = (async () => {
      for await (const _ of follow(transport, everything));
    })();
    await assert.rejects(reading, isRefusal(Reason.TOKEN_EXPIRED));
    close();
  };
  const record = async (runId: string) => {
    const sender = openRun(owner.transport, { runId, spec: {} });
    await sender.finish(succeeded);
  };

  it("goes on with what its token file holds by then, and says nothing of it", async () => {
    const first = await issuer.sign(soonMs);
    const tokenFile = await issuer.accessFile.writeText("token", first);
    const tail = commands.start(["tail", "--all", "--json", "--token-file", tokenFile]);
    const ingest = commands.start(["ingest", "--run", "lines", "--token-file", tokenFile]);
    ingest.child.stdin.write("before\n");
    const dataOf = (text: string) => new RegExp(`"data":"${Buffer.from(text).toString("base64")}"`);
    await tail.until("stdout", dataOf("before"));
    await issuer.accessFile.writeText("token", await issuer.sign(hourMs));
    await untilExpired(first);
    await record("after");
    await tail.until("stdout", /"runId":"after"/);
    ingest.child.stdin.end("after\n");
    const { status, stderr } = await ingest.ended;
    assert.deepEqual([status, stderr], [0, "run lines\nrun lines: 2 events durable, SUCCEEDED\n"]);
    await tail.until("stdout", dataOf("after"));
    assert.equal(tail.stderr, "");
  });

  it("ends where its token was given by a flag, and says what to do", async () => {
    const token = await issuer.sign(soonMs);
    const tail = commands.start(["tail", "--all", "--json", "--token", token]);
    await record("before");
    await tail.until("stdout", /"runId":"before"/);
    assertFailed(await tail.ended, /TOKEN_EXPIRED.*--token-file/);
    assertFailed(await commands.run(["runs", "--token", token]), /TOKEN_EXPIRED.*--token-file/);
  });
});
