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
  /** Each as openssl takes it: `URI:spiffe://example.com/planner`. */
  readonly names?: readonly string[];
  /** When it expires, to the second. Default: tomorrow. */
  readonly expires?: Date;
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
    await writeFile(join(directory, "index.txt"), "");
    return new Authority(directory, await readFile(caPath, "utf8"));
  }

  /** Signs a certificate and writes it to NAME.pem and NAME.key, in the place of those before. */
  async sign(
    name: string,
    { subject, names = [], expires = tomorrow() }: CertificateOptions,
  ): Promise<Certificate> {
    const path = (ending: string) => join(this.#directory, `${name}.${ending}`);
    const asked = ["-keyout", path("key.new"), "-out", path("csr"), "-subj", subject];
    await run("openssl", ["req", ...keyFlags, ...asked]);
    const by = ["-cert", this.caPath, "-keyfile", join(this.#directory, "ca.key")];
    const listed = names.map((one, at) => one.replace(":", `.${at} = `));
    const extensions = names.length === 0 ? "" : "subjectAltName = @names\n[names]\n";
    await writeFile(path("ext"), `${extensions}${listed.join("\n")}\n`);
    await writeFile(path("conf"), authorityConfig(this.#directory));
    // What `x509 -req` counts in days.
    const until = expires.toISOString().replace(/[-:T]|\.\d+/g, "");
    const times = ["-startdate", "20200101000000Z", "-enddate", until];
    const files = ["-in", path("csr"), "-out", path("pem.new"), "-extfile", path("ext")];
    const how = ["-batch", "-notext", "-preserveDN", "-config", path("conf")];
    await run("openssl", ["ca", ...how, ...by, ...times, ...files]);
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
  signServer(name = "server"): Promise<Certificate> {
    return this.sign(name, {
      subject: `/CN=${name}`,
      names: ["IP:127.0.0.1", "DNS:localhost"],
    });
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

const tomorrow = () => new Date(Date.now() + 86_400_000);

/** What `openssl ca` wants to know: it takes any subject. */
function authorityConfig(directory: string): string {
  return `[ca]
default_ca = tests
[tests]
new_certs_dir = ${directory}
database = ${directory}/index.txt
default_md = sha256
rand_serial = yes
unique_subject = no
policy = any
[any]
commonName = optional
`;
}
