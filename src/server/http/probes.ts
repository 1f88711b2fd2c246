/** What probes ask over HTTP: `/healthz` whether the process lives, `/readyz` whether to send it calls. */
import type { Draining } from "../draining.ts";
import type { Readiness } from "../readiness.ts";
import type { RequestHandler } from "./port.ts";
import { answerUnknownMethod } from "./unknown-method.ts";

/** Answers the probes, and 404 to everything else. */
export function probeHandler(draining: Draining, readiness: Readiness): RequestHandler {
  const problemOf: Readonly<Record<string, () => string | undefined>> = {
    "/healthz": () => (draining.started ? "draining" : undefined),
    "/readyz": () => readiness.problem,
  };
  const well: Readonly<Record<string, string>> = { "/healthz": "serving", "/readyz": "ready" };
  return (request, response) => {
    const { method, url = "" } = request;
    if (method !== "GET" || !Object.hasOwn(problemOf, url)) {
      answerUnknownMethod(request, response);
      return;
    }
    const problem = problemOf[url]!();
    response.writeHead(problem === undefined ? 200 : 503, { "content-type": "text/plain" });
    response.end(`${problem ?? well[url]}\n`);
  };
}
