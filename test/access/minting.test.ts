/** Tokens to hand on, over the wire: what they give, and what they do not. */
import assert from "node:assert/strict";
import { Code, ConnectError } from "@connectrpc/connect";
import { createLocalJWKSet, jwtVerify } from "jose";
import type { KyselyPlugin } from "kysely";
import { Permission } from "../../gen/runlog/v1/auth_pb.js";
import { Reason } from "../../gen/runlog/v1/error_pb.js";
import { RunState } from "../../gen/runlog/v1/run_pb.js";
import type { Journal } from "../../src/journal/journal.ts";
import {
  AccessFile,
  allPermissions,
  type GrantJson,
  mintingKey,
  tokenEntry,
  tokenOf,
} from "../support/access.ts";
import { startTestServer, type TestServer } from "../support/server.ts";
import { refusalOf, type WireClient, wires } from "../support/wire.ts";

const wire = wires.find(({ name }) => name === "gRPC (connect-node)")!;
const { INGEST, READ, SIGNAL, CANCEL } = Permission;

const reasonOf = async (call: Promise<unknown>) =>
  Reason[(await refusalOf(call)).detail?.reason ?? 0];

describe("MintToken", () => {
  let file: AccessFile;
  let server: TestServer;
  let owner: WireClient;
  let planner: WireClient;
  let narrowed: WireClient;
  let startSeq: bigint;
  const clients: WireClient[] = [];
  const others: TestServer[] = [];

  const show = async (token: string, url = server.url): Promise<WireClient> => {
    const client = await wire.connect(url, token);
    clients.push(client);
    return client;
  };
  const startOther = async (options = {}): Promise<TestServer> => {
    const other = await startTestServer(options);
    others.push(other);
    return other;
  };
  const create = async (runId: string, parentRunId = "") =>
    (await owner.runs.createRun({ runId, spec: { parentRunId } })).run!.startSeq;

  beforeEach(async () => {
    const ownerEntry = tokenEntry("owner", [{ namespace: "*", permissions: allPermissions }]);
    file = await AccessFile.make({ tokens: [ownerEntry] });
    server = await startTestServer({ accessFile: file.path });
    owner = await show(tokenOf("owner"));
    await create("root");
    startSeq = await create("child", "root");
    await create("grandchild", "child");
    await create("stranger", "root");
    const ancestor = { run_id: "child", start_seq: Number(startSeq) };
    await file.write({
      minting: { keys: [await file.writeText("minting.pem", mintingKey())] },
      tokens: [
        ownerEntry,
        tokenEntry("planner", [{ namespace: "default", permissions: ["ingest", "read"] }]),
        tokenEntry("narrowed", [
          { namespace: "default", ancestor, permissions: ["read", "signal"] },
        ]),
      ],
    });
    server = await server.restart();
    owner = await show(tokenOf("owner"));
    planner = await show(tokenOf("planner"));
    narrowed = await show(tokenOf("narrowed"));
  });

  afterEach(async () => {
    for (const client of clients.splice(0)) client.close();
    for (const other of others.splice(0)) await other.remove();
    await server.remove();
    await file.remove();
    assert.deepEqual(server.errors, []);
  });

  it("gives what was asked for and no more, and names the minter", async () => {
    const ancestor = { runId: "child" };
    const minted = await planner.auth.mintToken({
      grants: [{ ancestor, permissions: [READ, READ] }],
      name: "viewer",
    });
    assert.equal(minted.identity, "planner>viewer");
    const expected = { runId: "child", startSeq };
    assert.partialDeepStrictEqual(minted.grants, [
      { namespace: "default", ancestor: expected, permissions: [READ] },
    ]);
    const viewer = await show(minted.token);
    assert.equal((await viewer.runs.getRun({ runId: "grandchild" })).run?.runId, "grandchild");
    assert.equal(await reasonOf(viewer.runs.getRun({ runId: "stranger" })), "RUN_NOT_FOUND");
    assert.equal(await reasonOf(viewer.runs.createRun({ spec: {} })), "PERMISSION");
    const who = await viewer.auth.whoAmI({});
    assert.deepEqual([who.identity, who.mintedFrom], ["planner>viewer", "planner"]);
    assert.deepEqual(who.grants, minted.grants);
    assert.deepEqual(who.expireTime, minted.expireTime);
    const again = await viewer.auth.mintToken({ grants: who.grants });
    assert.match(again.identity, /^planner>viewer>[0-9a-f]{12}$/);
    const next = await (await show(again.token)).auth.whoAmI({});
    assert.deepEqual([next.mintedFrom, next.grants], ["planner", who.grants]);
  });

  it("names the holder where a signal is read", async () => {
    const { token } = await narrowed.auth.mintToken({
      grants: [{ ancestor: { runId: "grandchild" }, permissions: [SIGNAL] }],
      name: "phone",
    });
    const phone = await show(token);
    await phone.runs.signalRun({ runId: "grandchild", event: { type: "stop" } });
    const { events } = await owner.subscribe.readEvents({
      filter: { scope: { case: "runIds", value: { runIds: ["grandchild"] } } },
    });
    const senders = events.flatMap(({ record }) =>
      record.case === "signal" ? [record.value.sender] : [],
    );
    assert.deepEqual(senders, ["narrowed>phone"]);
  });

  it("refuses what the caller lacks: a permission, a namespace, the whole, a run", async () => {
    const whole = (permission: Permission, namespace = "default") => ({
      grants: [{ namespace, permissions: [permission] }],
    });
    const of = (runId: string, permission: Permission, seq = 0n) => ({
      grants: [{ ancestor: { runId, startSeq: seq }, permissions: [permission] }],
    });
    for (const [client, request, expected] of [
      [planner, whole(READ), "ok"],
      [planner, whole(SIGNAL), "PERMISSION"],
      [planner, whole(READ, "other"), "PERMISSION"],
      [planner, whole(READ, "*"), "PERMISSION"],
      [owner, whole(READ, "*"), "ok"],
      [planner, of("child", CANCEL), "PERMISSION"],
      [planner, of("child", READ, startSeq), "ok"],
      [planner, of("child", READ, startSeq + 1n), "RUN_NOT_FOUND"],
      [planner, of("nobody", READ), "RUN_NOT_FOUND"],
      [narrowed, whole(READ), "PERMISSION"],
      [narrowed, of("child", READ), "ok"],
      [narrowed, of("grandchild", READ), "ok"],
      [narrowed, of("child", INGEST), "PERMISSION"],
      [narrowed, of("root", READ), "RUN_NOT_FOUND"],
      [narrowed, of("stranger", READ), "RUN_NOT_FOUND"],
      [narrowed, of("nobody", READ), "RUN_NOT_FOUND"],
    ] as const) {
      const call = client.auth.mintToken(request);
      const result = await (expected === "ok" ? call.then(() => "ok") : reasonOf(call));
      assert.equal(
        result,
        expected,
        JSON.stringify(request.grants[0], (_, v) => String(v)),
      );
    }
    // One grant that is refused refuses all.
    const two = { grants: [...whole(READ).grants, ...whole(SIGNAL).grants] };
    assert.equal(await reasonOf(planner.auth.mintToken(two)), "PERMISSION");
  });

  it("refuses what is malformed, and names the field", async () => {
    const permissions = [READ];
    const ancestor = { runId: "child" };
    for (const [request, field] of [
      [{}, "grants"],
      [{ grants: Array.from({ length: 33 }, () => ({ permissions })) }, "grants"],
      [{ grants: [{ permissions: [] }] }, "grants[0].permissions"],
      [{ grants: [{ permissions: [READ, 0] }] }, "grants[0].permissions[1]"],
      [{ grants: [{ permissions: [77] }] }, "grants[0].permissions[0]"],
      [{ grants: [{ namespace: "a b", permissions }] }, "grants[0].namespace"],
      [{ grants: [{ namespace: "*", ancestor, permissions }] }, "grants[0].ancestor"],
      [{ grants: [{ ancestor: {}, permissions }] }, "grants[0].ancestor.run_id"],
      [{ grants: [{ permissions }], lifetime: { nanos: 500_000_000 } }, "lifetime"],
      [{ grants: [{ permissions }], lifetime: { seconds: -5n } }, "lifetime"],
      [{ grants: [{ permissions }], name: "a>b" }, "name"],
      [{ grants: [{ permissions }], name: "a b" }, "name"],
      [{ grants: [{ permissions }], name: "x".repeat(129) }, "name"],
    ] as const) {
      const { code, detail } = await refusalOf(planner.auth.mintToken(request as object));
      assert.deepEqual([code, detail?.field], [Code.InvalidArgument, field]);
    }
  });

  it("means the run that there is: not one that is made anew under its id", async () => {
    await create("again");
    const { token } = await owner.auth.mintToken({
      grants: [{ ancestor: { runId: "again" }, permissions: [READ, INGEST, SIGNAL] }],
    });
    const holder = await show(token);
    assert.equal((await holder.runs.getRun({ runId: "again" })).run?.runId, "again");
    const event = { type: "test" };
    await owner.ingest.appendEvents({
      runId: "again",
      firstRunSeq: 1n,
      events: [event],
      finish: { state: RunState.SUCCEEDED },
    });
    await owner.admin.deleteTree({ rootRunId: "again" });
    await create("again");
    for (const call of [
      () => holder.runs.getRun({ runId: "again" }),
      () => holder.runs.signalRun({ runId: "again", event }),
      () => holder.ingest.appendEvents({ runId: "again", firstRunSeq: 1n, events: [event] }),
      () => {
        const ancestor = { runId: "again" };
        return holder.auth.mintToken({ grants: [{ ancestor, permissions: [READ] }] });
      },
    ]) {
      assert.equal(await reasonOf(call()), "RUN_NOT_FOUND");
    }
    assert.equal(
      await reasonOf(holder.runs.createRun({ runId: "x", spec: { parentRunId: "again" } })),
      "PARENT_NOT_FOUND",
    );
    assert.deepEqual((await holder.runs.listRuns({})).runs, []);
  });

  it("looks at each run once, however many grants are about it", async () => {
    let reads = 0;
    const counting: KyselyPlugin = {
      transformQuery({ node }) {
        reads++;
        return node;
      },
      transformResult: ({ result }) => Promise.resolve(result),
    };
    const wrapJournal = (journal: Journal): Journal => ({
      ...journal,
      db: journal.db.withPlugin(counting),
    });
    const other = await startOther({ accessFile: file.path, wrapJournal });
    const there = await show(tokenOf("owner"), other.url);
    const runIds = Array.from({ length: 32 }, (_, n) => `run-${n}`);
    for (const runId of runIds) await there.runs.createRun({ runId });
    const permissions = [INGEST, READ, SIGNAL, CANCEL];
    const grantOf = (runId: string) => ({ ancestor: { runId }, permissions });
    const { token } = await there.auth.mintToken({ grants: runIds.map(grantOf) });
    const holder = await show(token, other.url);
    await holder.auth.whoAmI({});
    reads = 0;
    await holder.auth.mintToken({ grants: runIds.map(() => grantOf("run-31")) });
    assert.ok(reads <= 3, `${reads} reads`);
    await holder.auth.mintToken({ grants: runIds.map(grantOf) });
    assert.ok(reads <= 3 + 3 * 32, `${reads} reads`);
  });

  it("is for those who have the key: every node accepts the token, another server does not", async () => {
    const { token } = await planner.auth.mintToken({ grants: [{ permissions: [READ] }] });
    const node = await startOther({ accessFile: file.path });
    const there = await show(token, node.url);
    assert.match((await there.auth.whoAmI({})).identity, /^planner>/);
    const stranger = await AccessFile.make({
      tokens: [tokenEntry("planner", [{ namespace: "*", permissions: allPermissions }])],
    });
    const minting = { keys: [await stranger.writeText("other.pem", mintingKey())] };
    for (const content of [{}, { minting }]) {
      await stranger.write({ ...content, tokens: [tokenEntry("planner", [])] });
      const other = await startOther({ accessFile: stranger.path });
      const refused = await refusalOf((await show(token, other.url)).auth.whoAmI({}));
      assert.equal(Reason[refused.detail?.reason ?? 0], "UNAUTHENTICATED");
    }
    await stranger.remove();
  });

  it("publishes what checks its tokens, and never what signs them", async () => {
    const { token } = await planner.auth.mintToken({ grants: [{ permissions: [READ] }] });
    const response = await fetch(`${server.url}/.well-known/jwks.json`);
    assert.equal(response.headers.get("content-type"), "application/json");
    assert.match(response.headers.get("cache-control") ?? "", /max-age=300/);
    const jwks = (await response.json()) as { keys: Record<string, string>[] };
    const names = ["alg", "crv", "kid", "kty", "use", "x"];
    assert.deepEqual(
      jwks.keys.map((key) => Object.keys(key).toSorted()),
      [names],
    );
    const options = { issuer: "runlog", audience: "runlog", algorithms: ["EdDSA"] };
    const { payload } = await jwtVerify(token, createLocalJWKSet(jwks as never), options);
    assert.deepEqual(payload["runlog"], [{ namespace: "default", permissions: ["read"] }]);
  });

  it("says what to do where there is no key, and where there is no access file", async () => {
    await file.write({ tokens: [tokenEntry("planner", [])] });
    const open = await startOther();
    server = await server.restart();
    for (const [url, token, expected] of [
      [server.url, tokenOf("planner"), /minting\.keys/],
      [open.url, "anything", /does not authenticate/],
    ] as const) {
      const client = await show(token, url);
      const call = client.auth.mintToken({ grants: [{ permissions: [READ] }] });
      const refused = await call.catch((error: unknown) => ConnectError.from(error));
      assert.ok(refused instanceof ConnectError);
      assert.equal(refused.code, Code.FailedPrecondition);
      assert.match(refused.rawMessage, expected);
      const { detail } = await refusalOf(Promise.reject(refused));
      assert.equal(Reason[detail?.reason ?? 0], "MINTING_UNAVAILABLE");
      assert.equal((await fetch(`${url}/.well-known/jwks.json`)).status, 404);
    }
  });
});

