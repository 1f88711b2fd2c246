/**
 * Proxies that end TLS, and say in `x-forwarded-client-cert` which certificate their caller
 * showed (https://www.envoyproxy.io/docs/envoy/latest/configuration/http/http_conn_man/headers).
 *
 * Invariants: the header counts only from the addresses that were configured; and such an
 * address has no identity of its own, so that who has none does not get the proxy's.
 */
import type { IncomingHttpHeaders } from "node:http";
import { BlockList, isIP } from "node:net";
import type { Peer } from "../http/peer.ts";
import {
  type CertificateIdentity,
  identityOf,
  nameOf,
  refusedCertificate,
} from "./certificate-identity.ts";

const header = "x-forwarded-client-cert";

/** The keys that Envoy writes. */
const keys = ["by", "hash", "cert", "chain", "subject", "uri", "dns"];

/** An address or a range is malformed. */
class ProxyAddressError extends Error {
  constructor(text: string) {
    super(
      `${JSON.stringify(text)} is no address of a proxy: use one such as 10.0.0.7 or 10.0.0.0/8`,
    );
    this.name = "ProxyAddressError";
  }
}

/** Whose word counts. */
export class TrustedProxies {
  readonly #addresses = new BlockList();

  /**
   * @param addresses IP addresses, or ranges of them in CIDR notation
   * @throws ProxyAddressError
   */
  constructor(addresses: readonly string[]) {
    for (const text of addresses) this.#add(text);
  }

  /** Whether there are none. */
  get isEmpty(): boolean {
    return this.#addresses.rules.length === 0;
  }

  /**
   * The certificate of the client that makes a call, by the connection or by a proxy's word.
   *
   * @throws RefusedError unauthenticated for one that identifies nobody
   */
  certificateOf(peer: Peer, headers: IncomingHttpHeaders): CertificateIdentity | undefined {
    if (!this.#includes(peer.address)) {
      return peer.certificate === undefined ? undefined : identityOf(peer.certificate);
    }
    const forwarded = headers[header];
    return forwarded === undefined ? undefined : forwardedIdentity(String(forwarded));
  }

  #add(text: string): void {
    const [, address = "", prefix] = /^([^/]+)(?:\/(\d{1,3}))?$/.exec(text) ?? [];
    const version = isIP(address);
    const bits = version === 4 ? 32 : 128;
    const length = prefix === undefined ? bits : Number(prefix);
    if (version === 0 || length > bits) throw new ProxyAddressError(text);
    this.#addresses.addSubnet(address, length, familyOf(version));
  }

  /** Also an IPv4 address as a port for IPv6 shows it. */
  #includes(address: string): boolean {
    const version = isIP(address);
    return version !== 0 && this.#addresses.check(address, familyOf(version));
  }
}

function familyOf(version: number): "ipv4" | "ipv6" {
  return version === 4 ? "ipv4" : "ipv6";
}

/**
 * One pair. Envoy quotes what would end a value, and writes \" for a quote in it. It leaves
 * backslashes alone, so two of them before a quote mean two things: such a value is none.
 */
const onePair = /([A-Za-z]+)=("(?:[^"\\]|\\[^\\]|\\\\(?!["\\]))*"|[^",;=\s]*)(;|,|$)/y;

/** @throws RefusedError unauthenticated for anything but one element that names one caller */
function forwardedIdentity(text: string): CertificateIdentity {
  const uris: string[] = [];
  let subject = "";
  let end = "";
  onePair.lastIndex = 0;
  do {
    const match = onePair.exec(text);
    if (match === null) throw refusedHeader("it is malformed");
    const [, name = "", written = ""] = match;
    end = match[3] ?? "";
    const key = name.toLowerCase();
    const value = written.startsWith('"') ? written.slice(1, -1).replaceAll('\\"', '"') : written;
    if (!keys.includes(key)) throw refusedHeader(`it has the unknown key ${name.slice(0, 64)}`);
    // One would be for this hop, the others for those before: nobody has vouched for them.
    if (end === ",") throw refusedHeader("it has several elements: have the proxy sanitize it");
    if (key === "uri" && value !== "") uris.push(value);
    if (key === "subject") {
      if (subject !== "") throw refusedHeader("it has two subjects");
      subject = value;
    }
  } while (end !== "");
  return { identity: nameOf(uris, subject), expiresAtMs: undefined };
}

function refusedHeader(problem: string) {
  return refusedCertificate(`the header ${header}: ${problem}`);
}
