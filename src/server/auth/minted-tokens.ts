/**
 * Tokens that callers make of their own rights, to hand them on.
 *
 * Invariant: a minted token gives no right that the source of its chain of mints lacks now,
 * and none after its minter's token has expired. Besides its grants it names its source, and
 * the rights of the source on which they rest; it counts while the access file gives those.
 */
import { randomBytes } from "node:crypto";
import type { JWTPayload } from "jose";
import { maxGrants, maxTokenBytes } from "../../limits.ts";
import { invalidField, RefusedError } from "../../refusal.ts";
import { type AccessRules, certificateGrants } from "./access-file.ts";
import { Caller, identityOfSource, type Origin, type Source } from "./caller.ts";
import type { CheckedToken } from "./json-web-tokens.ts";
import type { MintingKeys } from "./minting-keys.ts";
import { MistakeError, parseGrants, parseObject, parseText } from "./parse-grants.ts";
import { type Grant, Rights } from "./rights.ts";

/** What a token is to be. */
export interface MintRequest {
  /** What it gives; the minter has been found to have it. */
  readonly grants: readonly Grant[];
  /** Those of the minter's own rights that give it that. */
  readonly restsOn: readonly Grant[];
  /** Milliseconds that it is to last; undefined: as long as it may. */
  readonly lifetimeMs: number | undefined;
  /** Names its holder; empty: a random name. */
  readonly name: string;
}

/** A token. */
export interface MintedToken {
  readonly token: string;
  /** Milliseconds since 1970. */
  readonly expiresAtMs: number;
  /** Milliseconds until then. */
  readonly lifetimeMs: number;
  /** Its holder's. */
  readonly identity: string;
}

/** Characters of the names of a chain; those of the minters in its middle are left out. */
const maxNamesLength = 256;

/**
 * Makes a token.
 *
 * @param origin the minter's
 * @throws RefusedError token_expired for a minter that has just expired, invalid_field for
 *   a token that no header could hold
 */
export async function mintToken(
  keys: MintingKeys,
  minter: Caller,
  origin: Origin,
  { grants, restsOn, lifetimeMs, name }: MintRequest,
  nowMs: number,
): Promise<MintedToken> {
  const expiresAtS = Math.min(
    lifetimeMs === undefined ? Number.POSITIVE_INFINITY : Math.ceil((nowMs + lifetimeMs) / 1000),
    Math.floor(nowMs / 1000) + keys.maxLifetimeS,
    Math.floor((minter.expiresAtMs ?? Number.POSITIVE_INFINITY) / 1000),
  );
  if (expiresAtS * 1000 <= nowMs) throw new RefusedError({ reason: "token_expired" });
  const { source } = origin;
  // What an issuer vouches for is in its token, which is not here later.
  const held = source.t === "issuer" ? [] : (origin.restsOn ?? restsOn);
  if (held.length > maxGrants) {
    throw invalidField("grants", `rest on more than ${maxGrants} of your own: ask for fewer`);
  }
  const names = namesOf(origin.names, name === "" ? randomBytes(6).toString("hex") : name);
  const identity = identityOfSource(source) + names;
  const token = await keys.sign({
    sub: identity,
    iat: Math.floor(nowMs / 1000),
    exp: expiresAtS,
    runlog: grants.map(toClaim),
    minter: { ...claimOf(source), names, rests_on: held.map(toClaim) },
  });
  if (token.length > maxTokenBytes) {
    throw invalidField("grants", "make the token too long: ask for fewer", maxTokenBytes);
  }
  const expiresAtMs = expiresAtS * 1000;
  return { token, expiresAtMs, lifetimeMs: expiresAtMs - nowMs, identity };
}

/**
 * The holder of a minted token.
 *
 * @param checked a token that was signed by one of our keys
 * @throws RefusedError unauthenticated where its source no longer has the rights
 */
export function mintedCaller(rules: AccessRules, checked: CheckedToken, now: () => number): Caller {
  const { subject, claims, expiresAtMs } = checked;
  const { grants, origin } = parseClaims(claims);
  const { source, restsOn } = origin;
  const heldUntilMs = heldUntil(rules, source, new Rights(restsOn ?? []));
  if (now() >= heldUntilMs) {
    const problem = "the token is refused: the rights that it was minted from were withdrawn";
    throw new RefusedError({ reason: "unauthenticated", problem });
  }
  return new Caller({
    identity: subject,
    rights: new Rights(grants),
    origin,
    // The file may give its source less time than when it was minted.
    expiresAtMs: Math.min(expiresAtMs, heldUntilMs),
    now,
  });
}

/**
 * Until when the source of a chain has these rights, in milliseconds since 1970; 0: no longer.
 * Those of a JWT are in its claims, which are not here: they end with its issuer, or as the
 * token does.
 */
function heldUntil(rules: AccessRules, source: Source, rights: Rights): number {
  const forever = Number.POSITIVE_INFINITY;
  switch (source.t) {
    case "token": {
      const entry = rules.tokens.find(({ name }) => name === source.name);
      if (entry === undefined || !new Rights(entry.grants).includes(rights)) return 0;
      return entry.expiresAtMs ?? forever;
    }
    case "certificate":
      return new Rights(certificateGrants(rules, source.identity)).includes(rights) ? forever : 0;
    case "issuer":
      return rules.issuers.some(({ issuer }) => issuer === source.issuer) ? forever : 0;
  }
}

/** The names of a chain with one more; the oldest are left out where they are too long. */
function namesOf(before: string, name: string): string {
  const names = `${before}>${name}`;
  if (names.length <= maxNamesLength) return names;
  const kept = names.slice(-maxNamesLength);
  return `>…${kept.slice(kept.indexOf(">"))}`;
}

function toClaim({ namespace, subtree, permissions }: Grant): object {
  const ancestor = subtree && { run_id: subtree.runId, start_seq: subtree.startSeq };
  return { namespace, ...(ancestor && { ancestor }), permissions };
}

function claimOf(source: Source): object {
  switch (source.t) {
    case "token":
      return { token: source.name };
    case "certificate":
      return { certificate: source.identity };
    case "issuer":
      return { issuer: source.issuer, subject: source.subject };
  }
}

function parseClaims(claims: JWTPayload): {
  readonly grants: readonly Grant[];
  readonly origin: Origin;
} {
  const { runlog, minter } = claims as { readonly runlog?: unknown; readonly minter?: unknown };
  try {
    const parsed = parseObject("the claim minter", minter, [
      "token",
      "certificate",
      "issuer",
      "subject",
      "names",
      "rests_on",
    ]);
    return {
      grants: parseGrants("the claim runlog", runlog),
      origin: {
        source: parseSource(parsed),
        names: parseText("the claim minter.names", parsed.names),
        restsOn: parseGrants("the claim minter.rests_on", parsed.rests_on),
      },
    };
  } catch (error) {
    if (!(error instanceof MistakeError)) throw error;
    // Of a version that can say more than this one understands.
    const problem = `the token is refused: ${error.message}`;
    throw new RefusedError({ reason: "unauthenticated", problem });
  }
}

function parseSource({
  token,
  certificate,
  issuer,
  subject,
}: Readonly<Partial<Record<"token" | "certificate" | "issuer" | "subject", unknown>>>): Source {
  const text = (name: string, value: unknown) => parseText(`the claim minter.${name}`, value);
  if (token !== undefined) return { t: "token", name: text("token", token) };
  if (certificate !== undefined) {
    return { t: "certificate", identity: text("certificate", certificate) };
  }
  return { t: "issuer", issuer: text("issuer", issuer), subject: text("subject", subject) };
}
