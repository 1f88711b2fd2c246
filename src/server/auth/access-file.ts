/**
 * The access file: who may do what, as one JSON document that a person can read.
 *
 *   tokens   static tokens, by the SHA-256 of each, with their grants
 *   issuers  who signs JWTs, and which of them count
 *   policy   what the claims of a JWT grant, besides those of its claim `runlog`, and what
 *            a client's certificate grants
 *   minting  the keys that sign tokens which callers make of their own rights
 *   quotas   what each identity may use; tokens and rules may have others
 */
import { dirname, resolve } from "node:path";
import { defaultMintedLifetimeS, maxMintedLifetimeS } from "../../limits.ts";
import { MistakeError, parseGrants, parseList, parseObject, parseText } from "./parse-grants.ts";
import { type PartialQuotas, parseQuotas } from "./parse-quotas.ts";
import type { Grant } from "./rights.ts";

/** A token of a file. */
export interface StaticToken {
  readonly name: string;
  readonly sha256: Uint8Array;
  /** Milliseconds since 1970; undefined: never. */
  readonly expiresAtMs: number | undefined;
  readonly grants: readonly Grant[];
  readonly quotas: PartialQuotas;
}

/** Who signs tokens. */
export interface Issuer {
  /** The claim `iss`. */
  readonly issuer: string;
  /** The claim `aud` must hold one of these. */
  readonly audience: readonly string[];
  /** The JWKS. */
  readonly keys:
    | { readonly t: "url"; readonly url: URL }
    | { readonly t: "file"; readonly path: string };
  readonly algorithms: readonly string[];
  /** Seconds by which clocks may differ. */
  readonly clockToleranceS: number;
}

/** What grants something to those whom it is about. */
export type PolicyRule = ClaimRule | CertificateRule;

/** What claims grant. */
export interface ClaimRule {
  readonly t: "claims";
  /** The issuer whose tokens it is about; undefined: any. */
  readonly issuer: string | undefined;
  /** A token has to have all of these: as its value, or among the values of a list. */
  readonly claims: Readonly<Record<string, string>>;
  readonly grants: readonly Grant[];
  readonly quotas: PartialQuotas;
}

/** What certificates grant. */
export interface CertificateRule {
  readonly t: "certificate";
  /** The identities that it is about, each as a whole. */
  readonly identities: RegExp;
  readonly grants: readonly Grant[];
  readonly quotas: PartialQuotas;
}

/** How tokens are minted. */
export interface Minting {
  /** The claim `iss` of minted tokens. */
  readonly issuer: string;
  /** Paths of Ed25519 keys in PEM: the first signs, all of them count. */
  readonly keys: readonly string[];
  /** Seconds that a token lasts at most. */
  readonly maxLifetimeS: number;
}

/** The file. */
export interface AccessRules {
  readonly tokens: readonly StaticToken[];
  readonly issuers: readonly Issuer[];
  readonly policy: readonly PolicyRule[];
  /** Undefined: no token is minted, and none that was counts. */
  readonly minting: Minting | undefined;
  /** Where tokens and rules say nothing else. */
  readonly quotas: PartialQuotas;
}

/** Asymmetric ones: with another a key that checks tokens could make them too. */
const algorithms = [
  "EdDSA",
  "Ed25519",
  "ES256",
  "ES384",
  "ES512",
  "PS256",
  "PS384",
  "PS512",
  "RS256",
  "RS384",
  "RS512",
];
const defaultAlgorithms = ["EdDSA", "Ed25519", "ES256", "PS256", "RS256"];
const defaultClockToleranceS = 30;
const maxClockToleranceS = 300;
const defaultMintingIssuer = "runlog";

/**
 * Reads the file's text.
 *
 * @param path the file's, from which paths in it start
 * @throws MistakeError with every mistake, one a line
 */
