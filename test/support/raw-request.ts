/** Requests with whatever headers, those that clients set by themselves too, over either HTTP. */
import { once } from "node:events";
import * as http from "node:http";
import * as http2 from "node:http2";

/** The versions of HTTP over which a request is made. */
export const httpVersions = ["HTTP/1.1", "HTTP/2"] as const;

/** What is asked. */
export interface RawRequest {
  /** Default: POST where there is a body. */
  readonly method?: string;
  readonly path: string;
  /** `host` is `:authority` over HTTP/2. */
  readonly headers?: Readonly<Record<string, string>>;
  readonly body?: Uint8Array | string;
}

/** What is answered. */
export interface RawAnswer {
  readonly status: number;
  readonly headers: http.IncomingHttpHeaders;
  readonly trailers: http.IncomingHttpHeaders;
  readonly body: Buffer;
}

/** Makes a request on a connection of its own. */
export function rawRequest(
  version: (typeof httpVersions)[number],
  url: string,
  request: RawRequest,
): Promise<RawAnswer> {
  return version === "HTTP/2" ? overHttp2(url, request) : overHttp1(url, request);
}

async function overHttp1(
  url: string,
  { path, headers = {}, body, method = body === undefined ? "GET" : "POST" }: RawRequest,
): Promise<RawAnswer> {
  const { hostname, port } = new URL(url);
  const options = { host: hostname, port, method, path, headers, agent: false };
  const request = http.request(options);
  request.end(body);
  const [answer] = (await once(request, "response")) as [http.IncomingMessage];
  const chunks = await answer.toArray();
  const { statusCode: status = 0, trailers } = answer;
  return { status, headers: answer.headers, trailers, body: Buffer.concat(chunks) };
}

async function overHttp2(
  url: string,
  { path, headers = {}, body, method = body === undefined ? "GET" : "POST" }: RawRequest,
): Promise<RawAnswer> {
  const session = http2.connect(url);
  try {
    const { host, ...rest } = headers;
    const authority = host === undefined ? {} : { ":authority": host };
    const sent = { ":method": method, ":path": path, ...authority, ...rest };
    const stream = session.request(sent, { endStream: body === undefined });
    if (body !== undefined) stream.end(body);
    let trailers: http2.IncomingHttpHeaders = {};
    stream.on("trailers", (received) => {
      trailers = received;
    });
    const [answered] = (await once(stream, "response")) as [
      http2.IncomingHttpHeaders & http2.IncomingHttpStatusHeader,
    ];
    const chunks = await stream.toArray();
    const status = answered[":status"] ?? 0;
    return { status, headers: answered, trailers, body: Buffer.concat(chunks) };
  } finally {
    session.destroy();
  }
}
