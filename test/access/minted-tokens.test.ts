/** Minted tokens in time: how long they last, and what ends them before. */
import assert from "node:assert/strict";
import { execFileSync } from "node:child_process";
import { rm } from "node:fs/promises";
import { decodeJwt, decodeProtectedHeader, exportJWK, generateKeyPair, SignJWT } from "jose";
import { pino } from "pino";
import { RefusedError } from "../../src/refusal.ts";
import { Access } from "../../src/server/auth/access.ts";
import type { CertificateIdentity } from "../../src/server/auth/certificate-identity.ts";
import type { MintRequest } from "../../src/server/auth/minted-tokens.ts";
import type { Grant } from "../../src/server/auth/rights.ts";
import { AccessFile, allPermissions, mintingKey, tokenEntry, tokenOf } from "../support/access.ts";

/** A key of somebody else, with its public half. */
async function issuerKey() {
  const { privateKey, publicKey } = await generateKeyPair("EdDSA");
  return { privateKey, jwks: { keys: [{ ...(await exportJWK(publicKey)), alg: "EdDSA" }] } };
}

describe("a minted token", () => {
  const logger = pino({ level: "silent" });
  let nowMs = Date.parse("2030-01-01T00:00:00Z");
  const now = () => nowMs;
  let file: AccessFile;
  let access: Access;
  const read: Grant = { namespace: "default", subtree: undefined, permissions: ["read"] };
  const everything = { namespace: "*", permissions: allPermissions };

  const write = async (content: object) => {
    const { minting = { keys: ["minting.pem"] }, ...rest } = content as { minting?: object };
    await file.write({ minting, ...rest });
    await access.reload();
  };
  const caller = async (token: string) => access.authenticate(`Bearer ${token}`);
  const mint = async (by: string, request: Partial<MintRequest> = {}) => {
    const defaults = { grants: [read], restsOn: [read], lifetimeMs: undefined, name: "n" };
    return access.mint(await caller(by), { ...defaults, ...request });
  };
  const reasonOfToken = async (token: string): Promise<string> => {
    try {
      await caller(token);
      return "accepted";
    } catch (error) {
      return error instanceof RefusedError ? error.refusal.reason : String(error);
    }
  };

  beforeEach(async () => {
    file = await AccessFile.make({});
    await file.writeText("minting.pem", mintingKey());
    access = await Access.open(file.path, { logger, now });
    await write({ tokens: [tokenEntry("planner", [everything])] });
  });

  afterEach(async () => {
    await access.close();
    await file.remove();
  });

  it("lasts as long as was asked for, at most an hour, and never longer than its minter's", async () => {
    const lifetimes = async (by: string, lifetimeMs?: number) =>
      (await mint(by, { lifetimeMs })).expiresAtMs - nowMs;
    const planner = tokenOf("planner");
    assert.equal(await lifetimes(planner, 600_000), 600_000);
    assert.equal(await lifetimes(planner), 3_600_000);
    assert.equal(await lifetimes(planner, 7_200_000), 3_600_000);
    const { token } = await mint(planner, { lifetimeMs: 600_000 });
    assert.equal(await lifetimes(token), 600_000);
    nowMs += 1_500;
    assert.equal(await lifetimes(token), 598_500);
    const { token: next } = await mint(token, { lifetimeMs: 3_600_000 });
    nowMs += 598_499;
    assert.deepEqual(
      [await reasonOfToken(token), await reasonOfToken(next)],
      Array(2).fill("accepted"),
    );
    nowMs += 1;
    assert.deepEqual(
      [await reasonOfToken(token), await reasonOfToken(next)],
      Array(2).fill("token_expired"),
    );
    const expires = new Date(nowMs + 90_500).toISOString();
    const minting = { keys: ["minting.pem"], max_lifetime_seconds: 7_200 };
    await write({
      minting,
      tokens: [tokenEntry("planner", [everything]), tokenEntry("brief", [everything], { expires })],
    });
    assert.equal(await lifetimes(planner), 7_200_000);
    assert.equal(await lifetimes(tokenOf("brief")), 90_000);
  });

  it("names its key, and counts while the file has that key", async () => {
    const { token: old } = await mint(tokenOf("planner"));
    const tokens = [tokenEntry("planner", [everything])];
    await file.writeText("next.pem", mintingKey());
    await write({ tokens, minting: { keys: ["minting.pem", "next.pem"] } });
    const kidOf = (token: string) => decodeProtectedHeader(token).kid;
    const kids = access.publicKeys!.keys.map(({ kid }) => kid);
    assert.equal(kids.length, 2);
    assert.equal(kidOf(old), kids[0]);
    await write({ tokens, minting: { keys: ["next.pem", "minting.pem"] } });
    const { token: fresh } = await mint(tokenOf("planner"));
    assert.equal(kidOf(fresh), kids[1]);
    assert.deepEqual(
      [await reasonOfToken(old), await reasonOfToken(fresh)],
      ["accepted", "accepted"],
    );
    await write({ tokens, minting: { keys: ["next.pem"] } });
    assert.deepEqual(
      [await reasonOfToken(old), await reasonOfToken(fresh)],
      ["unauthenticated", "accepted"],
    );
    await file.write({ tokens });
    await access.reload();
    assert.equal(await reasonOfToken(fresh), "unauthenticated");
  });

  it("goes on with the keys before where a new file holds none", async () => {
    const { token } = await mint(tokenOf("planner"));
    for (const [name, text] of [
      ["text.pem", "no key"],
      ["ec.pem", "-----BEGIN PRIVATE KEY-----\nMAA=\n-----END PRIVATE KEY-----\n"],
    ] as const) {
      await file.writeText(name, text);
      await assert.rejects(async () => {
        await write({ minting: { keys: [name] } });
        await Access.open(file.path, { logger, now });
      }, /must hold an Ed25519 key in PEM.*openssl genpkey -algorithm ed25519/);
      assert.equal(await reasonOfToken(token), "accepted");
    }
    await write({ minting: { keys: ["minting.pem", "minting.pem"] } });
    await assert.rejects(Access.open(file.path, { logger, now }), /the same key/);
    await write({ minting: { keys: ["none.pem"] } });
    await assert.rejects(Access.open(file.path, { logger, now }), /none\.pem.*ENOENT/);
  });

  it("is not kept by a file that became a FIFO, which nobody can read to its end", async () => {
    const { token } = await mint(tokenOf("planner"));
    await rm(file.path);
    execFileSync("mkfifo", [file.path]);
    await access.reload();
    assert.equal(await reasonOfToken(token), "accepted");
    await write({ tokens: [] });
    assert.equal(await reasonOfToken(token), "unauthenticated");
  });

  it("ends, with its open calls, when the file takes from its source what it rests on", async () => {
    const grant = (permissions: readonly string[]) => [{ namespace: "default", permissions }];
    for (const [tokens, expected] of [
      [[tokenEntry("planner", grant(["read", "admin"]))], "accepted"],
      [[tokenEntry("planner", [everything])], "accepted"],
      [[tokenEntry("planner", grant(["admin"]))], "unauthenticated"],
      [[tokenEntry("planner", [{ namespace: "other", permissions: ["read"] }])], "unauthenticated"],
      [[tokenEntry("planner-2", grant(["read"]))], "unauthenticated"],
      [
        [tokenEntry("planner", grant(["read"]), { expires: "2029-01-01T00:00:00Z" })],
        "unauthenticated",
      ],
      [[], "unauthenticated"],
    ] as const) {
      await write({ tokens: [tokenEntry("planner", [everything])] });
      const { token } = await mint((await mint(tokenOf("planner"))).token);
      let ended = false;
      const stop = (await caller(token)).onEnd(() => {
        ended = true;
      });
      await write({ tokens });
      assert.equal(await reasonOfToken(token), expected);
      assert.equal(ended, expected !== "accepted");
      stop();
    }
  });

  it("ends no later than its source, whose time the file has shortened since", async () => {
    const { token } = await mint(tokenOf("planner"));
    const expires = new Date(nowMs + 60_000).toISOString();
    await write({ tokens: [tokenEntry("planner", [everything], { expires })] });
    assert.equal((await caller(token)).expiresAtMs, nowMs + 60_000);
    assert.equal((await mint(token)).expiresAtMs, nowMs + 60_000);
    nowMs += 60_000;
    assert.equal(await reasonOfToken(token), "unauthenticated");
  });

  it("loses its open calls, as its source does, where the file shortens the source's time", async () => {
    const callers = [tokenOf("planner"), (await mint(tokenOf("planner"))).token];
    const ended: string[] = [];
    const stops = await Promise.all(
      callers.map(async (token) => (await caller(token)).onEnd(() => void ended.push(token))),
    );
    const planner = (aheadMs: number) => {
      const expires = new Date(nowMs + aheadMs).toISOString();
      return tokenEntry("planner", [everything], { expires });
    };
    await write({ tokens: [planner(60_000)] });
    assert.deepEqual(ended.sort(), callers.sort());
    for (const stop of stops) stop();
    const again = (await caller(tokenOf("planner"))).onEnd(() => void ended.push("again"));
    await write({ tokens: [planner(90_000)] });
    assert.equal(ended.length, 2);
    again();
  });

  it("of a certificate's owner, or of a JWT's, ends with its rule, or its issuer", async () => {
    const certificate: CertificateIdentity = { identity: "CN=planner", expiresAtMs: undefined };
    const policy = [
      { certificate: "CN=planner", grants: [{ namespace: "default", permissions: ["read"] }] },
    ];
    const issuers = [{ issuer: "https://id.example", audience: "runlog", keys: "jwks.json" }];
    const { privateKey, jwks } = await issuerKey();
    await file.writeBeside("jwks.json", jwks);
    await write({ policy, issuers });
    const byCertificate = await access.authenticate(undefined, () => certificate);
    const request = { grants: [read], restsOn: [read], lifetimeMs: undefined, name: "n" };
    const first = await access.mint(byCertificate, request);
    assert.equal(first.identity, "CN=planner>n");
    const jwt = await new SignJWT({ runlog: [{ namespace: "default", permissions: ["read"] }] })
      .setProtectedHeader({ alg: "EdDSA" })
      .setIssuer("https://id.example")
      .setAudience("runlog")
      .setSubject("somebody")
      .setExpirationTime(nowMs / 1000 + 60)
      .sign(privateKey);
    const second = await access.mint(await caller(jwt), request);
    assert.equal(second.identity, "https://id.example#somebody>n");
    const both = [first.token, second.token];
    assert.deepEqual(await Promise.all(both.map(reasonOfToken)), ["accepted", "accepted"]);
    await write({ issuers });
    assert.deepEqual(await Promise.all(both.map(reasonOfToken)), ["unauthenticated", "accepted"]);
    await write({ policy });
    assert.deepEqual(await Promise.all(both.map(reasonOfToken)), ["accepted", "unauthenticated"]);
  });

  it("gets nothing from the policy for claims, which are its minter's words", async () => {
    const rule = { claims: { sub: "planner>admin" }, grants: [everything] };
    await write({ tokens: [tokenEntry("planner", [everything])], policy: [rule] });
    const { token } = await mint(tokenOf("planner"), { name: "admin" });
    const { rights } = await caller(token);
    assert.throws(() => rights.within("admin", "default"), RefusedError);
  });

  it("keeps its identity short, however long the chain", async () => {
    let token = tokenOf("planner");
    let identity = "";
    for (let i = 0; i < 30; i++) {
      ({ token, identity } = await mint(token, { name: `worker-${i}-${"x".repeat(30)}` }));
    }
    assert.ok(identity.length <= 300, identity);
    assert.match(identity, /^planner>…>worker-\d+-x+>.*>worker-29-x+$/);
    assert.equal((await caller(token)).identity, identity);
    assert.equal(decodeJwt(token).sub, identity);
  });

  it("is refused where it would be too long to send", async () => {
    const subtree = { runId: "r".repeat(128), startSeq: 1 };
    const grants = Array.from({ length: 32 }, () => ({ ...read, subtree }));
    await assert.rejects(
      mint(tokenOf("planner"), { grants, restsOn: grants }),
      /grants: .*too long/,
    );
    await assert.rejects(
      mint(tokenOf("planner"), { restsOn: [...grants, read] }),
      /grants: rest on more than 32/,
    );
  });

  it("is not made by anybody else: not with another key, nor unsigned, nor of another's body", async () => {
    const { token } = await mint(tokenOf("planner"));
    const [head, body = "", signature] = token.split(".");
    const claims = JSON.parse(Buffer.from(body, "base64url").toString()) as object;
    const more = JSON.stringify({ ...claims, runlog: [everything] });
    const { privateKey } = await issuerKey();
    const other = await new SignJWT(claims as never)
      .setProtectedHeader({ alg: "EdDSA", kid: decodeProtectedHeader(token).kid! })
      .sign(privateKey);
    const none = Buffer.from(JSON.stringify({ alg: "none" })).toString("base64url");
    for (const forged of [
      `${head}.${Buffer.from(more).toString("base64url")}.${signature}`,
      other,
      `${none}.${body}.`,
    ]) {
      assert.equal(await reasonOfToken(forged), "unauthenticated");
    }
  });
});