describe("WhoAmI", () => {
  it("tells everybody everything where the server does not authenticate", async () => {
    const server = await startTestServer();
    const client = await wire.connect(server.url);
    await client.runs.createRun({ namespace: "b" });
    await client.runs.createRun({ namespace: "a" });
    const who = await client.auth.whoAmI({});
    assert.deepEqual([who.identity, who.mintedFrom, who.expireTime], ["", "", undefined]);
    assert.deepEqual(who.readableNamespaces, ["a", "b"]);
    const permissions = [INGEST, READ, SIGNAL, CANCEL, Permission.ADMIN];
    assert.partialDeepStrictEqual(who.grants, [{ namespace: "*", permissions }]);
    client.close();
    await server.remove();
  });

  it("tells what a token gives, until when, and the namespaces that one may read of those there are", async () => {
    const ancestor = { run_id: "r", start_seq: 7 };
    const grants: GrantJson[] = [
      { namespace: "b", permissions: ["read"] },
      { namespace: "c", ancestor, permissions: ["read", "signal"] },
      { namespace: "d", permissions: ["signal"] },
      { namespace: "missing", permissions: ["read"] },
    ];
    const file = await AccessFile.make({
      tokens: [
        tokenEntry("owner", [{ namespace: "*", permissions: allPermissions }]),
        tokenEntry("some", grants, { expires: "2035-01-01T00:00:00Z" }),
        tokenEntry("powerless", []),
      ],
    });
    const server = await startTestServer({ accessFile: file.path });
    const [owner, some, powerless] = await Promise.all(
      ["owner", "some", "powerless"].map((name) => wire.connect(server.url, tokenOf(name))),
    );
    for (const namespace of ["a", "b", "c", "d"]) await owner!.runs.createRun({ namespace });
    const who = await some!.auth.whoAmI({});
    assert.equal(who.identity, "some");
    assert.deepEqual(who.readableNamespaces, ["b", "c"]);
    assert.equal(who.expireTime?.seconds, BigInt(Date.parse("2035-01-01T00:00:00Z") / 1000));
    assert.partialDeepStrictEqual(who.grants[1], {
      namespace: "c",
      ancestor: { runId: "r", startSeq: 7n },
      permissions: [READ, SIGNAL],
    });
    assert.deepEqual((await owner!.auth.whoAmI({})).readableNamespaces, ["a", "b", "c", "d"]);
    const nothing = await powerless!.auth.whoAmI({});
    assert.deepEqual([nothing.grants, nothing.readableNamespaces], [[], []]);
    for (const client of [owner, some, powerless]) client!.close();
    await server.remove();
    await file.remove();
  });
});
