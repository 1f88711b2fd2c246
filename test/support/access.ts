/** Access files of tests, and the tokens that they know. */
import { createHash, generateKeyPairSync } from "node:crypto";
import { mkdtemp, rename, rm, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";

/** What a grant looks like in the file, and in a JWT. */
export interface GrantJson {
  readonly namespace: string;
  readonly ancestor?: { readonly run_id: string; readonly start_seq: number };
  readonly permissions: readonly string[];
}

/** Every permission. */
export const allPermissions = ["ingest", "read", "signal", "cancel", "admin"] as const;

/** The token of a name; it is known to a server that `tokens` lists it for. */
export function tokenOf(name: string): string {
  return `token-of-${name}`;
}

/** An entry of a static token. */
export function tokenEntry(name: string, grants: readonly GrantJson[], rest: object = {}): object {
  const sha256 = createHash("sha256").update(tokenOf(name)).digest("hex");
  return { name, sha256, grants, ...rest };
}

/** A new key that signs minted tokens, in PEM. */
export function mintingKey(): string {
  const { privateKey } = generateKeyPairSync("ed25519");
  return String(privateKey.export({ type: "pkcs8", format: "pem" }));
}

/** An access file that can be written again. */
export class AccessFile {
  readonly path: string;
  readonly #directory: string;

  private constructor(directory: string) {
    this.#directory = directory;
    this.path = join(directory, "access.json");
  }

  /** Makes one. */
  static async make(content: object): Promise<AccessFile> {
    const file = new AccessFile(await mkdtemp(join(tmpdir(), "runlog-access-")));
    await file.write(content);
    return file;
  }

  /** Writes another file beside it; returns its path. */
  async writeBeside(name: string, content: object): Promise<string> {
    return this.writeText(name, JSON.stringify(content));
  }

  /** Writes a file beside it that is no JSON; returns its path. */
  async writeText(name: string, text: string): Promise<string> {
    const path = join(this.#directory, name);
    await writeFile(`${path}.new`, text);
    await rename(`${path}.new`, path);
    return path;
  }

  /** Replaces what it holds, in one go. */
  async write(content: object): Promise<void> {
    await this.writeBeside("access.json", content);
  }

  async remove(): Promise<void> {
    await rm(this.#directory, { recursive: true });
  }
}
