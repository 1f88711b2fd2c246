import assert from "node:assert/strict";
import { once } from "node:events";
import * as http from "node:http";
import type { AddressInfo } from "node:net";
import { Code } from "@connectrpc/connect";
import {
  type CryptoKey,
  exportJWK,
  generateKeyPair,
  type JWK,
  type JWTPayload,
  SignJWT,
  UnsecuredJWT,
} from "jose";
import { pino } from "pino";
import { RefusedError } from "../../src/refusal.ts";
import { Access } from "../../src/server/auth/access.ts";
import { KeysUnavailableError } from "../../src/server/auth/remote-keys.ts";
import type { Permission } from "../../src/server/auth/rights.ts";
import { AccessFile, tokenEntry, tokenOf } from "../support/access.ts";
import { startTestServer } from "../support/server.ts";
import { refusalOf, wires } from "../support/wire.ts";

const logger = pino({ level: "silent" });
const issuer = "https://id.example.com";
const audience = "runlog";
const grants = [{ namespace: "default", permissions: ["read"] }];
/** Milliseconds since 1970, of a clock that the tests set. */
let nowMs = Date.parse("2030-01-01T00:00:00Z");
const now = () => nowMs;
const nowS = () => nowMs / 1000;

interface Key {
  readonly kid: string;
  readonly privateKey: CryptoKey;
  readonly publicKey: JWK;
}

async function makeKey(kid: string, alg = "EdDSA"): Promise<Key> {
  const { privateKey, publicKey } = await generateKeyPair(alg, { extractable: true });
  return { kid, privateKey, publicKey: { ...(await exportJWK(publicKey)), kid, alg } };
}

function sign(key: Key, claims: JWTPayload = {}, header: object = {}): Promise<string> {
  const all = { iss: issuer, aud: audience, sub: "somebody", exp: nowS() + 600, ...claims };
  const present = Object.fromEntries(
    Object.entries(all).filter(([, value]) => value !== undefined),
  );
  return new SignJWT(present as JWTPayload)
    .setProtectedHeader({ alg: key.publicKey.alg!, kid: key.kid, ...header })
    .sign(key.privateKey);
}

