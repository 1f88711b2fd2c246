/**
 * What a browser may send for a page. A server without an access file trusts every caller
 * that reaches its port; but strangers wrote the pages that a browser shows, and those
 * make it send requests. Clients that are no browsers only have to name the server right.
 */
import type { IncomingHttpHeaders } from "node:http";
import { isIP } from "node:net";
import type { Logger } from "pino";
import { Health } from "../../../gen/grpc/health/v1/health_pb.js";
import { toRefusalError } from "../errors.ts";
import type { Admit } from "../service-context.ts";
import { callerKey } from "./caller.ts";

/** What is meant to be an origin is none, or one that says nothing of who wrote the page. */
class OriginError extends Error {
  constructor(origin: string, problem: string) {
    super(`${JSON.stringify(origin)} ${problem}`);
    this.name = "OriginError";
  }
}

/** What is meant to be a name of the server is none. */
class HostNameError extends Error {
  constructor(name: string) {
    super(`${JSON.stringify(name)} is no host name: give it without scheme and port`);
    this.name = "HostNameError";
  }
}

/** How to know the pages that may call. */
export interface BrowserOptions {
  /** Origins, such as `https://app.example.com`, whose pages may call. */
  readonly origins: readonly string[];
  /**
   * Names under which the server is reached, besides `localhost` and every IP address.
   * undefined: under any name.
   */
  readonly hostNames: readonly string[] | undefined;
}

type Headers = Readonly<Pick<IncomingHttpHeaders, "origin" | "host">> & {
  readonly [name: string]: string | string[] | undefined;
};

/**
 * Tells requests that a page of another origin caused from all others.
 *
 * The name of the server is looked at because a page can have a name of its own lead to
 * the server's address once it is loaded (DNS rebinding): the browser takes the server for
 * the page's origin then. An IP address is no name, so it leads nowhere else.
 */
export class BrowserRules {
  /** As browsers write them in the header `Origin`. */
  readonly origins: ReadonlySet<string>;
  readonly #hostNames: ReadonlySet<string> | undefined;

  /**
   * @throws OriginError
   * @throws HostNameError
   */
  constructor({ origins, hostNames }: BrowserOptions) {
    this.origins = new Set(origins.map(parseOrigin));
    this.#hostNames = hostNames && new Set(["localhost", ...hostNames.map(parseHostName)]);
  }

  /** Why a request is refused, for people; undefined where it is not. */
  problemOf(headers: Headers): string | undefined {
    return this.#hostProblem(headers) ?? this.#pageProblem(headers);
  }

  #hostProblem(headers: Headers): string | undefined {
    const asked = authorityOf(headers);
    // Browsers name the server in every request.
    if (this.#hostNames === undefined || asked === "") return undefined;
    const name = nameIn(asked);
    if (name !== undefined && (isIP(name) !== 0 || this.#hostNames.has(name))) return undefined;
    return `this server is not known as ${asked}: use its address, or have its operator add the name with --host-name`;
  }

  #pageProblem(headers: Headers): string | undefined {
    const { origin, "sec-fetch-site": site } = headers;
    // `none`: the user's own doing, such as an address that was typed.
    const isForeign = site !== undefined && site !== "same-origin" && site !== "none";
    if (origin === undefined) {
      // Forms, images and links: the page could not read the answer, but cause the call.
      return isForeign ? "pages of other sites may not call this server" : undefined;
    }
    if (this.origins.has(origin) || site === "same-origin") return undefined;
    // Without TLS browsers send `Origin` alone, except to the machine itself.
    if (!isForeign && hostOf(origin) === authorityOf(headers)) return undefined;
    return originProblem(origin);
  }
}

/** Says that the pages of an origin may not call. */
export function originProblem(origin: string): string {
  return `pages of the origin ${origin} may not call this server: its operator can allow them with --allow-origin`;
}

/** Admits what no page of others caused, if `admit` does; health is public. */
export function admitFromPages(rules: BrowserRules, admit: Admit, logger: Logger): Admit {
  return (method, headers, values, peer) => {
    const isPublic = method.parent.typeName === Health.typeName;
    const problem = isPublic ? undefined : rules.problemOf(headers);
    if (problem === undefined) return admit(method, headers, values, peer);
    const refusal = toRefusalError({ reason: "permission", problem });
    values.set(callerKey, refusal);
    logger.info({ method: method.name, problem }, "a call was refused");
    return refusal;
  };
}

function authorityOf(headers: Headers): string {
  const { ":authority": authority, host } = headers;
  return (typeof authority === "string" ? authority : (host ?? "")).toLowerCase();
}

/** The name or the address in HOST[:PORT]; undefined where it is written in another way. */
function nameIn(authority: string): string | undefined {
  const [, address, name] = /^(?:\[([0-9a-f:.]+)\]|([^:[\]]+))(?::\d+)?$/.exec(authority) ?? [];
  return address ?? name;
}

/** HOST[:PORT] of an origin; `null`, the origin of nobody, has none. */
function hostOf(origin: string): string | undefined {
  return origin.split("://", 2)[1];
}

function parseOrigin(text: string): string {
  if (text === "*") {
    throw new OriginError(text, "would let every page call: name the origins one by one");
  }
  if (text === "null") {
    throw new OriginError(text, "is the origin of files and of every sandboxed page: name another");
  }
  if (!/^[a-z][a-z0-9+.-]*:\/\/[^/?#@*\s,]+$/.test(text)) {
    throw new OriginError(text, "is no origin: use SCHEME://HOST[:PORT], without a path");
  }
  if (!/^https?:/.test(text)) return text;
  const written = URL.canParse(text) ? new URL(text).origin : undefined;
  if (written === text) return text;
  const instead = written === undefined ? "use SCHEME://HOST[:PORT]" : `use ${written}`;
  throw new OriginError(text, `is not written as browsers do: ${instead}`);
}

function parseHostName(text: string): string {
  const name = text.toLowerCase();
  if (!/^[a-z0-9_-]+(\.[a-z0-9_-]+)*\.?$/.test(name)) throw new HostNameError(text);
  return name;
}
