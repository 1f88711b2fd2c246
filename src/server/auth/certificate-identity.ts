/**
 * Who a client's certificate says that it is: the SPIFFE ID among its names, or else its subject.
 *
 * Invariant: a certificate that could be read in two ways identifies nobody.
 */
import type { X509Certificate } from "node:crypto";
import { RefusedError } from "../../refusal.ts";

/** Whom a certificate is about. */
export interface CertificateIdentity {
  /** `spiffe://…`, or the subject as RFC 2253 writes it: `CN=planner,O=Example`. */
  readonly identity: string;
  /** Milliseconds since 1970; undefined: a proxy looks after that. */
  readonly expiresAtMs: number | undefined;
}

/** It stands in logs, and in signals. */
const identities = /^[^\p{C}]{1,256}$/u;

/** https://github.com/spiffe/spiffe/blob/main/standards/SPIFFE-ID.md, section 2 */
const spiffeId = /^spiffe:\/\/[a-z0-9._-]+(\/(?!\.{1,2}(\/|$))[A-Za-z0-9._-]+)+$/;

const known = new WeakMap<X509Certificate, CertificateIdentity>();

/**
 * Whom a certificate that was verified is about.
 *
 * @throws RefusedError unauthenticated where it is not about one caller
 */
export function identityOf(certificate: X509Certificate): CertificateIdentity {
  const before = known.get(certificate);
  if (before !== undefined) return before;
  const uris = urisIn(certificate.subjectAltName ?? "");
  const identity = nameOf(uris, subjectOf(certificate));
  const found = { identity, expiresAtMs: certificate.validToDate.getTime() };
  known.set(certificate, found);
  return found;
}

/**
 * The identity among a certificate's names.
 *
 * @param uris all URIs among its names
 * @param subject as RFC 2253 writes it; empty: none
 * @throws RefusedError unauthenticated where it has none, or several SPIFFE IDs
 */
export function nameOf(uris: readonly string[], subject: string): string {
  const isSpiffe = uris.some((uri) => /^spiffe:/i.test(uri));
  if (isSpiffe) {
    const [id = ""] = uris;
    // X509-SVID, section 2: exactly one URI.
    if (uris.length > 1) throw refusedCertificate("it has several URIs, and one is a SPIFFE ID");
    if (!spiffeId.test(id)) throw refusedCertificate("its SPIFFE ID is malformed");
    return checked(id);
  }
  if (subject === "") throw refusedCertificate("it has neither a SPIFFE ID nor a subject");
  return checked(subject);
}

function checked(identity: string): string {
  if (identities.test(identity)) return identity;
  throw refusedCertificate("its name is too long, or cannot be shown");
}

/** Says that a certificate does not identify a caller. */
export function refusedCertificate(problem: string): RefusedError {
  return new RefusedError({
    reason: "unauthenticated",
    problem: `the client's certificate is refused: ${problem}`,
  });
}

/** Node writes one part a line, escaped, the widest first; RFC 2253 begins with the narrowest. */
function subjectOf({ subject }: X509Certificate): string {
  return (subject ?? "").split("\n").reverse().join(",");
}

/** One name as Node writes it: quoted like JSON where it holds what would look like another. */
const oneName = /(?:^|, )([A-Za-z ]+):("(?:[^"\\]|\\.)*"|[^",]*)/y;

/** @throws RefusedError unauthenticated for names that cannot be told apart */
function urisIn(names: string): string[] {
  const uris: string[] = [];
  oneName.lastIndex = 0;
  while (oneName.lastIndex < names.length) {
    const match = oneName.exec(names);
    if (match === null) throw refusedCertificate("its names cannot be read");
    const [, kind, value = ""] = match;
    if (kind !== "URI") continue;
    uris.push(value.startsWith('"') ? String(JSON.parse(value)) : value);
  }
  return uris;
}
