/** Calls made of raw bytes, over HTTP/2: what no client would send, in every protocol. */
import type {
  ClientHttp2Session,
  IncomingHttpHeaders,
  IncomingHttpStatusHeader,
  OutgoingHttpHeaders,
} from "node:http2";
import { gzipSync } from "node:zlib";
import type { DescMethod } from "@bufbuild/protobuf";
import { type Code, ConnectError } from "@connectrpc/connect";
import {
  createEndStreamSerialization,
  endStreamFlag,
  errorFromJsonBytes,
} from "@connectrpc/connect/protocol-connect";
import { findTrailerError } from "@connectrpc/connect/protocol-grpc";
import { trailerFlag, trailerParse } from "@connectrpc/connect/protocol-grpc-web";
import { type ErrorDetail, ErrorDetailSchema } from "../../gen/runlog/v1/error_pb.js";

/** How a call is made. */
export interface RawProtocol {
  readonly name: string;
  readonly format: "binary" | "json";
  readonly takes: (method: DescMethod) => boolean;
  readonly send: (session: ClientHttp2Session, method: DescMethod, message: Uint8Array) => RawSent;
}

interface RawSent {
  readonly headers: Record<string, string>;
  readonly body: Uint8Array;
}

/** How a call ended; undefined where it did not fail before it answered. */
export interface RawFailure {
  readonly code: Code;
  readonly detail: ErrorDetail | undefined;
}

const isUnary = ({ methodKind }: DescMethod) => methodKind === "unary";
/** NO_SIDE_EFFECTS of google.protobuf.MethodOptions. */
const noSideEffects = 1;

function enveloped(message: Uint8Array, flags = 0): Buffer {
  const header = Buffer.alloc(5, flags);
  header.writeUInt32BE(message.length, 1);
  return Buffer.concat([header, message]);
}

function post(
  name: string,
  contentType: string,
  takes: (method: DescMethod) => boolean,
  encode: (message: Uint8Array) => Uint8Array,
  headers: Record<string, string> = {},
): RawProtocol {
  return {
    name,
    format: contentType.endsWith("json") ? "json" : "binary",
    takes,
    send: (_, method, message) => ({
      headers: {
        ":method": "POST",
        ":path": `/${method.parent.typeName}/${method.name}`,
        "content-type": contentType,
        ...headers,
      },
      body: encode(message),
    }),
  };
}

function get(format: "binary" | "json", compress: boolean): RawProtocol {
  return {
    name: `Connect, GET, ${format}${compress ? ", gzip" : ""}`,
    format,
    takes: ({ idempotency }) => (idempotency as number) === noSideEffects,
    send: (_, method, message) => {
      const query = new URLSearchParams({
        connect: "v1",
        encoding: format === "json" ? "json" : "proto",
        base64: "1",
        message: Buffer.from(compress ? gzipSync(message) : message).toString("base64url"),
        ...(compress ? { compression: "gzip" } : {}),
      });
      const path = `/${method.parent.typeName}/${method.name}?${query}`;
      return { headers: { ":method": "GET", ":path": path }, body: new Uint8Array(0) };
    },
  };
}

const any = () => true;

/** Every way in which a message comes to the server. */
export const rawProtocols: readonly RawProtocol[] = [
  post("gRPC", "application/grpc", any, enveloped),
  post("gRPC, gzip", "application/grpc+proto", any, (one) => enveloped(gzipSync(one), 1), {
    "grpc-encoding": "gzip",
  }),
  post("gRPC, JSON", "application/grpc+json", any, enveloped),
  post("gRPC-Web", "application/grpc-web+proto", any, enveloped),
  post("gRPC-Web, JSON", "application/grpc-web+json", any, enveloped),
  post("Connect", "application/proto", isUnary, (one) => one),
  post("Connect, gzip", "application/proto", isUnary, gzipSync, { "content-encoding": "gzip" }),
  post("Connect, JSON", "application/json", isUnary, (one) => one),
  post("Connect, stream", "application/connect+proto", (one) => !isUnary(one), enveloped),
  post("Connect, stream, JSON", "application/connect+json", (one) => !isUnary(one), enveloped),
  get("binary", false),
  get("binary", true),
  get("json", false),
];

/**
 * Makes a call of one message, up to its first answer or its end; the failure, where there is one.
 *
 * @param more headers besides those of the protocol
 */
export async function rawCall(
  session: ClientHttp2Session,
  protocol: RawProtocol,
  method: DescMethod,
  message: Uint8Array,
  more: OutgoingHttpHeaders = {},
): Promise<RawFailure | undefined> {
  const { headers, body } = protocol.send(session, method, message);
  const isGet = headers[":method"] === "GET";
  const stream = session.request({ ...headers, te: "trailers", ...more }, { endStream: isGet });
  if (!isGet) stream.end(body);
  let answered: IncomingHttpHeaders & IncomingHttpStatusHeader = {};
  let trailers: IncomingHttpHeaders = {};
  stream.on("response", (some) => {
    answered = some;
  });
  stream.on("trailers", (some) => {
    trailers = some;
  });
  const chunks: Buffer[] = [];
  for await (const chunk of stream) {
    chunks.push(chunk);
    const first = Buffer.concat(chunks);
    // A stream that answers was not refused; many of them never end.
    if (!isUnary(method) && first.length >= 5 && first[0] === 0) {
      stream.destroy();
      return undefined;
    }
  }
  return failureOf(answered, trailers, Buffer.concat(chunks));
}

function failureOf(
  headers: IncomingHttpHeaders & IncomingHttpStatusHeader,
  trailers: IncomingHttpHeaders,
  body: Buffer,
): RawFailure | undefined {
  const type = headers["content-type"] ?? "";
  if (type.startsWith("application/grpc-web")) {
    const at = lastEnvelope(body);
    if (at === undefined || body[at] !== trailerFlag) throw new Error("no trailers came");
    return toFailure(findTrailerError(trailerParse(body.subarray(at + 5))));
  }
  if (type.startsWith("application/grpc")) {
    const all = { ...headers, ...trailers };
    const plain = Object.entries(all).filter(([name]) => /^grpc-/.test(name));
    return toFailure(findTrailerError(new Headers(plain as [string, string][])));
  }
  if (type.startsWith("application/connect")) {
    const at = lastEnvelope(body);
    if (at === undefined || body[at] !== endStreamFlag) throw new Error("no end came");
    return toFailure(createEndStreamSerialization(undefined).parse(body.subarray(at + 5)).error);
  }
  if (headers[":status"] === 200) return undefined;
  const unknown = new ConnectError(`HTTP ${headers[":status"]}`);
  return toFailure(errorFromJsonBytes(body, undefined, unknown));
}

function lastEnvelope(body: Buffer): number | undefined {
  for (let at = 0; at + 5 <= body.length; ) {
    const end = at + 5 + body.readUInt32BE(at + 1);
    if (end === body.length) return at;
    at = end;
  }
  return undefined;
}

function toFailure(error: ConnectError | undefined): RawFailure | undefined {
  if (error === undefined) return undefined;
  return { code: error.code, detail: error.findDetails(ErrorDetailSchema)[0] };
}