export function parseAccessFile(path: string, text: string): AccessRules {
  let document: unknown;
  try {
    document = JSON.parse(text);
  } catch {
    throw new MistakeError(path, "is not JSON");
  }
  const {
    tokens = [],
    issuers = [],
    policy = [],
    minting,
    quotas,
  } = parseObject(path, document, ["tokens", "issuers", "policy", "minting", "quotas"]);
  const mistakes: string[] = [];
  const noted = <T>(parse: () => T): T[] => {
    try {
      return [parse()];
    } catch (error) {
      if (!(error instanceof MistakeError)) throw error;
      mistakes.push(error.message);
      return [];
    }
  };
  const each = <T>(at: string, list: unknown, parse: (at: string, item: unknown) => T): T[] =>
    parseList(at, list).flatMap((item, index) => noted(() => parse(`${at}[${index}]`, item)));
  const rules = {
    tokens: each("tokens", tokens, parseToken),
    issuers: each("issuers", issuers, (at, item) => parseIssuer(at, item, dirname(path))),
    policy: each("policy", policy, parseRule),
    minting: each("minting", minting === undefined ? [] : [minting], (_, item) =>
      parseMinting("minting", item, dirname(path)),
    )[0],
    quotas: noted(() => parseQuotas("quotas", quotas))[0] ?? {},
  };
  const twice =
    repeated(
      "tokens",
      "name",
      rules.tokens.map(({ name }) => name),
    ) ??
    repeated(
      "issuers",
      "issuer",
      [...rules.issuers, ...(rules.minting === undefined ? [] : [rules.minting])].map(
        ({ issuer }) => issuer,
      ),
    );
  if (twice !== undefined) mistakes.push(twice);
  if (mistakes.length > 0) throw new MistakeError(path, mistakes.join("\n"));
  return rules;
}

/** Two with one name would be one to whoever reads a log. */
function repeated(at: string, key: string, names: readonly string[]): string | undefined {
  const twice = names.find((name, index) => names.indexOf(name) < index);
  return twice === undefined
    ? undefined
    : `${at}: two of them have the ${key} ${JSON.stringify(twice)}`;
}

function parseToken(at: string, value: unknown): StaticToken {
  const { name, sha256, expires, grants, quotas } = parseObject(at, value, [
    "name",
    "sha256",
    "expires",
    "grants",
    "quotas",
  ]);
  const hash = parseText(`${at}.sha256`, sha256);
  if (!/^[0-9a-f]{64}$/.test(hash)) {
    throw new MistakeError(`${at}.sha256`, "must be the SHA-256 of the token, in 64 hex digits");
  }
  const identity = parseText(`${at}.name`, name);
  // The names of others begin with their issuer's.
  if (!/^[\w.@/-]{1,128}$/.test(identity)) {
    throw new MistakeError(`${at}.name`, "must be 1 to 128 letters, digits or any of _ . @ / -");
  }
  return {
    name: identity,
    sha256: Buffer.from(hash, "hex"),
    expiresAtMs: expires === undefined ? undefined : parseTime(`${at}.expires`, expires),
    grants: parseGrants(`${at}.grants`, grants),
    quotas: parseQuotas(`${at}.quotas`, quotas),
  };
}

function parseTime(at: string, value: unknown): number {
  const text = parseText(at, value);
  const ms = /^\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d+)?(Z|[+-]\d\d:\d\d)$/.test(text)
    ? Date.parse(text)
    : Number.NaN;
  if (!Number.isNaN(ms)) return ms;
  throw new MistakeError(at, "must be a time such as 2030-01-31T00:00:00Z");
}

function parseIssuer(at: string, value: unknown, directory: string): Issuer {
  const parsed = parseObject(at, value, [
    "issuer",
    "audience",
    "keys",
    "algorithms",
    "clock_tolerance_seconds",
  ]);
  const { clock_tolerance_seconds: tolerance = defaultClockToleranceS } = parsed;
  const { audience, algorithms: named = defaultAlgorithms } = parsed;
  if (typeof tolerance !== "number" || !(tolerance >= 0 && tolerance <= maxClockToleranceS)) {
    const place = `${at}.clock_tolerance_seconds`;
    throw new MistakeError(place, `must be from 0 to ${maxClockToleranceS}`);
  }
  const audiences = Array.isArray(audience) ? audience : [audience];
  const allowed = parseList(`${at}.algorithms`, named);
  if (audiences.length === 0) throw new MistakeError(`${at}.audience`, "is empty");
  if (allowed.length === 0) throw new MistakeError(`${at}.algorithms`, "is empty");
  return {
    issuer: parseText(`${at}.issuer`, parsed.issuer),
    audience: audiences.map((one) => parseText(`${at}.audience`, one)),
    keys: parseKeys(`${at}.keys`, parsed.keys, directory),
    algorithms: allowed.map((one) => parseAlgorithm(`${at}.algorithms`, one)),
    clockToleranceS: tolerance,
  };
}

