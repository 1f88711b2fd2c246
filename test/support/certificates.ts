/** Certificates of tests, made with openssl. */
import { execFile } from "node:child_process";
import { mkdtemp, readFile, rename, rm, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { promisify } from "node:util";
import type { ClientTls } from "./wire.ts";

const run = promisify(execFile);
const keyFlags = ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes"];

/** Where a certificate and its key are, and what they hold. */
export interface Certificate {
  readonly certPath: string;
  readonly keyPath: string;
  readonly cert: string;
  readonly key: string;
}

/** What a certificate says. */
export interface CertificateOptions {
  /** As openssl takes it: `/O=Acme/CN=planner`. */
  readonly subject: string;
  /** As openssl takes them: `URI:spiffe://example.com/planner`. */
  readonly names?: string;
  /** Days from now; below 0: it has expired. Default 1. */
  readonly days?: number;
}

/** An authority that signs for tests, in a directory of its own. */
export class Authority {
  readonly #directory: string;
  readonly caPath: string;
  /** Its own certificate. */
  readonly ca: string;

  private constructor(directory: string, ca: string) {
    this.#directory = directory;
    this.caPath = join(directory, "ca.pem");
    this.ca = ca;
  }

  /** Makes one. */
  static async make(name = "tests"): Promise<Authority> {
    const directory = await mkdtemp(join(tmpdir(), "runlog-ca-"));
    const [keyPath, caPath] = [join(directory, "ca.key"), join(directory, "ca.pem")];
    const files = ["-keyout", keyPath, "-out", caPath, "-subj", `/CN=${name}`, "-days", "1"];
    await run("openssl", ["req", "-x509", ...keyFlags, ...files]);
    return new Authority(directory, await readFile(caPath, "utf8"));
  }

  /** Signs a certificate and writes it to NAME.pem and NAME.key, in the place of those before. */
  async sign(name: string, { subject, names, days = 1 }: CertificateOptions): Promise<Certificate> {
    const path = (ending: string) => join(this.#directory, `${name}.${ending}`);
    const asked = ["-keyout", path("key.new"), "-out", path("csr"), "-subj", subject];
    const more = names === undefined ? [] : ["-addext", `subjectAltName=${names}`];
    await run("openssl", ["req", ...keyFlags, ...asked, ...more]);
    const by = ["-CA", this.caPath, "-CAkey", join(this.#directory, "ca.key")];
    const out = ["-copy_extensions", "copy", "-days", `${days}`, "-out", path("pem.new")];
    await run("openssl", ["x509", "-req", "-in", path("csr"), ...by, ...out]);
    for (const ending of ["key", "pem"]) await rename(path(`${ending}.new`), path(ending));
    const [certPath, keyPath] = [path("pem"), path("key")];
    return {
      certPath,
      keyPath,
      cert: await readFile(certPath, "utf8"),
      key: await readFile(keyPath, "utf8"),
    };
  }

  /** Signs for a server on loopback. */
  signServer(name = "server", days = 1): Promise<Certificate> {
    return this.sign(name, { subject: `/CN=${name}`, names: "IP:127.0.0.1,DNS:localhost", days });
  }

  /** Writes another file beside them; returns its path. */
  async write(name: string, text: string): Promise<string> {
    const path = join(this.#directory, name);
    await writeFile(path, text);
    return path;
  }

  /** What a client needs who trusts this authority, and perhaps shows a certificate. */
  clientTls(own?: Certificate): ClientTls {
    return own === undefined ? { ca: this.ca } : { ca: this.ca, cert: own.cert, key: own.key };
  }

  async remove(): Promise<void> {
    await rm(this.#directory, { recursive: true });
  }
}
