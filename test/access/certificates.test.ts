/** Whom certificates are about, and what proxies say of them. */
import assert from "node:assert/strict";
import { X509Certificate } from "node:crypto";
import { RefusedError } from "../../src/refusal.ts";
import { identityOf } from "../../src/server/auth/certificate-identity.ts";
import { TrustedProxies } from "../../src/server/auth/trusted-proxies.ts";
import { Authority } from "../support/certificates.ts";

/** What a refusal says. */
const refused = (problem: RegExp) => (error: unknown) => {
  assert.ok(error instanceof RefusedError && error.refusal.reason === "unauthenticated");
  assert.match(error.refusal.problem, problem);
  return true;
};

describe("the identity of a certificate", () => {
  let authority: Authority;

  before(async () => {
    authority = await Authority.make();
  });

  after(async () => {
    await authority.remove();
  });

  const certificateOf = async (subject: string, names: readonly string[]) =>
    new X509Certificate((await authority.sign("one", { subject, names })).cert);

  it("is its SPIFFE ID, or else its subject as RFC 2253 writes it", async () => {
    for (const [subject, names, expected] of [
      [
        "/O=Example/CN=planner",
        ["URI:spiffe://example.com/agents/a"],
        "spiffe://example.com/agents/a",
      ],
      ["/O=Example/CN=planner", ["DNS:a.example.com", "URI:https://a/b"], "CN=planner,O=Example"],
      [
        "/O=Example, Inc/CN=spiffe:\\/\\/example.com\\/a",
        [],
        "CN=spiffe://example.com/a,O=Example\\, Inc",
      ],
      ["/CN=a", ["URI:https://a/, URI:spiffe://example.com/b"], "CN=a"],
    ] as const) {
      const certificate = await certificateOf(subject, names);
      const { identity, expiresAtMs } = identityOf(certificate);
      assert.equal(identity, expected);
      assert.equal(expiresAtMs, certificate.validToDate.getTime());
    }
  });

  it("is nobody's where it could be read in two ways", async () => {
    for (const [subject, names, problem] of [
      ["/CN=a", ["URI:spiffe://a.b/c", "URI:spiffe://a.b/d"], /several URIs/],
      ["/CN=a", ["URI:https://a.b", "URI:spiffe://a.b/d"], /several URIs/],
      ["/CN=a", ["URI:spiffe://a.b"], /malformed/],
      ["/CN=a", ["URI:spiffe://a.b/../c"], /malformed/],
      ["/CN=a", ["URI:SPIFFE://a.b/c"], /malformed/],
      ["/", [], /neither a SPIFFE ID nor a subject/],
      [
        `/CN=${"a".repeat(60)}/${"OU=".padEnd(63, "b")}/${"O=".padEnd(63, "c")}/${"L=".padEnd(120, "d")}`,
        [],
        /too long/,
      ],
    ] as const) {
      const certificate = await certificateOf(subject, names);
      assert.throws(() => identityOf(certificate), refused(problem));
    }
  });
});

describe("x-forwarded-client-cert", () => {
  const proxies = new TrustedProxies(["10.0.0.0/8", "192.0.2.7", "2001:db8::/32"]);
  const identityFrom = (address: string, value: string) =>
    proxies.certificateOf({ address, certificate: undefined }, { "x-forwarded-client-cert": value })
      ?.identity;

  it("counts from the addresses that were configured, and from no others", () => {
    const value = "URI=spiffe://a.b/c";
    for (const address of ["10.1.2.3", "::ffff:10.1.2.3", "192.0.2.7", "2001:db8::1"]) {
      assert.equal(identityFrom(address, value), "spiffe://a.b/c", address);
    }
    for (const address of ["11.0.0.1", "::ffff:11.0.0.1", "192.0.2.8", "2001:db9::1", "::1", ""]) {
      assert.equal(identityFrom(address, value), undefined, address);
    }
  });

  it("is refused from nobody where there are no proxies", () => {
    assert.equal(new TrustedProxies([]).isEmpty, true);
    for (const text of ["", "10.0.0.0/33", "::/129", "10.0.0", "a.example.com", "10.0.0.0/8/8"]) {
      assert.throws(() => new TrustedProxies([text]), { name: "ProxyAddressError" }, text);
    }
  });

  it("names one caller, as Envoy writes it", () => {
    for (const [value, expected] of [
      ['By=spiffe://a.b/server;Hash=46;Subject="CN=a,O=b";URI=spiffe://a.b/c', "spiffe://a.b/c"],
      ['Hash=46;Subject="CN=a,O=Example\\, Inc";URI=', "CN=a,O=Example\\, Inc"],
      ['Hash=46;Subject="CN=a";DNS=x.example.com;DNS=y.example.com', "CN=a"],
      ['subject="CN=a;b=\\"c\\""', 'CN=a;b="c"'],
    ] as const) {
      assert.equal(identityFrom("10.0.0.1", value), expected);
    }
  });

  it("is refused where it is anything else", () => {
    for (const [value, problem] of [
      ["", /malformed/],
      ["URI=spiffe://a.b/c;", /malformed/],
      ["URI=spiffe://a.b/c, URI=spiffe://a.b/d", /several elements/],
      ["URI=spiffe://a.b/c,", /several elements/],
      ["URI=spiffe://a.b/c;URI=spiffe://a.b/d", /several URIs/],
      ["URI=spiffe://a.b/c;Role=admin", /unknown key Role/],
      ["spiffe://a.b/c", /malformed/],
      ['Subject="CN=a', /malformed/],
      ['Subject="CN=a"b', /malformed/],
      // What Envoy makes of CN=a";URI=spiffe://a.b/c : a quote behind an escaped one.
      ['Subject="CN=a\\\\";URI=spiffe://a.b/c;DNS="b"', /malformed/],
      ['Subject="CN=a";Subject="CN=b"', /two subjects/],
      ["Hash=46", /neither/],
      ['Subject=""', /neither/],
    ] as const) {
      assert.throws(() => identityFrom("10.0.0.1", value), refused(problem), value);
    }
  });
});
