/**
 * The files that TLS needs, read again when they change.
 *
 * Invariant: what is handed on was checked as a whole. A version with mistakes is logged, and
 * the one before stays in force; so does a connection that stands, whatever happens to the files.
 */
import { X509Certificate } from "node:crypto";
import { unwatchFile, watchFile } from "node:fs";
import { readFile } from "node:fs/promises";
import { createSecureContext, type SecureContextOptions } from "node:tls";
import type { Logger } from "pino";
import { isEndless } from "../endless-file.ts";

/** Milliseconds between looks at the files. */
const lookIntervalMs = 1_000;

/** Where the files are; each holds PEM. */
export interface TlsPaths {
  /** The server's certificate, and those that lead to its authority. */
  readonly cert: string;
  readonly key: string;
  /** Authorities of clients. Without it clients are not asked for certificates. */
  readonly clientCa?: string | undefined;
}

/** A file for TLS cannot be used; the message names it. */
export class TlsFileError extends Error {
  constructor(path: string, problem: string) {
    super(`${path}: ${problem}`);
    this.name = "TlsFileError";
  }
}

/** The files, kept up to date. */
export class TlsFiles {
  readonly #paths: TlsPaths;
  readonly #logger: Logger;
  #context: SecureContextOptions;
  #listener: (context: SecureContextOptions) => void = () => undefined;
  /** Looks at the files that are under way; one follows the other. */
  #reloading: Promise<void> = Promise.resolve();

  private constructor(paths: TlsPaths, context: SecureContextOptions, logger: Logger) {
    this.#paths = paths;
    this.#context = context;
    this.#logger = logger;
    for (const path of pathsOf(paths)) {
      // By looking: a file that a cluster puts in the place of another is not announced.
      watchFile(path, { interval: lookIntervalMs, persistent: false }, this.#onChange);
    }
  }

  /**
   * Reads the files, and goes on reading them whenever they change. Call `close`.
   *
   * @throws TlsFileError
   */
  static async open(paths: TlsPaths, logger: Logger): Promise<TlsFiles> {
    return new TlsFiles(paths, await readContext(paths, logger), logger);
  }

  /** What they hold now. */
  get context(): SecureContextOptions {
    return this.#context;
  }

  /** Whether clients are asked for certificates. */
  get asksClients(): boolean {
    return this.#paths.clientCa !== undefined;
  }

  /** Calls back with each new version; only the latest caller is called. */
  onChange(listener: (context: SecureContextOptions) => void): void {
    this.#listener = listener;
  }

  /** Reads the files now. Logs mistakes in them, and then keeps what was there. */
  reload(): Promise<void> {
    this.#reloading = this.#reloading.then(() => this.#reload());
    return this.#reloading;
  }

  /** Looks at the files no longer. */
  async close(): Promise<void> {
    for (const path of pathsOf(this.#paths)) unwatchFile(path, this.#onChange);
    await this.#reloading;
  }

  readonly #onChange = () => {
    void this.reload();
  };

  async #reload(): Promise<void> {
    try {
      for (const path of pathsOf(this.#paths)) {
        if (await isEndless(path)) throw new TlsFileError(path, "is no regular file");
      }
      this.#context = await readContext(this.#paths, this.#logger);
    } catch (error) {
      if (!(error instanceof TlsFileError)) throw error;
      const { message: problem } = error;
      this.#logger.error({ problem }, "a file for TLS has changed and is wrong: the old ones stay");
      return;
    }
    this.#listener(this.#context);
    this.#logger.info({ cert: this.#paths.cert }, "the files for TLS were read again");
  }
}

function pathsOf({ cert, key, clientCa }: TlsPaths): readonly string[] {
  return clientCa === undefined ? [cert, key] : [cert, key, clientCa];
}

async function readContext(paths: TlsPaths, logger: Logger): Promise<SecureContextOptions> {
  const cert = await read(paths.cert);
  const key = await read(paths.key);
  const [own] = certificatesIn(paths.cert, cert);
  const context: SecureContextOptions = { cert, key, minVersion: "TLSv1.2" };
  if (paths.clientCa !== undefined) {
    context.ca = await read(paths.clientCa);
    // Without any Node would trust the authorities of the web.
    certificatesIn(paths.clientCa, context.ca);
  }
  try {
    createSecureContext(context);
  } catch (error) {
    const why = error instanceof Error ? error.message : String(error);
    throw new TlsFileError(paths.key, `is not the key of ${paths.cert}, or not in PEM (${why})`);
  }
  if (own !== undefined && own.validToDate.getTime() < Date.now()) {
    logger.warn({ cert: paths.cert, until: own.validToDate }, "the server's certificate is over");
  }
  return context;
}

async function read(path: string): Promise<string> {
  try {
    return await readFile(path, "utf8");
  } catch (error) {
    const code = error instanceof Error && "code" in error ? String(error.code) : "unreadable";
    throw new TlsFileError(path, `cannot be read (${code})`);
  }
}

/** @throws TlsFileError where there are none, or not all are certificates */
function certificatesIn(path: string, text: string): readonly X509Certificate[] {
  const pem = /-----BEGIN CERTIFICATE-----[^-]*-----END CERTIFICATE-----/g;
  try {
    const found = [...text.matchAll(pem)].map(([one]) => new X509Certificate(one));
    if (found.length > 0) return found;
  } catch {
    // As below.
  }
  throw new TlsFileError(path, "holds no certificates in PEM");
}
