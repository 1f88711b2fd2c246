/** Who makes a call. */
import { ConnectError, createContextKey, type HandlerContext } from "@connectrpc/connect";
import type { QuotaLimits, Quotas, Usage } from "../../quotas.ts";
import { RefusedError } from "../../refusal.ts";
import { startTimer } from "../../timers.ts";
import { allRights, type Grant, type Rights } from "./rights.ts";

/** Who has rights of its own: an entry of the access file, or somebody that an issuer vouches for. */
export type Source =
  | { readonly t: "token"; readonly name: string }
  | { readonly t: "certificate"; readonly identity: string }
  | { readonly t: "issuer"; readonly issuer: string; readonly subject: string };

/** Where a caller's rights come from. */
export interface Origin {
  /** Whose they are: the caller's own, or those of whom its chain of mints began with. */
  readonly source: Source;
  /** What follows the source's identity in the caller's: `>NAME` for each mint. */
  readonly names: string;
  /** The rights of the source on which a minted token rests; undefined: it was not minted. */
  readonly restsOn: readonly Grant[] | undefined;
}

/** Names it for people and in logs. */
export function identityOfSource(source: Source): string {
  switch (source.t) {
    case "token":
      return source.name;
    case "certificate":
      return source.identity;
    case "issuer":
      return `${source.issuer}#${source.subject}`;
  }
}

/** What is known of a caller. */
export interface CallerOptions {
  /** Names it for people and in logs. */
  readonly identity: string;
  readonly rights: Rights;
  /** Undefined: nobody's that could be handed on. */
  readonly origin?: Origin;
  /** Milliseconds since 1970 at which it has to show another token; undefined: never. */
  readonly expiresAtMs?: number | undefined;
  /** Milliseconds since 1970. Default: Date.now. */
  readonly now?: () => number;
}

/** One token's owner; calls that show the same token share it. */
export class Caller {
  readonly identity: string;
  readonly rights: Rights;
  readonly origin: Origin | undefined;
  readonly expiresAtMs: number | undefined;
  /** What it may use; undefined: what others with its quotaKey may, or the file's default. */
  quotas: QuotaLimits | undefined;
  readonly #now: () => number;
  readonly #listeners = new Set<(error: RefusedError) => void>();
  #timer: NodeJS.Timeout | undefined;
  #isRetired = false;
  #usages: Quotas | undefined;

  constructor({ identity, rights, origin, expiresAtMs, now = Date.now }: CallerOptions) {
    this.identity = identity;
    this.rights = rights;
    this.origin = origin;
    this.expiresAtMs = expiresAtMs;
    this.#now = now;
  }

  /** Whose use its own is: what a minted token uses, the source of its chain of mints does. */
  get quotaKey(): string {
    const { origin } = this;
    return origin === undefined
      ? this.identity
      : `${origin.source.t} ${identityOfSource(origin.source)}`;
  }

  /** What it uses is counted here from now on. */
  countIn(usages: Quotas): void {
    this.#usages = usages;
    usages.limit(this.quotaKey, this.quotas);
  }

  /** What its identity uses; undefined where nobody counts. See Quotas.of. */
  get usage(): Usage | undefined {
    return this.#usages?.of(this.quotaKey, this.quotas);
  }

  /** Whether its token is over. */
  get hasExpired(): boolean {
    return this.expiresAtMs !== undefined && this.#now() >= this.expiresAtMs;
  }

  /** Whether calls are open that it is to end. */
  get hasOpenCalls(): boolean {
    return this.#listeners.size > 0;
  }

  /**
   * Calls back once, when an open call has to end: the token expires, or its rights
   * change. At once, where it was retired since it was authenticated. The result takes it back.
   */
  onEnd(listener: (error: RefusedError) => void): () => void {
    if (this.#isRetired) {
      listener(new RefusedError({ reason: "token_expired" }));
      return () => undefined;
    }
    this.#listeners.add(listener);
    if (this.#listeners.size === 1) this.#watch();
    return () => {
      this.#listeners.delete(listener);
      if (this.#listeners.size === 0) clearTimeout(this.#timer);
    };
  }

  /** Nobody keeps it any more: a call that begins with it would not be ended. */
  retire(): void {
    this.#isRetired = true;
    this.#end();
  }

  #end(): void {
    clearTimeout(this.#timer);
    const listeners = [...this.#listeners];
    this.#listeners.clear();
    for (const listener of listeners) listener(new RefusedError({ reason: "token_expired" }));
  }

  #watch(): void {
    if (this.expiresAtMs === undefined) return;
    // The longest timer may be shorter than that.
    this.#timer = startTimer(() => {
      if (this.hasExpired) this.#end();
      else this.#watch();
    }, this.expiresAtMs - this.#now());
    this.#timer.unref();
  }
}

/** Anybody, where the server does not authenticate. */
export const anybody = new Caller({ identity: "", rights: allRights });

/** Where a call has its caller, or why it has none; a call without either is a fault, never anybody's. */
export const callerKey = createContextKey<Caller | ConnectError | undefined>(undefined);

/**
 * Who makes a call.
 *
 * @throws ConnectError where the call was refused
 */
export function callerOf({ values }: Pick<HandlerContext, "values">): Caller {
  const caller = values.get(callerKey);
  if (caller instanceof ConnectError) throw caller;
  if (caller === undefined) throw new Error("a call was served that was not authenticated");
  return caller;
}
