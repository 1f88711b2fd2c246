/** JWTs of the issuers that the access file names. */
import { readFile } from "node:fs/promises";
import {
  createLocalJWKSet,
  decodeJwt,
  errors,
  type JSONWebKeySet,
  type JWTPayload,
  type JWTVerifyGetKey,
  type JWTVerifyOptions,
  jwtVerify,
} from "jose";
import { RefusedError } from "../../refusal.ts";
import type { Issuer } from "./access-file.ts";
import { type MintingKeys, mintedAlgorithm, mintedAudience } from "./minting-keys.ts";
import { MistakeError } from "./parse-grants.ts";
import { remoteKeys } from "./remote-keys.ts";

/** It stands in logs, and in signals; what follows a ">" there is the name of a minted token. */
const subjects = /^[^\p{C}>]{1,256}$/u;
/** Of minted tokens: the minter's identity, and names. */
const mintedSubjects = /^[^\p{C}]+$/u;

/** A JWT that was checked. */
export interface CheckedToken {
  readonly issuer: string;
  readonly subject: string;
  readonly claims: JWTPayload;
  /** Milliseconds since 1970, whole ones, tolerance included. */
  readonly expiresAtMs: number;
}

/** The last millisecond that a Timestamp can hold. */
const lastMs = Date.parse("9999-12-31T23:59:59.999Z");

interface Verifier extends Pick<Issuer, "issuer" | "audience" | "algorithms" | "clockToleranceS"> {
  readonly keyFor: JWTVerifyGetKey;
  readonly subjects: RegExp;
}

/** Checks JWTs. */
export class JsonWebTokens {
  readonly #verifiers: ReadonlyMap<string, Verifier>;
  readonly #now: () => number;

  private constructor(verifiers: readonly Verifier[], now: () => number) {
    this.#verifiers = new Map(verifiers.map((one) => [one.issuer, one]));
    this.#now = now;
  }

  /**
   * Reads the issuers' keys that are in files; those at URLs are fetched when a token needs them.
   *
   * @param minting the keys of tokens that servers mint; they count as those of an issuer
   * @param now milliseconds since 1970
   * @throws MistakeError for a file that holds no keys
   */
  static async open(
    issuers: readonly Issuer[],
    minting: MintingKeys | undefined,
    now: () => number,
  ): Promise<JsonWebTokens> {
    const verifiers: Verifier[] = [];
    for (const issuer of issuers) {
      verifiers.push({ ...issuer, keyFor: await keysOf(issuer, now), subjects });
    }
    if (minting !== undefined) {
      verifiers.push({
        issuer: minting.issuer,
        audience: [mintedAudience],
        algorithms: [mintedAlgorithm],
        // Nobody's rights last longer than they were given for.
        clockToleranceS: 0,
        keyFor: createLocalJWKSet(minting.publicKeys),
        subjects: mintedSubjects,
      });
    }
    return new JsonWebTokens(verifiers, now);
  }

  /**
   * Checks a token: signature, algorithm, issuer, audience, times.
   *
   * @throws RefusedError unauthenticated, token_expired
   * @throws KeysUnavailableError
   */
  async check(token: string): Promise<CheckedToken> {
    const verifier = this.#verifierOf(token);
    const { issuer, audience, algorithms, clockToleranceS } = verifier;
    try {
      const claims = await verify(token, verifier.keyFor, {
        issuer,
        audience: [...audience],
        algorithms: [...algorithms],
        clockTolerance: clockToleranceS,
        currentDate: new Date(this.#now()),
        requiredClaims: ["exp", "sub"],
      });
      return toChecked(verifier, claims);
    } catch (error) {
      if (error instanceof errors.JWTExpired) throw new RefusedError({ reason: "token_expired" });
      if (error instanceof errors.JOSEError) throw refused(`it does not pass: ${problemOf(error)}`);
      throw error;
    }
  }

  /**
   * Reads a token that was checked before, while its issuer's keys cannot be had.
   *
   * @throws RefusedError unauthenticated where its issuer is gone
   */
  recall(token: string): CheckedToken {
    return toChecked(this.#verifierOf(token), decodeJwt(token));
  }

  #verifierOf(token: string): Verifier {
    const verifier = this.#verifiers.get(issuerOf(token));
    if (verifier === undefined) throw refused("its issuer is not one that the server trusts");
    return verifier;
  }
}

/** @throws RefusedError unauthenticated for a subject that is no name */
function toChecked(
  { issuer, clockToleranceS, subjects: shown }: Verifier,
  claims: JWTPayload,
): CheckedToken {
  const { sub = "", exp = 0 } = claims;
  if (!shown.test(sub)) {
    throw refused('its subject is no name that can be shown, or contains ">"');
  }
  // Issuers may write fractions of a second, and times that nobody lives to see.
  const expiresAtMs = Math.min(Math.floor((exp + clockToleranceS) * 1000), lastMs);
  return { issuer, subject: sub, claims, expiresAtMs };
}

/** What nobody has signed for yet: it chooses the keys, and is checked with them. */
function issuerOf(token: string): string {
  try {
    return decodeJwt(token).iss ?? "";
  } catch {
    throw refused("it is no JWT");
  }
}

async function keysOf({ issuer, keys }: Issuer, now: () => number): Promise<JWTVerifyGetKey> {
  if (keys.t === "file") {
    try {
      return createLocalJWKSet(JSON.parse(await readFile(keys.path, "utf8")) as JSONWebKeySet);
    } catch (error) {
      const why = error instanceof Error && "code" in error ? error.code : "it holds no JWKS";
      throw new MistakeError(keys.path, `cannot be read as the keys of ${issuer}: ${String(why)}`);
    }
  }
  return remoteKeys(issuer, keys.url, now);
}

async function verify(
  token: string,
  keyFor: JWTVerifyGetKey,
  options: JWTVerifyOptions,
): Promise<JWTPayload> {
  try {
    return (await jwtVerify(token, keyFor, options)).payload;
  } catch (error) {
    if (!(error instanceof errors.JWKSMultipleMatchingKeys)) throw error;
    // A token that does not name its key: any of them may have signed it.
    for await (const key of error) {
      try {
        return (await jwtVerify(token, key, options)).payload;
      } catch (failure) {
        if (!(failure instanceof errors.JWSSignatureVerificationFailed)) throw failure;
      }
    }
    throw new errors.JWSSignatureVerificationFailed();
  }
}

/** In words that hold nothing of the token but the name of a claim. */
function problemOf(error: errors.JOSEError): string {
  if (error instanceof errors.JWTClaimValidationFailed) {
    return `the claim ${JSON.stringify(error.claim)} is not as it must be`;
  }
  if (error instanceof errors.JOSEAlgNotAllowed) return "its algorithm is not allowed";
  if (error instanceof errors.JWKSNoMatchingKey) return "no key of its issuer has signed it";
  if (error instanceof errors.JWSSignatureVerificationFailed) return "its signature is wrong";
  return "it is malformed";
}

function refused(problem: string): RefusedError {
  return new RefusedError({
    reason: "unauthenticated",
    problem: `the token is refused: ${problem}`,
  });
}