function parseMinting(at: string, value: unknown, directory: string): Minting {
  const parsed = parseObject(at, value, ["issuer", "keys", "max_lifetime_seconds"]);
  const { issuer = defaultMintingIssuer } = parsed;
  const { max_lifetime_seconds: maxLifetimeS = defaultMintedLifetimeS } = parsed;
  const isSeconds = typeof maxLifetimeS === "number" && Number.isSafeInteger(maxLifetimeS);
  if (!isSeconds || maxLifetimeS < 1 || maxLifetimeS > maxMintedLifetimeS) {
    const place = `${at}.max_lifetime_seconds`;
    throw new MistakeError(place, `must be a whole number from 1 to ${maxMintedLifetimeS}`);
  }
  const keys = parseList(`${at}.keys`, parsed.keys);
  if (keys.length === 0) throw new MistakeError(`${at}.keys`, "is empty");
  return {
    issuer: parseText(`${at}.issuer`, issuer),
    keys: keys.map((one, index) => resolve(directory, parseText(`${at}.keys[${index}]`, one))),
    maxLifetimeS,
  };
}

/** What the policy gives an identity of certificates. */
export function certificateGrants({ policy }: AccessRules, identity: string): readonly Grant[] {
  return policy.flatMap((rule) =>
    rule.t === "certificate" && rule.identities.test(identity) ? rule.grants : [],
  );
}

function parseAlgorithm(at: string, value: unknown): string {
  const algorithm = algorithms.find((one) => one === value);
  if (algorithm !== undefined) return algorithm;
  throw new MistakeError(at, `must be some of ${algorithms.join(", ")}`);
}

function parseKeys(at: string, value: unknown, directory: string): Issuer["keys"] {
  const text = parseText(at, value);
  if (!/^[a-z]+:\/\//.test(text)) return { t: "file", path: resolve(directory, text) };
  const url = URL.canParse(text) ? new URL(text) : undefined;
  const isLocal = url?.protocol === "http:" && isLoopbackName(url.hostname);
  if (url?.protocol === "https:" || (url !== undefined && isLocal)) return { t: "url", url };
  throw new MistakeError(at, "must be an https:// URL of a JWKS, or the path of a file with one");
}

function isLoopbackName(name: string): boolean {
  return name === "localhost" || name === "127.0.0.1" || name === "[::1]";
}

function parseRule(at: string, value: unknown): PolicyRule {
  const rule = parseObject(at, value, ["issuer", "claims", "certificate", "grants", "quotas"]);
  if (rule.certificate === undefined) return parseClaimRule(at, rule);
  for (const key of ["issuer", "claims"] as const) {
    if (rule[key] === undefined) continue;
    throw new MistakeError(at, `has both "certificate" and "${key}": make two rules of it`);
  }
  return {
    t: "certificate",
    identities: parsePattern(`${at}.certificate`, rule.certificate),
    grants: parseGrants(`${at}.grants`, rule.grants),
    quotas: parseQuotas(`${at}.quotas`, rule.quotas),
  };
}

/** `*` stands for a part of a path, or of a name: it never reaches into the next one. */
function parsePattern(at: string, value: unknown): RegExp {
  const text = parseText(at, value);
  if (text.startsWith("spiffe://") ? !/^spiffe:\/\/[^/*]+\//.test(text) : !text.includes("=")) {
    const problem = "must be such as spiffe://example.com/agents/*, without * in the trust domain";
    throw new MistakeError(at, `${problem}, or a subject such as CN=planner,O=Example`);
  }
  const parts = text.split("*").map((part) => part.replace(/[\\^$.*+?()[\]{}|/]/g, "\\$&"));
  return new RegExp(`^${parts.join("[^/,+]+")}$`);
}

function parseClaimRule(
  at: string,
  { issuer, claims, grants, quotas }: Readonly<Record<string, unknown>>,
): ClaimRule {
  const named = parseObject(`${at}.claims`, claims, Object.keys(Object(claims)));
  const pairs = Object.entries(named).map(([claim, wanted]): [string, string] => [
    claim,
    parseText(`${at}.claims.${claim}`, wanted),
  ]);
  if (pairs.length === 0) throw new MistakeError(`${at}.claims`, "is empty");
  return {
    t: "claims",
    issuer: issuer === undefined ? undefined : parseText(`${at}.issuer`, issuer),
    claims: Object.fromEntries(pairs),
    grants: parseGrants(`${at}.grants`, grants),
    quotas: parseQuotas(`${at}.quotas`, quotas),
  };
}
