/**
 * Files with tokens and certificates, read again when they change.
 *
 * Invariant: a file that cannot be used at the start ends the command. Later the version
 * before stays in force, and the user hears of each bad version once.
 */
import { readFileSync, statSync } from "node:fs";
import { createSecureContext } from "node:tls";
import type { ClientTls } from "../client/node/index.ts";
import { CommandError, exitStatus } from "./failure.ts";
import { notice } from "./output.ts";

/** Where the files are. */
export interface CredentialPaths {
  /** Authorities of servers. */
  readonly ca?: string;
  readonly cert?: string;
  readonly key?: string;
  /** A bearer token, alone. */
  readonly tokenFile?: string;
}

/** The bearer token that the file holds now; undefined where there is no file. Throws CommandError. */
export function freshToken({ tokenFile }: CredentialPaths): () => string | undefined {
  if (tokenFile === undefined) return () => undefined;
  return fresh([tokenFile], ([text = ""]) => {
    const token = text.trim();
    if (/^[\x21-\x7e]+$/.test(token)) return token;
    throw new CommandError(`${tokenFile}: holds no token: write one, alone, into it`);
  });
}

/** What the files for TLS hold now. Throws CommandError. */
export function freshTls({ ca, cert, key }: CredentialPaths): () => ClientTls {
  if ((cert === undefined) !== (key === undefined)) {
    throw new CommandError("--cert and --key belong together: give both", exitStatus.usage);
  }
  const paths = [ca, cert, key].filter((path) => path !== undefined);
  if (paths.length === 0) return () => ({});
  return fresh(paths, (texts) => {
    const at = (path: string | undefined) =>
      path === undefined ? undefined : texts[paths.indexOf(path)];
    const tls = { ca: at(ca), cert: at(cert), key: at(key) };
    checkTls({ ca, cert, key }, tls);
    return tls;
  });
}

function checkTls(paths: Readonly<ClientTls>, { ca, cert, key }: ClientTls): void {
  if (ca !== undefined) {
    if (!ca.includes("-----BEGIN CERTIFICATE-----")) {
      throw new CommandError(`${paths.ca}: holds no certificates in PEM`);
    }
    checked(`${paths.ca}: holds no certificates in PEM`, () => createSecureContext({ ca: [ca] }));
  }
  if (cert !== undefined) {
    const problem = `${paths.key}: is not the key of ${paths.cert}, or one of them is not in PEM`;
    checked(problem, () => createSecureContext({ cert, key }));
  }
}

function checked(problem: string, check: () => unknown): void {
  try {
    check();
  } catch (error) {
    const why = error instanceof Error ? error.message : String(error);
    throw new CommandError(`${problem} (${why})`);
  }
}

/** What some files hold, as often as it is asked for; a look at each is all that it costs. */
function fresh<T>(paths: readonly string[], parse: (texts: readonly string[]) => T): () => T {
  let stamp = stampOf(paths);
  let value = parse(paths.map(read));
  return () => {
    const now = stampOf(paths);
    if (now === stamp) return value;
    stamp = now;
    try {
      value = parse(paths.map(read));
    } catch (error) {
      if (!(error instanceof CommandError)) throw error;
      notice(`${error.message}; the version before is still used`);
    }
    return value;
  };
}

/** Changes with the files. */
function stampOf(paths: readonly string[]): string {
  return paths
    .map((path) => {
      const { ino, size, mtimeMs } = statSync(path, { throwIfNoEntry: false }) ?? {};
      return `${ino} ${size} ${mtimeMs}`;
    })
    .join("; ");
}

function read(path: string): string {
  try {
    return readFileSync(path, "utf8");
  } catch (error) {
    const code = error instanceof Error && "code" in error ? String(error.code) : "unreadable";
    throw new CommandError(`${path}: cannot be read (${code})`);
  }
}
