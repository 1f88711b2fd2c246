/**
 * The body of a request on its way to Connect's handlers: each message is
 * decompressed, parsed and kept (`request-messages.ts`), and an empty one goes
 * on in its place. A request by GET has its message in its address.
 */
import type { DescMethod } from "@bufbuild/protobuf";
import { base64Decode } from "@bufbuild/protobuf/wire";
import { Code, ConnectError } from "@connectrpc/connect";
import type { Compression, UniversalServerRequest } from "@connectrpc/connect/protocol";
import { invalidField } from "../../refusal.ts";
import { compressedFlag, EnvelopeReader, envelopTogether } from "../../wire/envelope.ts";
import { type OnUnexpected, toConnectError, toEnvelopeFailure, tooLargeError } from "../errors.ts";
import { parserOf, type RequestFormat, type RequestMessages } from "../request-messages.ts";

/** How to read requests. */
export interface RequestReading {
  readonly compressions: readonly Compression[];
  /** Bytes of one message, decompressed or not. */
  readonly maxBytes: number;
  readonly onUnexpected: OnUnexpected;
}

/** How to read one request. */
interface Reading extends RequestReading {
  readonly messages: RequestMessages;
  readonly format: RequestFormat;
  readonly parse: (bytes: Uint8Array) => unknown;
}

/** A request of bytes. */
type ByteRequest = UniversalServerRequest & { readonly body: AsyncIterable<Uint8Array> };

/**
 * A request without its messages.
 *
 * @param messages where its messages go
 */
export async function withoutMessages(
  method: DescMethod,
  asked: ByteRequest,
  messages: RequestMessages,
  options: RequestReading,
): Promise<ByteRequest> {
  const format = formatOf(asked);
  const reading = { ...options, messages, format, parse: parserOf(method, format) };
  if (asked.method === "GET") return { ...asked, url: await takeFromUrl(asked.url, reading) };
  const { header, body } = asked;
  if (isEnveloped(header)) {
    const name = header.get("grpc-encoding") ?? header.get("connect-content-encoding");
    const compression = compressionOf(name, reading);
    // Connect refuses it, and says which it knows.
    if (compression === "unknown") return asked;
    return { ...asked, body: takeEnveloped(body, compression, reading) };
  }
  const compression = compressionOf(header.get("content-encoding"), reading);
  if (compression === "unknown") return asked;
  const announced = Number(header.get("content-length") ?? 0);
  const bare = new Headers(header);
  bare.delete("content-encoding");
  bare.delete("content-length");
  return { ...asked, header: bare, body: takeWhole(body, announced, compression, reading) };
}

/**
 * A request that is refused before any of it is read: its first message is the refusal,
 * so that it is answered as its protocol has it.
 */
export function refusedRequest(
  asked: ByteRequest,
  messages: RequestMessages,
  refusal: ConnectError,
): ByteRequest {
  const format = formatOf(asked);
  messages.push(() => {
    throw refusal;
  });
  if (asked.method === "GET") return { ...asked, url: withoutMessage(new URL(asked.url), format) };
  const header = new Headers(asked.header);
  const encodings = ["content-encoding", "grpc-encoding", "connect-content-encoding"];
  for (const name of [...encodings, "content-length"]) header.delete(name);
  const empty = (isEnveloped(header) ? emptyEnvelopes : emptyMessages)[format];
  return { ...asked, header, body: once(empty) };
}

async function* once(bytes: Uint8Array): AsyncGenerator<Uint8Array> {
  yield bytes;
}

/** Whether a request's messages are in envelopes; the body of Connect's unary calls is one message. */
export function isEnveloped(header: Headers): boolean {
  return !/^application\/(json|proto)\b/.test(header.get("content-type") ?? "");
}

/** As application/json, application/connect+json, application/grpc-web+json. */
function formatOf({ method, url, header }: UniversalServerRequest): RequestFormat {
  const isJson =
    method === "GET"
      ? new URL(url).searchParams.get("encoding") === "json"
      : /\bjson\b/.test(header.get("content-type") ?? "");
  return isJson ? "json" : "binary";
}

function compressionOf(
  name: string | null,
  { compressions }: Reading,
): Compression | undefined | "unknown" {
  if (name === null || name === "" || name === "identity") return undefined;
  return compressions.find((one) => one.name === name) ?? "unknown";
}

