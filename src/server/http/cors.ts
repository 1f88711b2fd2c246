/**
 * Lets browsers show the answers to pages of some origins (CORS): answers their preflights,
 * and marks every answer to them, errors too. Which calls are served is decided elsewhere
 * (`src/server/auth/browser-rules.ts`). There are no cookies, so credentials are never allowed.
 */
import { cors } from "@connectrpc/connect";
import { originProblem } from "../auth/browser-rules.ts";
import type { RequestHandler } from "./port.ts";

/** Seconds that a browser may keep the answer to a preflight; Chromium keeps it no longer. */
const maxAgeSeconds = 7_200;

const exposedHeaders = cors.exposedHeaders.join(", ");
const ofPreflights = {
  "access-control-allow-methods": cors.allowedMethods.join(", "),
  "access-control-allow-headers": ["Authorization", ...cors.allowedHeaders].join(", "),
  "access-control-max-age": String(maxAgeSeconds),
};

/** Handles requests, those of pages too. */
export function handlePages(origins: ReadonlySet<string>, handler: RequestHandler): RequestHandler {
  return (request, response) => {
    const { origin } = request.headers;
    // Also for those that name none: a cache must not answer pages with what others were sent.
    if (origins.size > 0) response.setHeader("vary", "Origin");
    const isAllowed = origin !== undefined && origins.has(origin);
    if (isAllowed) response.setHeader("access-control-allow-origin", origin);
    const isPreflight =
      request.method === "OPTIONS" &&
      origin !== undefined &&
      request.headers["access-control-request-method"] !== undefined;
    if (isPreflight) {
      if (isAllowed) {
        response.writeHead(204, ofPreflights);
        response.end("");
      } else {
        response.writeHead(403, { "content-type": "text/plain" });
        response.end(`${originProblem(origin)}\n`);
      }
      return;
    }
    if (isAllowed) response.setHeader("access-control-expose-headers", exposedHeaders);
    handler(request, response);
  };
}