describe("JSON web tokens", () => {
  let key: Key;
  let file: AccessFile;
  let access: Access;

  before(async () => {
    key = await makeKey("first");
  });

  const openAccess = async (content: object) => {
    file = await AccessFile.make(content);
    access = await Access.open(file.path, { logger, now });
  };

  beforeEach(async () => {
    await openAccess({});
    await file.writeBeside("keys.json", { keys: [key.publicKey] });
    await file.write({ issuers: [{ issuer, audience, keys: "keys.json" }] });
    await access.reload();
  });

  afterEach(async () => {
    await access.close();
    await file.remove();
  });

  const show = async (token: string) => access.authenticate(`Bearer ${token}`);
  const reasonOf = async (token: string): Promise<string> => {
    try {
      await show(token);
      return "accepted";
    } catch (error) {
      return error instanceof RefusedError ? error.refusal.reason : String(error);
    }
  };
  const may = async (token: string, permission: Permission, namespace = "default") => {
    const { rights } = await show(token);
    try {
      return rights.within(permission, namespace) ?? "everywhere";
    } catch {
      return "nowhere";
    }
  };

  it("are accepted with the rights of their claim, under the names of issuer and subject", async () => {
    const token = await sign(key, { runlog: grants });
    const caller = await show(token);
    assert.equal(caller.identity, `${issuer}#somebody`);
    assert.equal(await may(token, "read"), "everywhere");
    assert.equal(await may(token, "ingest"), "nowhere");
    assert.equal(await may(token, "read", "other"), "nowhere");
    const ancestor = { run_id: "run", start_seq: 7 };
    const narrowed = await sign(key, { runlog: [{ ...grants[0], ancestor }] });
    assert.deepEqual(await may(narrowed, "read"), [{ runId: "run", startSeq: 7 }]);
  });

  it("are refused unless everything about them is right", async () => {
    const stranger = await makeKey("first");
    const rsa = await makeKey("first", "RS256");
    const good = await sign(key);
    const [head, , signature] = good.split(".");
    const forged = Buffer.from(JSON.stringify({ iss: issuer, aud: audience, sub: "root" }));
    const secret = await new SignJWT({ iss: issuer, aud: audience, sub: "x", exp: nowS() + 600 })
      .setProtectedHeader({ alg: "HS256", kid: "first" })
      .sign(Buffer.from(key.publicKey.x!, "base64url"));
    assert.equal(await reasonOf(good), "accepted");
    for (const [what, token] of Object.entries({
      signature: await sign(stranger),
      algorithm: await sign(rsa),
      "an HMAC by the public key": secret,
      unsigned: new UnsecuredJWT({ iss: issuer, aud: audience, sub: "x" }).encode(),
      body: `${head}.${forged.toString("base64url")}.${signature}`,
      issuer: await sign(key, { iss: "https://id.example.org" }),
      audience: await sign(key, { aud: "another" }),
      "no audience": await sign(key, { aud: undefined as never }),
      "no subject": await sign(key, { sub: undefined as never }),
      "a subject that looks like a minted token's": await sign(key, { sub: "planner>worker" }),
      "no end": await sign(key, { exp: undefined as never }),
      "not yet": await sign(key, { nbf: nowS() + 100 }),
      "a key that is not there": await sign(key, {}, { kid: "other" }),
      "a critical header": await sign(key, {}, { crit: ["exp"], exp: 1 }).catch(() => "a.b.c"),
      nonsense: "a.b.c",
      empty: "..",
      "no JWT": "something-else",
    })) {
      assert.equal(await reasonOf(token), "unauthenticated", what);
    }
  });

  it("are refused for grants that are not understood, whole", async () => {
    for (const runlog of [
      "read",
      [{ namespace: "default" }],
      [{ namespace: "default", permissions: ["everything"] }],
      [{ namespace: "default", permissions: ["read"], until: "tomorrow" }],
      [{ namespace: "no such name", permissions: ["read"] }],
      [{ namespace: "default", permissions: ["read"], ancestor: { run_id: "run" } }],
      [{ namespace: "default", permissions: ["read"], ancestor: { run_id: "a b", start_seq: 1 } }],
      Array.from({ length: 33 }, () => grants[0]),
    ]) {
      const token = await sign(key, { runlog });
      assert.equal(await reasonOf(token), "unauthenticated", JSON.stringify(runlog));
    }
  });

  it("expire, with the tolerance that the clocks have", async () => {
    const token = await sign(key, { exp: nowS() + 60 });
    nowMs += 80_000;
    assert.equal(await reasonOf(token), "accepted");
    nowMs += 20_000;
    assert.equal(await reasonOf(token), "token_expired");
    assert.equal(await reasonOf(await sign(key, { exp: nowS() - 31 })), "token_expired");
  });

  it("expire at a whole millisecond that a timestamp can hold, whatever the issuer writes", async () => {
    const expiryOf = async (exp: number) => (await show(await sign(key, { exp }))).expiresAtMs;
    assert.equal(await expiryOf(nowS() + 0.456789), nowMs + 30_456);
    assert.equal(await expiryOf(1e300), Date.parse("9999-12-31T23:59:59.999Z"));
  });

  it("have the rights that the policy gives their claims", async () => {
    await file.write({
      issuers: [{ issuer, audience, keys: "keys.json" }],
      policy: [
        { claims: { groups: "platform" }, grants: [{ namespace: "*", permissions: ["admin"] }] },
        {
          claims: { team: "red", level: "high" },
          grants: [{ namespace: "red", permissions: ["read"] }],
        },
        { issuer: "https://else.where", claims: { sub: "somebody" }, grants },
      ],
    });
    await access.reload();
    const platform = await sign(key, { groups: ["all", "platform"] });
    assert.equal(await may(platform, "admin", "any"), "everywhere");
    assert.equal(await may(platform, "read"), "nowhere");
    assert.equal(await may(await sign(key, { groups: "platforms" }), "admin"), "nowhere");
    assert.equal(
      await may(await sign(key, { team: "red", level: "high" }), "read", "red"),
      "everywhere",
    );
    assert.equal(await may(await sign(key, { team: "red" }), "read", "red"), "nowhere");
  });

  it("count by the keys that the file has now", async () => {
    const second = await makeKey("second");
    assert.equal(await reasonOf(await sign(second)), "unauthenticated");
    await file.writeBeside("keys.json", { keys: [key.publicKey, second.publicKey] });
    await access.reload();
    assert.equal(await reasonOf(await sign(second)), "accepted");
    const old = await sign(key);
    assert.equal(await reasonOf(old), "accepted");
    await file.writeBeside("keys.json", { keys: [second.publicKey] });
    await access.reload();
    assert.equal(await reasonOf(old), "unauthenticated");
  });

  it("that name no key are tried with each", async () => {
    const second = await makeKey("second");
    await file.writeBeside("keys.json", { keys: [second.publicKey, key.publicKey] });
    await access.reload();
    assert.equal(await reasonOf(await sign(key, {}, { kid: undefined })), "accepted");
    const stranger = await makeKey("third");
    assert.equal(await reasonOf(await sign(stranger, {}, { kid: undefined })), "unauthenticated");
  });

  describe("of an issuer that publishes its keys", () => {
    let published: JWK[] | undefined;
    let fetches = 0;
    let padding = "";
    let web: http.Server;

    beforeEach(async () => {
      published = [key.publicKey];
      fetches = 0;
      padding = "";
      web = http.createServer((_, response) => {
        fetches++;
        response.writeHead(published === undefined ? 500 : 200, { connection: "close" });
        response.end(JSON.stringify({ keys: published ?? [], padding }));
      });
      await once(web.listen(0, "127.0.0.1"), "listening");
      const keys = `http://127.0.0.1:${(web.address() as AddressInfo).port}/jwks.json`;
      await file.write({ issuers: [{ issuer, audience, keys }] });
      await access.reload();
    });

    afterEach(async () => {
      await once(web.close(), "close");
    });

    it("are checked with them, and fetched once for many", async () => {
      for (let i = 0; i < 5; i++) {
        assert.equal(await reasonOf(await sign(key, { jti: String(i) })), "accepted");
      }
      assert.equal(fetches, 1);
      // And not for each that names another key.
      for (let i = 0; i < 5; i++) {
        assert.equal(await reasonOf(await sign(key, {}, { kid: `${i}` })), "unauthenticated");
      }
      assert.equal(fetches, 1);
    });

    it("are not refused while the keys cannot be had: the call may be made again", async () => {
      published = undefined;
      await assert.rejects(show(await sign(key)), KeysUnavailableError);
      published = [key.publicKey];
      nowMs += 1_000;
      assert.equal(await reasonOf(await sign(key)), "accepted");
    });

    it("make the server ask an issuer that fails every second, not as often as somebody calls", async () => {
      published = undefined;
      const failures = new Set<unknown>();
      for (let i = 0; i < 5; i++) {
        failures.add(await show(await sign(key, { jti: `${i}` })).catch((error: unknown) => error));
      }
      assert.deepEqual([fetches, failures.size], [1, 1]);
      nowMs += 1_000;
      await assert.rejects(show(await sign(key)), KeysUnavailableError);
      assert.equal(fetches, 2);
    });

    const openCall = async (token: string, onEnd: () => void) => (await show(token)).onEnd(onEnd);

    it("lose their open calls with their rights, though the keys cannot be had", async () => {
      const keys = `http://127.0.0.1:${(web.address() as AddressInfo).port}/jwks.json`;
      const claims = { sub: "somebody" };
      const withPolicy = (given: object[]) =>
        file.write({ issuers: [{ issuer, audience, keys }], policy: given });
      await withPolicy([{ claims, grants }]);
      await access.reload();
      let ended = 0;
      await openCall(await sign(key), () => ended++);
      await openCall(await sign(key, { runlog: grants }), () => ended++);
      published = undefined;
      await withPolicy([
        { claims, grants },
        { claims: { sub: "else" }, grants },
      ]);
      await access.reload();
      assert.equal(ended, 0);
      await withPolicy([]);
      await access.reload();
      // Not that of the token that has its rights in itself.
      assert.equal(ended, 1);
      await file.write({});
      await access.reload();
      assert.equal(ended, 2);
    });

    it("keep nobody else's calls open while their keys are slow to come", async () => {
      const keys = `http://127.0.0.1:${(web.address() as AddressInfo).port}/jwks.json`;
      const issuers = [{ issuer, audience, keys }];
      await file.write({ issuers, tokens: [tokenEntry("other", grants)] });
      await access.reload();
      const stop = await openCall(await sign(key, { runlog: grants }), () => undefined);
      const ended = Promise.withResolvers<void>();
      await openCall(tokenOf("other"), ended.resolve);
      const asked = Promise.withResolvers<http.ServerResponse>();
      web.removeAllListeners("request").on("request", (_, response) => asked.resolve(response));
      await file.write({ issuers, tokens: [] });
      let isReloaded = false;
      const reloading = access.reload().then(() => {
        isReloaded = true;
      });
      const response = await asked.promise;
      await ended.promise;
      assert.equal(isReloaded, false);
      response.writeHead(200, { connection: "close" });
      response.end(JSON.stringify({ keys: [key.publicKey] }));
      await reloading;
      // The keys came: nobody had given up by then.
      assert.equal(await reasonOf(await sign(key, { jti: "later" })), "accepted");
      stop();
    });

    it("are not looked for in an answer that is larger than keys are", async () => {
      padding = "x".repeat(1024 * 1024);
      await assert.rejects(show(await sign(key)), (error: Error) => {
        assert.match(String(error.cause), /more than 1048576 bytes/);
        return error instanceof KeysUnavailableError;
      });
    });
  });

  it("are checked once while they are remembered, and by nobody else's copy", async () => {
    const token = await sign(key);
    const first = await show(token);
    assert.equal(access.authenticate(`Bearer ${token}`), first);
    assert.notEqual(await show(await sign(key, { jti: "another" })), first);
  });
});

