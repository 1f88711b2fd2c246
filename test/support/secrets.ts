/** What deploy/make-secrets makes, made by the script itself. */
import { execFile } from "node:child_process";
import { mkdtemp, readFile, rm } from "node:fs/promises";
import { tmpdir } from "node:os";
import { dirname, join } from "node:path";
import { promisify } from "node:util";
import type { ClientTls } from "./wire.ts";

const script = join(import.meta.dirname, "../../deploy/make-secrets");

/**
 * Runs the script; resolves with what it prints on standard output.
 *
 * @param user who runs it; need not be able to read the script
 */
export async function runMakeSecrets(
  directory: string,
  user: { readonly uid?: number; readonly gid?: number } = {},
): Promise<string> {
  const args = ["-c", await readFile(script, "utf8"), script, directory];
  return (await promisify(execFile)("sh", args, { ...user, cwd: dirname(directory) })).stdout;
}

/** A directory like deploy/secrets. */
export class Secrets {
  readonly directory: string;
  /** The token that may do everything. */
  readonly token: string;
  /** What clients need. */
  readonly tls: ClientTls;
  readonly #parent: string;

  private constructor(parent: string, token: string, ca: string) {
    this.#parent = parent;
    this.directory = join(parent, "secrets");
    this.token = token;
    this.tls = { ca };
  }

  /** Makes one. */
  static async make(): Promise<Secrets> {
    const parent = await mkdtemp(join(tmpdir(), "runlog-secrets-"));
    const directory = join(parent, "secrets");
    const token = (await runMakeSecrets(directory)).trim();
    return new Secrets(parent, token, await readFile(join(directory, "ca.crt"), "utf8"));
  }

  /** The path of a file in it, such as node/tls.key. */
  path(name: string): string {
    return join(this.directory, name);
  }

  /** The certificate and key of node/ or proxy/, for a server. */
  pair(owner: "node" | "proxy"): { cert: string; key: string } {
    return { cert: this.path(`${owner}/tls.crt`), key: this.path(`${owner}/tls.key`) };
  }

  async remove(): Promise<void> {
    await rm(this.#parent, { recursive: true });
  }
}
