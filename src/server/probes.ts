/** What probes ask over HTTP: `/healthz` whether the process lives, `/readyz` whether to send it calls. */
import type { Draining } from "./draining.ts";
import type { RequestHandler } from "./port.ts";
import type { Readiness } from "./readiness.ts";

/** Answers the probes, and 404 to everything else. */
export function probeHandler(draining: Draining, readiness: Readiness): RequestHandler {
  const problemOf: Readonly<Record<string, () => string | undefined>> = {
    "/healthz": () => (draining.started ? "draining" : undefined),
    "/readyz": () => readiness.problem,
  };
  const well: Readonly<Record<string, string>> = { "/healthz": "serving", "/readyz": "ready" };
  return (request, response) => {
    const { method, url = "" } = request;
    const path = method === "GET" && Object.hasOwn(problemOf, url) ? url : undefined;
    const problem = path === undefined ? "not found" : problemOf[path]!();
    const status = path === undefined ? 404 : problem === undefined ? 200 : 503;
    response.writeHead(status, { "content-type": "text/plain" });
    response.end(`${problem ?? well[path!]}\n`);
  };
}