/** Takes the message of a GET; the address without it. */
async function takeFromUrl(url: string, reading: Reading): Promise<string> {
  const bare = new URL(url);
  const { searchParams: asked } = bare;
  const compression = compressionOf(asked.get("compression"), reading);
  if (compression === "unknown") return url;
  const text = asked.get("message") ?? "";
  await take(reading, async () => {
    const bytes = asked.get("base64") === "1" ? decodeBase64(text) : Buffer.from(text);
    return decompressed(bytes, compression, reading);
  });
  return withoutMessage(bare, reading.format);
}

function withoutMessage(url: URL, format: RequestFormat): string {
  const { searchParams: asked } = url;
  asked.delete("compression");
  asked.delete("base64");
  asked.set("message", format === "json" ? "{}" : "");
  return url.href;
}

function decodeBase64(text: string): Uint8Array {
  try {
    return base64Decode(text);
  } catch {
    throw invalidField("message", "is not base64");
  }
}

async function* takeWhole(
  body: AsyncIterable<Uint8Array>,
  announcedBytes: number,
  compression: Compression | undefined,
  reading: Reading,
): AsyncGenerator<Uint8Array> {
  if (announcedBytes > reading.maxBytes) throw tooLarge(reading);
  const chunks: Uint8Array[] = [];
  let size = 0;
  for await (const chunk of body) {
    size += chunk.length;
    if (size > reading.maxBytes) throw tooLarge(reading);
    chunks.push(chunk);
  }
  const bytes = chunks.length === 1 ? chunks[0]! : Buffer.concat(chunks, size);
  await take(reading, () => decompressed(bytes, compression, reading));
  yield emptyMessages[reading.format];
}

async function* takeEnveloped(
  body: AsyncIterable<Uint8Array>,
  compression: Compression | undefined,
  reading: Reading,
): AsyncGenerator<Uint8Array> {
  const reader = new EnvelopeReader(reading.maxBytes);
  for await (const chunk of body) {
    const messages: Uint8Array[] = [];
    const flags: number[] = [];
    let failure: ConnectError | undefined;
    try {
      reader.take(chunk, messages, flags);
    } catch (error) {
      // Those before it come first.
      failure = toEnvelopeFailure(error, reading.maxBytes);
    }
    for (const [index, message] of messages.entries()) {
      const isCompressed = flags[index] === compressedFlag;
      if (!isCompressed && flags[index] !== 0) {
        throw new ConnectError("protocol error: unknown flags", Code.InvalidArgument);
      }
      await take(reading, () => {
        if (!isCompressed) return message;
        if (compression === undefined) {
          throw invalidField("request", "is compressed, but the call names no encoding");
        }
        return decompressed(message, compression, reading);
      });
      yield emptyEnvelopes[reading.format];
    }
    if (failure !== undefined) throw failure;
  }
  if (reader.isInside) {
    throw new ConnectError("protocol error: incomplete envelope", Code.InvalidArgument);
  }
}

/** Parses a message, and keeps it or its error. */
async function take(
  { messages, parse, onUnexpected }: Reading,
  bytes: () => Uint8Array | Promise<Uint8Array>,
): Promise<void> {
  try {
    const message = parse(await bytes());
    messages.push(() => message);
  } catch (error) {
    const refused = toConnectError(error, onUnexpected);
    messages.push(() => {
      throw refused;
    });
  }
}

async function decompressed(
  bytes: Uint8Array,
  compression: Compression | undefined,
  reading: Reading,
): Promise<Uint8Array> {
  if (compression === undefined) return bytes;
  try {
    return await compression.decompress(bytes, reading.maxBytes);
  } catch (error) {
    if (error instanceof ConnectError && error.code === Code.ResourceExhausted) {
      throw tooLarge(reading);
    }
    throw invalidField("request", `is not compressed with ${compression.name}`);
  }
}

function tooLarge({ maxBytes }: Reading): ConnectError {
  return tooLargeError("request", maxBytes);
}

const emptyMessages: Readonly<Record<RequestFormat, Uint8Array>> = {
  binary: new Uint8Array(0),
  json: Buffer.from("{}"),
};

const emptyEnvelopes: Readonly<Record<RequestFormat, Uint8Array>> = {
  binary: envelopTogether([emptyMessages.binary]),
  json: envelopTogether([emptyMessages.json]),
};
