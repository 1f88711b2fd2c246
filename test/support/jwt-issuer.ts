/** JWTs as an identity provider signs them, for servers of tests. */
import { type CryptoKey, exportJWK, generateKeyPair, SignJWT } from "jose";
import { AccessFile, allPermissions, type GrantJson } from "./access.ts";

const issuer = "https://id.example.com";
const audience = "runlog";
const everything: readonly GrantJson[] = [{ namespace: "*", permissions: allPermissions }];

/** Signs tokens, and has an access file for servers that accept them. */
export class JwtIssuer {
  readonly accessFile: AccessFile;
  readonly #key: CryptoKey;
  #signed = 0;

  private constructor(accessFile: AccessFile, key: CryptoKey) {
    this.accessFile = accessFile;
    this.#key = key;
  }

  /** @param content of the access file besides: static tokens, a policy */
  static async make(content: object = {}): Promise<JwtIssuer> {
    const { privateKey, publicKey } = await generateKeyPair("EdDSA", { extractable: true });
    const accessFile = await AccessFile.make({});
    await accessFile.writeBeside("keys.json", { keys: [await exportJWK(publicKey)] });
    const exact = { issuer, audience, keys: "keys.json", clock_tolerance_seconds: 0 };
    await accessFile.write({ issuers: [exact], ...content });
    return new JwtIssuer(accessFile, privateKey);
  }

  /**
   * A token unlike all before.
   *
   * @param lifetimeMs until it expires; less than nothing where it has
   */
  sign(lifetimeMs: number, grants = everything): Promise<string> {
    const claims = { exp: (Date.now() + lifetimeMs) / 1000, jti: `${++this.#signed}` };
    return new SignJWT({ iss: issuer, aud: audience, sub: "somebody", ...claims, runlog: grants })
      .setProtectedHeader({ alg: "EdDSA" })
      .sign(this.#key);
  }
}
