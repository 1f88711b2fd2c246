import assert from "node:assert/strict";
import { createHash } from "node:crypto";
import { readFile } from "node:fs/promises";
import { parseAccessFile } from "../../src/server/auth/access-file.ts";
import { type Grant, Rights } from "../../src/server/auth/rights.ts";

const securityPage = new URL("../../docs/security.md", import.meta.url);

describe("the access file", () => {
  it("of docs/security.md is one", async () => {
    const [, text = ""] = /```json\n(.*?)```/s.exec(await readFile(securityPage, "utf8")) ?? [];
    const { tokens, issuers, policy } = parseAccessFile("/etc/access.json", text);
    assert.deepEqual([tokens.length, issuers.length, policy.length], [1, 1, 3]);
    assert.deepEqual(tokens[0]!.sha256, createHash("sha256").update("test-token").digest());
  });

  it("may say nothing, and then lets nobody in", () => {
    const nothing = { tokens: [], issuers: [], policy: [], minting: undefined, quotas: {} };
    assert.deepEqual(parseAccessFile("access.json", "{}"), nothing);
  });

  const issuer = { issuer: "i", audience: "a", keys: "k.json" };
  const grants = [{ namespace: "n", permissions: ["read"] }];
  for (const [what, document, expected] of [
    ["no JSON", "{", /is not JSON/],
    ["a list", "[]", /must be an object/],
    ["an unknown key", { token: [] }, /unknown key "token"/],
    ["tokens that are no list", { tokens: {} }, /tokens: must be a list/],
    [
      "a token without grants",
      { tokens: [{ name: "a", sha256: "0".repeat(64) }] },
      /grants: is missing/,
    ],
    [
      "a time without a zone",
      { tokens: [{ name: "a", sha256: "0".repeat(64), grants, expires: "2030-01-01T00:00:00" }] },
      /expires: must be a time/,
    ],
    [
      "an issuer without an audience",
      { issuers: [{ ...issuer, audience: undefined }] },
      /audience: is missing/,
    ],
    [
      "an issuer for every audience",
      { issuers: [{ ...issuer, audience: [] }] },
      /audience: is empty/,
    ],
    ["no algorithm", { issuers: [{ ...issuer, algorithms: [] }] }, /algorithms: is empty/],
    [
      "the algorithm none",
      { issuers: [{ ...issuer, algorithms: ["none"] }] },
      /must be some of EdDSA/,
    ],
    ["an unknown quota", { quotas: { runs: 1 } }, /quotas: has the unknown key "runs"/],
    ["half a stream", { quotas: { streams: 0.5 } }, /quotas.streams: must be a whole number, 0/],
    [
      "a rate below any event",
      { quotas: { bytes_per_second: 1 } },
      /quotas.bytes_per_second: must be a whole number, 1024 or more/,
    ],
    [
      "a quota of a token that is a text",
      { tokens: [{ name: "a", sha256: "0".repeat(64), grants, quotas: { open_runs: "1" } }] },
      /tokens\[0\].quotas.open_runs: must be a whole number/,
    ],
    [
      "a wide tolerance",
      { issuers: [{ ...issuer, clock_tolerance_seconds: 301 }] },
      /from 0 to 300/,
    ],
    [
      "keys that anybody may send",
      { issuers: [{ ...issuer, keys: "http://a.example/k" }] },
      /https:/,
    ],
    ["two rules for one issuer", { issuers: [issuer, issuer] }, /two of them have the issuer "i"/],
    [
      "a claim with a number",
      { policy: [{ claims: { level: 1 }, grants }] },
      /claims.level: must be a text/,
    ],
    [
      "a rule for claims and certificates",
      { policy: [{ claims: { a: "b" }, certificate: "CN=a", grants }] },
      /both "certificate" and "claims": make two rules/,
    ],
    [
      "a rule for certificates of an issuer of tokens",
      { policy: [{ issuer: "i", certificate: "CN=a", grants }] },
      /both "certificate" and "issuer"/,
    ],
    ["any certificate", { policy: [{ certificate: "*", grants }] }, /must be such as spiffe:/],
    [
      "any trust domain",
      { policy: [{ certificate: "spiffe://*/a", grants }] },
      /without \* in the trust domain/,
    ],
    [
      "an unknown key in a rule",
      { policy: [{ certificates: "CN=a", grants }] },
      /unknown key "certificates"/,
    ],
    ["no key to mint with", { minting: {} }, /minting.keys: is missing/],
    ["an empty list of keys to mint with", { minting: { keys: [] } }, /minting.keys: is empty/],
    [
      "a key that is no path",
      { minting: { keys: [{ kty: "OKP" }] } },
      /minting.keys\[0\]: must be a text/,
    ],
    ...[0, 0.5, 2_592_001, "1h"].map(
      (value) =>
        [
          `minted tokens that last ${value} s`,
          { minting: { keys: ["k"], max_lifetime_seconds: value } },
          /max_lifetime_seconds: must be a whole number from 1 to 2592000/,
        ] as const,
    ),
    [
      "an issuer that minted tokens have too",
      { issuers: [{ ...issuer, issuer: "runlog" }], minting: { keys: ["k"] } },
      /two of them have the issuer "runlog"/,
    ],
    [
      "a namespace in part",
      { policy: [{ claims: { a: "b" }, grants: [{ ...grants[0], namespace: "n*" }] }] },
      /namespace/,
    ],
  ] as const) {
    it(`is refused with ${what}`, () => {
      const text = typeof document === "string" ? document : JSON.stringify(document);
      assert.throws(() => parseAccessFile("access.json", text), expected);
    });
  }
});

