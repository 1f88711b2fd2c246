/**
 * The bearer tokens that a provider gives, one after the other.
 *
 * Invariants: the provider is asked by one caller at a time, whatever the number of calls that
 * need a token; a token that the server has called expired is never shown again; and a token
 * that was asked for because of that, and is refused as expired while it should be valid, is the
 * last.
 */
import { Code, ConnectError } from "@connectrpc/connect";
import { Reason } from "../../gen/runlog/v1/error_pb.js";
import { startTimer } from "../timers.ts";
import { backoffMs, defaultBackoff } from "./backoff.ts";
import { errorDetailOf, NoAnswerError, TokenError } from "./errors.ts";
import { minTokenRenewalMs, tokenTimeoutMs } from "./limits.ts";
import { orAbort } from "./or-abort.ts";
import { warnOfProvider } from "./warning.ts";

/**
 * Gives a bearer token: a JWT, or any other. Asked for the first call, again shortly before the
 * token expires if it is a JWT, and when the server says that it has. Calls wait for the answer
 * for 10 s at most; then the signal aborts. If it throws, or gives nothing that can be a token,
 * calls fail and are tried again with the usual back-off, unless it throws a TokenError with
 * `isFinal`.
 */
export type TokenProvider = (signal: AbortSignal) => string | Promise<string>;

/** What calls show. */
export interface Credential {
  /** The `authorization` header; undefined where no provider gives one. */
  readonly authorization: string | undefined;
  /** Milliseconds since 1970 by this machine's clock; Infinity where that is not known. */
  readonly expiresAtMs: number;
  /** Milliseconds since 1970 from which on another one is asked for ahead of time. */
  readonly renewAtMs: number;
}

interface Asking {
  readonly startedAtMs: number;
  readonly controller: AbortController;
  readonly answer: Promise<Credential>;
}

/** What Tokens are made with. */
export interface TokensOptions {
  /** Milliseconds since 1970: a page that slept finds its token expired. Default: Date.now. */
  readonly now?: () => number;
  /** Jitter of renewals, in [0, 1). Default: Math.random. */
  readonly random?: () => number;
  /** Milliseconds for the provider's answer. Default: 10,000. */
  readonly timeoutMs?: number;
}

/** Shares of a token's lifetime between which it is renewed, so that clients do not ask in step. */
const earliestRenewal = 0.7;
const latestRenewal = 0.9;

/** Whatever has no spaces, as RFC 6750 has it, and cannot add a header. */
const tokenText = /^[\x21-\x7e]+$/;

/** The tokens of one provider. */
export class Tokens {
  readonly #provider: TokenProvider | undefined;
  readonly #isFixed: boolean;
  readonly #now: () => number;
  readonly #random: () => number;
  readonly #timeoutMs: number;
  #current: Credential | undefined;
  /** Whether the next call needs another token than the current one. */
  #isStale = true;
  /** Tokens in a row that expired unforeseen, since one was last accepted. */
  #strikes = 0;
  /** Credentials that were refused as expired although they had just been asked for. */
  readonly #last = new WeakSet<Credential>();
  #asking: Asking | undefined;
  #failures = 0;
  #renewAtMs = Number.POSITIVE_INFINITY;
  #openStreams = 0;
  #timer: ReturnType<typeof setTimeout> | undefined;

  /**
   * @param token one that stays, a provider, or undefined where calls show something else
   * @throws TypeError for a text that can be no token
   */
  constructor(token: string | TokenProvider | undefined, options: TokensOptions = {}) {
    if (typeof token === "string" && !tokenText.test(token)) {
      throw new TypeError(
        "token: it is empty, or has spaces or other characters that no token has",
      );
    }
    this.#isFixed = typeof token === "string";
    this.#provider = typeof token === "string" ? () => token : token;
    this.#now = options.now ?? Date.now;
    this.#random = options.random ?? Math.random;
    this.#timeoutMs = options.timeoutMs ?? tokenTimeoutMs;
  }

