/**
 * The keys that sign minted tokens. Nodes that have the same keys accept each other's tokens.
 *
 * Invariant: the first key signs, and all of them count; each is named by its thumbprint
 * (RFC 7638), so that no two nodes call one key by two names.
 */
import { createPrivateKey, createPublicKey, type KeyObject } from "node:crypto";
import { readFile } from "node:fs/promises";
import {
  calculateJwkThumbprint,
  type JSONWebKeySet,
  type JWK,
  type JWTPayload,
  SignJWT,
} from "jose";
import type { Minting } from "./access-file.ts";
import { MistakeError } from "./parse-grants.ts";

/** The algorithm of minted tokens: Ed25519, by the name that gateways know. */
export const mintedAlgorithm = "EdDSA";
/** The claim `aud` of minted tokens. */
export const mintedAudience = "runlog";

interface Key {
  readonly kid: string;
  readonly privateKey: KeyObject;
  readonly publicKey: JWK;
}

/** Signs tokens. */
export class MintingKeys {
  /** The claim `iss`. */
  readonly issuer: string;
  /** Seconds that a token lasts at most. */
  readonly maxLifetimeS: number;
  /** What checks the tokens: the public halves. */
  readonly publicKeys: JSONWebKeySet;
  readonly #first: Key;

  private constructor({ issuer, maxLifetimeS }: Minting, first: Key, keys: readonly Key[]) {
    this.issuer = issuer;
    this.maxLifetimeS = maxLifetimeS;
    this.publicKeys = { keys: keys.map(({ publicKey }) => publicKey) };
    this.#first = first;
  }

  /**
   * Reads the keys.
   *
   * @throws MistakeError for a file without a key, and for a key that is there twice
   */
  static async open(minting: Minting): Promise<MintingKeys> {
    const keys: Key[] = [];
    for (const path of minting.keys) {
      const key = await readKey(path);
      if (keys.some(({ kid }) => kid === key.kid)) {
        throw new MistakeError(path, "holds the same key as a file before it");
      }
      keys.push(key);
    }
    const [first] = keys;
    if (first === undefined) throw new Error("minting without a key was not refused");
    return new MintingKeys(minting, first, keys);
  }

  /** Signs claims with the first key. */
  sign(claims: JWTPayload): Promise<string> {
    const { kid, privateKey } = this.#first;
    return new SignJWT({ ...claims, iss: this.issuer, aud: mintedAudience })
      .setProtectedHeader({ alg: mintedAlgorithm, kid, typ: "JWT" })
      .sign(privateKey);
  }
}

async function readKey(path: string): Promise<Key> {
  let text: string;
  try {
    text = await readFile(path, "utf8");
  } catch (error) {
    const code = error instanceof Error && "code" in error ? String(error.code) : "unreadable";
    throw new MistakeError(path, `cannot be read as a key that signs tokens (${code})`);
  }
  const privateKey = parseKey(path, text);
  const { kty = "", crv = "", x = "" } = createPublicKey(privateKey).export({ format: "jwk" });
  const kid = await calculateJwkThumbprint({ kty, crv, x });
  const publicKey = { kty, crv, x, kid, alg: mintedAlgorithm, use: "sig" };
  return { kid, privateKey, publicKey };
}

function parseKey(path: string, text: string): KeyObject {
  const problem =
    "must hold an Ed25519 key in PEM, without a passphrase: `openssl genpkey -algorithm ed25519` makes one";
  let key: KeyObject;
  try {
    key = createPrivateKey(text);
  } catch {
    throw new MistakeError(path, problem);
  }
  if (key.asymmetricKeyType === "ed25519") return key;
  throw new MistakeError(path, problem);
}
