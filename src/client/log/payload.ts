/** What events carry, between JSON, text and bytes. */

/** JSON, text or bytes. A string is text, an array buffer or a view of one is bytes, all else is JSON. */
export type EventData = string | number | boolean | object | null;

/** Data as it is recorded. */
export interface EncodedData {
  readonly data: Uint8Array;
  readonly contentType: string;
}

const encoder = new TextEncoder();
const decoder = new TextDecoder();

/** @throws TypeError where JSON cannot hold it: cycles, bigint, functions */
export function encodeData(data: EventData | undefined): EncodedData {
  if (data === undefined) return { data: new Uint8Array(), contentType: "" };
  if (typeof data === "string") {
    return { data: encoder.encode(data), contentType: "text/plain" };
  }
  if (data instanceof Uint8Array) return { data, contentType: "application/octet-stream" };
  if (ArrayBuffer.isView(data)) {
    const { buffer, byteOffset, byteLength } = data;
    const bytes = new Uint8Array(buffer, byteOffset, byteLength);
    return { data: bytes, contentType: "application/octet-stream" };
  }
  if (data instanceof ArrayBuffer) {
    return { data: new Uint8Array(data), contentType: "application/octet-stream" };
  }
  return { data: encoder.encode(jsonOf(data)), contentType: "application/json" };
}

function jsonOf(data: EventData): string {
  let json: string | undefined;
  try {
    json = JSON.stringify(data);
  } catch (cause) {
    const why = cause instanceof Error ? cause.message : String(cause);
    throw new TypeError(`data: it cannot be written as JSON: ${why}`, { cause });
  }
  if (json === undefined) throw new TypeError(`data: JSON has no ${typeof data}`);
  return json;
}

/** What was sent, to be read as JSON, text or bytes. */
export class Payload {
  /** Empty where there is nothing. Shares the memory of the message that it came with. */
  readonly bytes: Uint8Array;
  /** Its media type: "application/json", "text/plain" or what its sender says; "" where unset. */
  readonly contentType: string;

  constructor(bytes: Uint8Array, contentType: string) {
    this.bytes = bytes;
    this.contentType = contentType;
  }

  /** The bytes as UTF-8. */
  text(): string {
    return decoder.decode(this.bytes);
  }

  /**
   * The bytes as JSON; undefined where there are none.
   *
   * @throws SyntaxError where they are no JSON
   */
  json<T = unknown>(): T {
    return (this.bytes.length === 0 ? undefined : JSON.parse(this.text())) as T;
  }
}
