/** `/.well-known/jwks.json`: the keys that check minted tokens, for gateways in front. Public, as they are. */
import type { JSONWebKeySet } from "jose";
import type { RequestHandler } from "./port.ts";

const path = "/.well-known/jwks.json";
/** Seconds for which others may keep it: a key has to be here that long before it signs. */
const maxAgeS = 300;

/**
 * Answers with the keys there are now.
 *
 * @param otherwise answers everything else, and where there are none
 */
export function keysHandler(
  keysNow: () => JSONWebKeySet | undefined,
  otherwise: RequestHandler,
): RequestHandler {
  return (request, response) => {
    const keys = request.method === "GET" && request.url === path ? keysNow() : undefined;
    if (keys === undefined) {
      otherwise(request, response);
      return;
    }
    response.writeHead(200, {
      "content-type": "application/json",
      "cache-control": `public, max-age=${maxAgeS}`,
    });
    response.end(JSON.stringify(keys));
  };
}
