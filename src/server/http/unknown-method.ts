/** Answers requests to unknown methods, in the protocol of the request. */
import { Code } from "@connectrpc/connect";
import { percentEncode } from "./grpc-message.ts";
import { endRequest } from "./half-close.ts";
import type { PortRequest, PortResponse } from "./port.ts";

/**
 * gRPC and gRPC-Web have a status for it, in a response of headers alone; to
 * Connect's clients, and to everybody else, it is HTTP's 404.
 */
export function answerUnknownMethod(request: PortRequest, response: PortResponse): void {
  const type = request.headers["content-type"] ?? "";
  if (!type.startsWith("application/grpc")) {
    response.writeHead(404, { "content-type": "text/plain" });
    response.end("not found\n");
    return;
  }
  const path = request.url?.split("?", 1)[0] ?? "";
  const headers = {
    "content-type": type,
    "grpc-status": String(Code.Unimplemented),
    "grpc-message": percentEncode(`there is no method ${path}`),
  };
  if ("stream" in request) {
    // Headers that end the stream: gRPC's clients take the status from nothing else.
    const all = { ":status": 200, ...response.getHeaders(), ...headers };
    request.stream.respond(all, { endStream: true });
    request.stream.resume();
    endRequest(request.stream);
  } else {
    response.writeHead(200, headers);
    response.end("");
  }
}