describe("a server with JSON web tokens", () => {
  it("serves who shows one, and says UNAVAILABLE while it cannot tell", async () => {
    nowMs = Date.now();
    const key = await makeKey("first");
    const file = await AccessFile.make({});
    await file.writeBeside("keys.json", { keys: [key.publicKey] });
    let fetches = 0;
    const web = http.createServer((_, response) => {
      fetches++;
      response.writeHead(500, { connection: "close" });
      response.end();
    });
    await once(web.listen(0, "127.0.0.1"), "listening");
    const failing = `http://127.0.0.1:${(web.address() as AddressInfo).port}/jwks.json`;
    await file.write({
      tokens: [tokenEntry("owner", grants)],
      issuers: [
        { issuer, audience, keys: "keys.json" },
        { issuer: "https://away.example.com", audience, keys: failing },
      ],
    });
    const server = await startTestServer({ accessFile: file.path });
    for (const wire of wires) {
      for (const token of [await sign(key, { runlog: grants }), tokenOf("owner")]) {
        const client = await wire.connect(server.url, token);
        assert.deepEqual((await client.runs.listRuns({})).runs, []);
        client.close();
      }
      const away = await wire.connect(
        server.url,
        await sign(key, { iss: "https://away.example.com" }),
      );
      for (let i = 0; i < 3; i++) {
        const { code } = await refusalOf(away.runs.listRuns({}));
        assert.equal(Code[code], "Unavailable");
      }
      away.close();
    }
    await server.remove();
    await file.remove();
    await once(web.close(), "close");
    assert.match(server.errors.join(""), /a token could not be checked/);
    // However many calls fail with it, a failure is logged once.
    assert.equal(server.errors.length, fetches);
  });
});
