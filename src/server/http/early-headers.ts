/** The headers of streams in both directions, which Connect sends only with the first message. */
import type { DescMethod } from "@bufbuild/protobuf";
import type { PortRequest, PortResponse } from "./port.ts";

/** Content types of streams that Connect's handlers know, with what they answer to those without a suffix. */
const streamTypes = /^(application\/(?:grpc|grpc-web|connect))(\+(?:proto|json))?$/;

/**
 * Sends the headers of a stream in both directions at once: a client may wait
 * for them before it sends anything. Errors of a stream come at its end, so the
 * headers do not depend on them.
 */
export function sendHeadersFirst(
  method: DescMethod,
  request: PortRequest,
  response: PortResponse,
): void {
  if (method.methodKind !== "bidi_streaming" || request.method !== "POST") return;
  // HTTP/1.1 has no streams in both directions: its clients send all they have first.
  if (!("stream" in request)) return;
  const [, base, suffix] = streamTypes.exec(request.headers["content-type"] ?? "") ?? [];
  if (base === undefined || (suffix === undefined && base.endsWith("connect"))) return;
  response.writeHead(200, { "content-type": `${base}${suffix ?? "+proto"}` });
}