  /**
   * What the next call shows: at once where that is known, else once the provider has answered.
   * A token that is about to expire is used while the provider is asked for the next one.
   *
   * @throws TokenError; the signal's reason
   */
  use(signal?: AbortSignal): Credential | Promise<Credential> {
    const nowMs = this.#now();
    const current = this.#current;
    if (current !== undefined && !this.#isStale && nowMs < current.expiresAtMs) {
      if (nowMs >= this.#renewAtMs) this.#renewAhead();
      return current;
    }
    if (this.#provider === undefined) {
      const expiresAtMs = Number.POSITIVE_INFINITY;
      const none = { authorization: undefined, expiresAtMs, renewAtMs: expiresAtMs };
      this.#take(none);
      return none;
    }
    return this.#ask(this.#provider, signal);
  }

  /** The server has served a call that showed this. */
  accepted(shown: Credential): void {
    if (shown === this.#current && !this.#isStale) this.#strikes = 0;
  }

  /** A call that showed this ended with an error: whether to call again at once. */
  ended(shown: Credential, error: unknown): boolean {
    const reason = errorDetailOf(error)?.reason;
    const isCurrent = shown === this.#current && !this.#isStale;
    if (reason === Reason.TOKEN_EXPIRED) {
      // Another call has said so before: what comes next is not this one.
      if (!isCurrent) return !this.#last.has(shown);
      this.#isStale = true;
      // It has run out on the way, or while this machine slept.
      if (this.#now() >= shown.expiresAtMs) return true;
      this.#strikes++;
      if (this.#strikes > 1) this.#last.add(shown);
      return this.#strikes <= 1;
    }
    if (error instanceof ConnectError && error.code === Code.Unauthenticated) {
      // The next call shows another one.
      if (isCurrent) this.#isStale = true;
    } else if (reason !== undefined) {
      this.accepted(shown);
    }
    return false;
  }

  /** A stream is open: its token is renewed ahead of time. The result says that it has ended. */
  opened(): () => void {
    let isOpen = true;
    this.#openStreams++;
    if (this.#openStreams === 1) this.#schedule();
    return () => {
      if (!isOpen) return;
      isOpen = false;
      this.#openStreams--;
      if (this.#openStreams === 0) clearTimeout(this.#timer);
    };
  }

  async #ask(provider: TokenProvider, signal: AbortSignal | undefined): Promise<Credential> {
    const asking = this.#askOnce(provider);
    const leftMs = Math.max(0, asking.startedAtMs + this.#timeoutMs - performance.now());
    try {
      return await orAbort(asking.answer, signal, leftMs, "token");
    } catch (error) {
      if (signal?.aborted || !(error instanceof NoAnswerError)) throw error;
      const late = this.#lateError();
      this.#giveUp(asking, late);
      throw late;
    }
  }

  /** Asks the provider, unless somebody waits for its answer already. */
  #askOnce(provider: TokenProvider): Asking {
    const before = this.#asking;
    const nowMs = performance.now();
    if (before !== undefined) {
      if (nowMs - before.startedAtMs < this.#timeoutMs) return before;
      this.#giveUp(before, this.#lateError());
    }
    const controller = new AbortController();
    const answer = this.#credentialOf(provider, controller.signal);
    const asking = { startedAtMs: nowMs, controller, answer };
    this.#asking = asking;
    // A failure while no call waits must not be an unhandled rejection; calls that wait get it too.
    answer.then(
      (credential) => {
        if (this.#asking === asking) this.#take(credential);
      },
      (error: TokenError) => this.#giveUp(asking, error),
    );
    return asking;
  }

  async #credentialOf(provider: TokenProvider, signal: AbortSignal): Promise<Credential> {
    const token: unknown = await answerOf(provider, signal);
    if (typeof token !== "string" || !tokenText.test(token)) {
      throw new TokenError("the token provider gave something that can be no token");
    }
    const nowMs = this.#now();
    const never = Number.POSITIVE_INFINITY;
    const expiresAtMs = this.#isFixed ? never : expiryOf(token);
    const lifetimeMs = expiresAtMs - nowMs;
    const authorization = `Bearer ${token}`;
    // Clocks may differ: the server knows better whether it has expired.
    if (lifetimeMs <= 0) return { authorization, expiresAtMs: never, renewAtMs: never };
    const share = earliestRenewal + (latestRenewal - earliestRenewal) * this.#random();
    const renewAtMs = nowMs + Math.max(minTokenRenewalMs, share * lifetimeMs);
    return { authorization, expiresAtMs, renewAtMs };
  }

  #take(credential: Credential): void {
    this.#asking = undefined;
    this.#failures = 0;
    this.#current = credential;
    this.#isStale = false;
    this.#renewAtMs = credential.renewAtMs;
    this.#schedule();
  }

  #giveUp(asking: Asking, error: TokenError): void {
    if (this.#asking !== asking) return;
    this.#asking = undefined;
    this.#failures++;
    if (this.#failures === 1) warnOfProvider(error);
    this.#renewAtMs = this.#now() + backoffMs(this.#failures, defaultBackoff, this.#random);
    this.#schedule();
    asking.controller.abort(error);
  }

  #lateError(): TokenError {
    return new TokenError(`the token provider gave no token within ${this.#timeoutMs} ms`);
  }

  #renewAhead(): void {
    if (this.#provider === undefined) return;
    // If there is no answer by then, it is asked again.
    this.#renewAtMs = this.#now() + this.#timeoutMs;
    this.#askOnce(this.#provider);
    this.#schedule();
  }

  #schedule(): void {
    clearTimeout(this.#timer);
    if (this.#openStreams === 0 || this.#renewAtMs === Number.POSITIVE_INFINITY) return;
    // A token that is over is asked for by the next call.
    if (this.#isStale) return;
    this.#timer = startTimer(
      () => {
        if (this.#now() >= this.#renewAtMs) this.#renewAhead();
        else this.#schedule();
      },
      Math.max(0, this.#renewAtMs - this.#now()),
    );
  }
}

/** What the provider answers. @throws TokenError */
async function answerOf(provider: TokenProvider, signal: AbortSignal): Promise<string> {
  try {
    return await provider(signal);
  } catch (cause) {
    if (cause instanceof TokenError) throw cause;
    const why = cause instanceof Error ? cause.message : String(cause);
    throw new TokenError(`the token provider failed: ${why}`, { cause });
  }
}

/**
 * When a JWT says that it expires, in milliseconds since 1970; Infinity for any other token.
 * Nobody has checked the signature: it only says when to ask for the next one.
 */
function expiryOf(token: string): number {
  const [, payload = ""] = token.split(".");
  try {
    const claims: unknown = JSON.parse(atob(payload.replaceAll("-", "+").replaceAll("_", "/")));
    const { exp } = Object(claims) as { readonly exp?: unknown };
    if (typeof exp === "number" && Number.isFinite(exp)) return exp * 1000;
  } catch {
    // It is no JWT.
  }
  return Number.POSITIVE_INFINITY;
}
