/**
 * Who may call: the access file, kept up to date, and the callers whose calls are open.
 *
 * Invariant: a token, or a certificate, is accepted only by the rules that the file holds now. When
 * they change, an open call goes on only if its caller may still do all that it
 * might before; whoever cannot shows it again, and is answered by the new rules.
 */
import { createHash, timingSafeEqual } from "node:crypto";
import { unwatchFile, watchFile } from "node:fs";
import { readFile } from "node:fs/promises";
import type { JSONWebKeySet } from "jose";
import type { Logger } from "pino";
import { maxTokenBytes } from "../../limits.ts";
import { Quotas } from "../../quotas.ts";
import { RefusedError } from "../../refusal.ts";
import { isEndless } from "../endless-file.ts";
import {
  type AccessRules,
  type ClaimRule,
  certificateGrants,
  type PolicyRule,
  parseAccessFile,
} from "./access-file.ts";
import { Caller, identityOfSource, type Source } from "./caller.ts";
import type { CertificateIdentity } from "./certificate-identity.ts";
import { type CheckedToken, JsonWebTokens } from "./json-web-tokens.ts";
import { type MintedToken, type MintRequest, mintedCaller, mintToken } from "./minted-tokens.ts";
import { MintingKeys } from "./minting-keys.ts";
import { MistakeError, parseGrants } from "./parse-grants.ts";
import { quotasOf } from "./parse-quotas.ts";
import { type Grant, Rights } from "./rights.ts";
import { quotasOfSource } from "./source-quotas.ts";

/** Milliseconds between looks at the files. */
const lookIntervalMs = 1_000;
/** Tokens whose check is remembered; each takes a KiB or so. */
const maxRemembered = 10_000;
/** Milliseconds for which it is, so that a key that is withdrawn counts no longer. */
const rememberMs = 60_000;

/** How to open an access file. */
export interface AccessOptions {
  readonly logger: Logger;
  /** Milliseconds since 1970. Default: Date.now. */
  readonly now?: () => number;
}

/** What a caller shows. */
type Credential =
  | { readonly t: "token"; readonly token: string }
  | ({ readonly t: "certificate" } & CertificateIdentity);

/** What is known of the rules at one time. */
interface Rules {
  readonly file: AccessRules;
  readonly tokens: JsonWebTokens;
  /** Undefined: the file names no keys. */
  readonly minting: MintingKeys | undefined;
  /** Callers by the hash of what they showed. */
  readonly remembered: Map<string, { readonly caller: Caller; readonly untilMs: number }>;
}

/** Decides who calls. */
export class Access {
  readonly #path: string;
  readonly #logger: Logger;
  readonly #now: () => number;
  readonly #watched = new Set<string>();
  /** Those that may have open calls, with what each has shown. */
  readonly #callers = new Map<Caller, Credential>();
  readonly #quotas = new Quotas();
  #rules: Rules;
  /** Looks at the files that are under way; one follows the other. */
  #reloading: Promise<void> = Promise.resolve();

  private constructor(path: string, rules: Rules, { logger, now = Date.now }: AccessOptions) {
    this.#path = path;
    this.#logger = logger;
    this.#now = now;
    this.#rules = rules;
    this.#quotas.defaults = quotasOf(rules.file.quotas, []);
    this.#watch();
  }

  /**
   * Reads an access file, and goes on reading it whenever it changes. Call `close`.
   *
   * @throws MistakeError that says what is wrong with it
   */
  static async open(path: string, options: AccessOptions): Promise<Access> {
    const { now = Date.now } = options;
    return new Access(path, await readRules(path, now), options);
  }

