/**
 * The keys that an issuer publishes at a URL. Whoever calls can make the server fetch them, with a
 * token that nobody has signed.
 *
 * Invariants: however many calls need keys, the issuer is asked once at a time, at most every 10 s
 * for keys that it does not have, and every second while it fails; and an answer takes no more
 * memory than keys need.
 */
import { createRemoteJWKSet, customFetch, errors, type JWTVerifyGetKey } from "jose";

/** Milliseconds for an issuer to send its keys. */
const timeoutMs = 5_000;
/** Milliseconds after which an issuer's keys are fetched again: one that it withdraws counts no longer. */
const maxAgeMs = 5 * 60_000;
/** Milliseconds between two fetches for keys that are not there: nobody makes us flood the issuer. */
const cooldownMs = 10_000;
/** Milliseconds from a fetch that failed to the next one: keys are missed until then. */
const retryMs = 1_000;
/** Bytes of a JWKS: some hundred keys, with their certificates. */
const maxBytes = 1024 * 1024;

/** An issuer's keys cannot be had now, which is no fault of the token. All calls of one fetch get the same. */
export class KeysUnavailableError extends Error {
  constructor(issuer: string, options: ErrorOptions) {
    super(`the keys of the issuer ${issuer} cannot be fetched`, options);
    this.name = "KeysUnavailableError";
  }
}

/**
 * Finds the key of a token among those that its issuer publishes.
 *
 * @param now milliseconds since 1970
 * @returns a function that throws KeysUnavailableError, and jose's errors for a token without a key
 */
export function remoteKeys(issuer: string, url: URL, now: () => number): JWTVerifyGetKey {
  let failure: { readonly error: KeysUnavailableError; readonly atMs: number } | undefined;
  const remote = createRemoteJWKSet(url, {
    timeoutDuration: timeoutMs,
    cacheMaxAge: maxAgeMs,
    cooldownDuration: cooldownMs,
    [customFetch]: (address, request) => {
      if (failure !== undefined && now() < failure.atMs + retryMs) throw failure.error;
      return fetchSome(address, request);
    },
  });
  return async (header, token) => {
    try {
      return await remote(header, token);
    } catch (cause) {
      const isAnswer =
        cause instanceof errors.JWKSNoMatchingKey ||
        cause instanceof errors.JWKSMultipleMatchingKeys ||
        cause instanceof errors.JOSENotSupported;
      if (isAnswer || cause instanceof KeysUnavailableError) throw cause;
      if (failure === undefined || failure.error.cause !== cause) {
        failure = { error: new KeysUnavailableError(issuer, { cause }), atMs: now() };
      }
      throw failure.error;
    }
  };
}

/** Fetches, and reads no more than a JWKS can hold. */
async function fetchSome(address: string, request: RequestInit): Promise<Response> {
  const response = await fetch(address, request);
  const { status } = response;
  const pieces: Uint8Array[] = [];
  let size = 0;
  // Leaving the loop cancels what has not come yet.
  for await (const piece of response.body ?? []) {
    pieces.push(piece);
    size += piece.length;
    if (status !== 200) break;
    if (size > maxBytes) throw new Error(`the answer has more than ${maxBytes} bytes`);
  }
  return new Response(Buffer.concat(pieces), { status });
}
