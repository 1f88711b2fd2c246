/**
 * A request as Connect's handlers take it. connect-node has this too, but it
 * makes a URL of the authority that the client names, and throws where that is
 * none; here it is not looked at: `src/server/auth/browser-rules.ts` has done that.
 */
import type { IncomingHttpHeaders } from "node:http";
import { Code, ConnectError } from "@connectrpc/connect";
import type { UniversalServerRequest } from "@connectrpc/connect/protocol";
import { parseTimeout as parseConnectTimeout } from "@connectrpc/connect/protocol-connect";
import { parseTimeout as parseGrpcTimeout } from "@connectrpc/connect/protocol-grpc";
import { longestTimerMs } from "../../timers.ts";
import type { PortRequest, PortResponse } from "./port.ts";

const acceptEncodings = ["accept-encoding", "grpc-accept-encoding", "connect-accept-encoding"];
const timeouts: readonly [string, (value: string | null) => number | undefined][] = [
  ["grpc-timeout", (value) => parseGrpcTimeout(value, Number.POSITIVE_INFINITY).timeoutMs],
  ["connect-timeout-ms", (value) => parseConnectTimeout(value, Number.POSITIVE_INFINITY).timeoutMs],
];

/** What a request says besides its body; `signal` aborts when its client disconnects. */
export function universalRequest(
  request: PortRequest,
  response: PortResponse,
): Omit<UniversalServerRequest, "body"> {
  const abort = new AbortController();
  // HTTP/1.1 requests close when they are read, their responses with the connection.
  const call = "stream" in request ? request.stream : response;
  call.once("close", () =>
    abort.abort(new ConnectError("the client ended the call", Code.Canceled)),
  );
  const header = toHeaders(request.headers);
  // Nothing is compressed, so nothing is declared to be.
  for (const name of acceptEncodings) header.set(name, "identity");
  // Connect starts a timer, which cannot wait so long; it is as good as none.
  for (const [name, msOf] of timeouts) {
    const ms = msOf(header.get(name));
    if (ms !== undefined && ms > longestTimerMs) header.delete(name);
  }
  return {
    httpVersion: request.httpVersion,
    method: request.method ?? "",
    // For the query of a GET.
    url: new URL(`http://localhost${request.url ?? "/"}`).href,
    header,
    signal: abort.signal,
  };
}

function toHeaders(headers: IncomingHttpHeaders): Headers {
  const result = new Headers();
  for (const [name, value] of Object.entries(headers)) {
    if (value === undefined || name.startsWith(":")) continue;
    for (const one of typeof value === "string" ? [value] : value) result.append(name, one);
  }
  return result;
}