  /**
   * Who shows this `authorization` header, or without one this certificate.
   *
   * @param certificate asked for where there is no header. Default: none
   * @returns at once where the token is known already
   * @throws RefusedError unauthenticated, token_expired
   * @throws KeysUnavailableError
   */
  authenticate(
    authorization: string | undefined,
    certificate: () => CertificateIdentity | undefined = () => undefined,
  ): Caller | Promise<Caller> {
    const credential = credentialOf(authorization, certificate);
    const known = this.#rules.remembered.get(keyOf(credential));
    if (known !== undefined && known.untilMs > this.#now()) {
      if (known.caller.hasExpired) throw new RefusedError({ reason: "token_expired" });
      return known.caller;
    }
    return this.#check(credential);
  }

  /** The keys that check minted tokens; undefined where there are none. */
  get publicKeys(): JSONWebKeySet | undefined {
    return this.#rules.minting?.publicKeys;
  }

  /**
   * Makes a token of a caller's rights.
   *
   * @throws RefusedError minting_unavailable where the file names no key, and as mintToken
   */
  async mint(minter: Caller, request: MintRequest): Promise<MintedToken> {
    const { minting } = this.#rules;
    const { origin } = minter;
    if (minting === undefined || origin === undefined) {
      throw new RefusedError({ reason: "minting_unavailable", authenticates: true });
    }
    const minted = await mintToken(minting, minter, origin, request, this.#now());
    const { identity, expiresAtMs } = minted;
    const expires = new Date(expiresAtMs).toISOString();
    this.#logger.info({ minter: minter.identity, identity, expires }, "a token was minted");
    return minted;
  }

  /** Reads the files now. Logs mistakes in them, and then keeps the rules as they were. */
  reload(): Promise<void> {
    this.#reloading = this.#reloading.then(() => this.#reload());
    return this.#reloading;
  }

  /** Looks at the files no longer. */
  async close(): Promise<void> {
    for (const path of this.#watched) unwatchFile(path, this.#onChange);
    this.#watched.clear();
    await this.#reloading;
  }

  async #check(credential: Credential): Promise<Caller> {
    const rules = this.#rules;
    const caller = await callerOf(rules, credential, this.#now);
    // The rules may have changed meanwhile.
    if (rules !== this.#rules) return this.#check(credential);
    const { remembered } = rules;
    const key = keyOf(credential);
    const before = remembered.get(key)?.caller;
    // Open calls are ended by the caller that they were admitted as.
    const known = before !== undefined && isSame(before, caller) ? before : caller;
    known.countIn(this.#quotas);
    if (remembered.size >= maxRemembered) this.#forgetSome();
    remembered.set(key, { caller: known, untilMs: this.#now() + rememberMs });
    this.#callers.set(known, credential);
    return known;
  }

  #forgetSome(): void {
    const { remembered } = this.#rules;
    const nowMs = this.#now();
    for (const [key, { untilMs }] of remembered) if (untilMs <= nowMs) remembered.delete(key);
    if (remembered.size >= maxRemembered) remembered.clear();
    const kept = new Set([...remembered.values()].map(({ caller }) => caller));
    for (const caller of this.#callers.keys()) {
      if (kept.has(caller) || caller.hasOpenCalls) continue;
      this.#callers.delete(caller);
      caller.retire();
    }
  }

  readonly #onChange = () => {
    void this.reload();
  };

  /** By looking: a file that a cluster puts in the place of another is not announced. */
  #watch(): void {
    const { issuers, minting } = this.#rules.file;
    const keyFiles = issuers.flatMap(({ keys }) => (keys.t === "file" ? [keys.path] : []));
    for (const path of [this.#path, ...keyFiles, ...(minting?.keys ?? [])]) {
      if (this.#watched.has(path)) continue;
      this.#watched.add(path);
      watchFile(path, { interval: lookIntervalMs, persistent: false }, this.#onChange);
    }
  }

  async #reload(): Promise<void> {
    try {
      for (const path of this.#watched) {
        if (await isEndless(path)) throw new MistakeError(path, "is no regular file");
      }
      this.#rules = await readRules(this.#path, this.#now);
    } catch (error) {
      if (!(error instanceof MistakeError)) throw error;
      const { message: problem } = error;
      this.#logger.error({ problem }, "the access file has changed and is wrong: the rules stay");
      return;
    }
    this.#quotas.defaults = quotasOf(this.#rules.file.quotas, []);
    this.#watch();
    this.#logger.info({ path: this.#path }, "the access file was read again");
    const before = [...this.#callers];
    this.#callers.clear();
    const open = before.filter(([caller]) => caller.hasOpenCalls);
    for (const [caller] of before) if (!caller.hasOpenCalls) caller.retire();
    // All at once: nobody's rights last longer because another's keys are slow to come.
    await Promise.all(open.map(([caller, shown]) => this.#again(caller, shown)));
  }

  /** Ends a caller's calls, unless it may still do what it might. */
  async #again(caller: Caller, shown: Credential): Promise<void> {
    // Not to be lost where the next change comes before the answer.
    this.#callers.set(caller, shown);
    const rules = this.#rules;
    const now = await callerOf(rules, shown, this.#now)
      .catch((error: unknown) => {
        if (error instanceof RefusedError || shown.t !== "token") throw error;
        this.#logger.warn({ err: error }, "an open call's token could not be checked again");
        // Keys that cannot be had now say nothing against it; the rules may.
        return callerOfJwt(rules, rules.tokens.recall(shown.token), this.#now);
      })
      .catch((error: unknown) => {
        if (error instanceof RefusedError) return undefined;
        throw error;
      });
    if (now !== undefined && gives(now, caller)) {
      caller.quotas = now.quotas;
      caller.countIn(this.#quotas);
      return;
    }
    this.#callers.delete(caller);
    this.#logger.info({ identity: caller.identity }, "open calls are ended: their rights changed");
    caller.retire();
  }
}

async function readRules(path: string, now: () => number): Promise<Rules> {
  let text: string;
  try {
    text = await readFile(path, "utf8");
  } catch (error) {
    const code = error instanceof Error && "code" in error ? String(error.code) : "unreadable";
    throw new MistakeError(path, `cannot be read (${code})`);
  }
  const file = parseAccessFile(path, text);
  const minting = file.minting && (await MintingKeys.open(file.minting));
  const tokens = await JsonWebTokens.open(file.issuers, minting, now);
  return { file, tokens, minting, remembered: new Map() };
}

/** Whether one may do all that another may, and as long. */
function gives(some: Caller, other: Caller): boolean {
  const { expiresAtMs: someMs = Number.POSITIVE_INFINITY } = some;
  const { expiresAtMs: otherMs = Number.POSITIVE_INFINITY } = other;
  return someMs >= otherMs && some.rights.includes(other.rights);
}

function isSame(some: Caller, other: Caller): boolean {
  return (
    some.identity === other.identity &&
    some.expiresAtMs === other.expiresAtMs &&
    some.rights.includes(other.rights) &&
    other.rights.includes(some.rights)
  );
}

/** @throws RefusedError unauthenticated where there is none */
function credentialOf(
  authorization: string | undefined,
  certificate: () => CertificateIdentity | undefined,
): Credential {
  const shown = authorization === undefined ? certificate() : undefined;
  if (shown !== undefined) return { t: "certificate", ...shown };
  return { t: "token", token: tokenIn(authorization) };
}

/** @throws RefusedError unauthenticated where there is none */
function tokenIn(authorization: string | undefined): string {
  const [, token = ""] = /^bearer +([\x21-\x7e]+)$/i.exec(authorization ?? "") ?? [];
  if (token !== "" && token.length <= maxTokenBytes) return token;
  const problem =
    authorization === undefined
      ? "the server needs a token: send the header `authorization: Bearer TOKEN`"
      : `the header authorization must be \`Bearer TOKEN\`, with at most ${maxTokenBytes} bytes`;
  throw new RefusedError({ reason: "unauthenticated", problem });
}

function hashOf(token: string): Buffer {
  return createHash("sha256").update(token).digest();
}

/** Never the same for a token and a certificate. */
function keyOf(credential: Credential): string {
  if (credential.t === "token") return hashOf(credential.token).toString("latin1");
  return `certificate ${credential.expiresAtMs} ${credential.identity}`;
}

async function callerOf(rules: Rules, shown: Credential, now: () => number): Promise<Caller> {
  const { file } = rules;
  const caller =
    shown.t === "certificate"
      ? certificateCaller(file, shown, now)
      : (staticCaller(file, shown.token, now) ?? (await jwtCaller(rules, shown.token, now)));
  const { source } = caller.origin ?? {};
  caller.quotas ??= source && quotasOfSource(file, source);
  return caller;
}

function certificateCaller(
  rules: AccessRules,
  { identity, expiresAtMs }: CertificateIdentity,
  now: () => number,
): Caller {
  const grants = certificateGrants(rules, identity);
  const caller = callerFrom({ t: "certificate", identity }, grants, expiresAtMs, now);
  if (caller.hasExpired) throw new RefusedError({ reason: "token_expired" });
  return caller;
}

function staticCaller(
  { tokens }: AccessRules,
  token: string,
  now: () => number,
): Caller | undefined {
  const hash = hashOf(token);
  // All of them, and each whole: the time tells nothing of a hash.
  const [found] = tokens.filter(({ sha256 }) => timingSafeEqual(sha256, hash));
  if (found === undefined) return undefined;
  const { name, expiresAtMs, grants } = found;
  const caller = callerFrom({ t: "token", name }, grants, expiresAtMs, now);
  if (caller.hasExpired) throw new RefusedError({ reason: "token_expired" });
  return caller;
}

async function jwtCaller(rules: Rules, token: string, now: () => number): Promise<Caller> {
  if (token.split(".").length !== 3) {
    throw new RefusedError({
      reason: "unauthenticated",
      problem: "the token is not one that the server knows",
    });
  }
  return callerOfJwt(rules, await rules.tokens.check(token), now);
}

function callerOfJwt({ file }: Rules, checked: CheckedToken, now: () => number): Caller {
  const { issuer, subject, claims, expiresAtMs } = checked;
  if (issuer === file.minting?.issuer) return mintedCaller(file, checked, now);
  const rules = file.policy.filter((rule) => rule.t === "claims" && isAbout(rule, issuer, claims));
  const grants = grantsOf(rules, checked);
  const caller = callerFrom({ t: "issuer", issuer, subject }, grants, expiresAtMs, now);
  caller.quotas = quotasOf(
    file.quotas,
    rules.map(({ quotas }) => quotas),
  );
  return caller;
}

/** A caller with rights of its own. */
function callerFrom(
  source: Source,
  grants: readonly Grant[],
  expiresAtMs: number | undefined,
  now: () => number,
): Caller {
  const identity = identityOfSource(source);
  const origin = { source, names: "", restsOn: undefined };
  return new Caller({ identity, rights: new Rights(grants), origin, expiresAtMs, now });
}

/** @throws RefusedError unauthenticated for a claim that is malformed */
function grantsOf(rules: readonly PolicyRule[], { claims }: CheckedToken): Grant[] {
  const grants = rules.flatMap((rule) => rule.grants);
  const { runlog } = claims as { readonly runlog?: unknown };
  if (runlog === undefined) return grants;
  try {
    return [...grants, ...parseGrants("the claim runlog", runlog)];
  } catch (error) {
    if (!(error instanceof MistakeError)) throw error;
    const problem = `the token is refused: ${error.message}`;
    throw new RefusedError({ reason: "unauthenticated", problem });
  }
}

function isAbout(
  { issuer: only, claims: wanted }: ClaimRule,
  issuer: string,
  claims: Readonly<Record<string, unknown>>,
): boolean {
  if (only !== undefined && only !== issuer) return false;
  return Object.entries(wanted).every(([name, value]) => {
    const claim = Object.hasOwn(claims, name) ? claims[name] : undefined;
    return claim === value || (Array.isArray(claim) && claim.includes(value));
  });
}