describe("a pattern for certificates", () => {
  const matches = (certificate: string, identity: string) => {
    const text = JSON.stringify({ policy: [{ certificate, grants: [] }] });
    const [rule] = parseAccessFile("access.json", text).policy;
    return rule?.t === "certificate" && rule.identities.test(identity);
  };

  it("is about an identity as a whole, and * about a part of its path", () => {
    for (const [pattern, identity, expected] of [
      ["spiffe://a.b/agents/x", "spiffe://a.b/agents/x", true],
      ["spiffe://a.b/agents/x", "spiffe://a.b/agents/xy", false],
      ["spiffe://a.b/agents/x", "spiffe://aXb/agents/x", false],
      ["spiffe://a.b/*/x", "spiffe://a.b/agents/x", true],
      ["spiffe://a.b/*/x", "spiffe://a.b/more/agents/x", false],
      ["spiffe://a.b/agents/*", "spiffe://a.b/agents/", false],
      ["CN=*,O=Example", "CN=planner,O=Example", true],
      ["CN=*,O=Example", "CN=planner,O=Other,O=Example", false],
      ["CN=*,O=Example", "CN=planner\\,O=Other,O=Example", false],
    ] as const) {
      assert.equal(matches(pattern, identity), expected, `${pattern} ${identity}`);
    }
  });
});

describe("rights", () => {
  const subtree = { runId: "run", startSeq: 7 };
  const grant = (rest: Partial<Grant> = {}): Grant => ({
    namespace: "n",
    subtree: undefined,
    permissions: ["read"],
    ...rest,
  });

  it("add up, and the wider grant counts", () => {
    const both = new Rights([grant({ subtree }), grant({ subtree: { runId: "b", startSeq: 9 } })]);
    assert.equal(both.within("read", "n")?.length, 2);
    const wide = new Rights([grant({ subtree }), grant({ namespace: "*" })]);
    assert.equal(wide.within("read", "n"), undefined);
    assert.throws(() => both.within("cancel", "n"), /permission "cancel" in namespace "n"/);
    assert.throws(() => both.within("read", "m"));
    assert.throws(() => both.requireWhole("read", "n"), /in all of namespace "n"/);
  });

  it("include others, if none of theirs is missing", () => {
    const one = new Rights([grant()]);
    assert.equal(one.includes(one), true);
    assert.equal(one.includes(new Rights([])), true);
    assert.equal(one.includes(new Rights([grant({ subtree })])), true);
    assert.equal(new Rights([grant({ namespace: "*" })]).includes(one), true);
    assert.equal(one.includes(new Rights([grant({ namespace: "*" })])), false);
    assert.equal(new Rights([grant({ subtree })]).includes(one), false);
    assert.equal(one.includes(new Rights([grant({ permissions: ["read", "cancel"] })])), false);
    const other = { ...subtree, startSeq: 8 };
    const narrow = new Rights([grant({ subtree })]);
    assert.equal(narrow.includes(new Rights([grant({ subtree: other })])), false);
  });
});
