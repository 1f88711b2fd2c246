/**
 * How gRPC writes a status message into a trailer: "%" and whatever is not
 * printable ASCII are percent-encoded, and nothing else
 * (https://github.com/grpc/grpc/blob/master/doc/PROTOCOL-HTTP2.md#responses).
 * Connect encodes more than that, and @grpc/grpc-js decodes no more: its users
 * would read "%3A" for a colon.
 */
import type { OutgoingHttpHeaders } from "node:http";
import type { PortResponse } from "./port.ts";

const field = "grpc-message";

/** Makes the message in a response's trailers as gRPC writes it. */
export function writePlainMessage(response: PortResponse): void {
  const addTrailers = response.addTrailers.bind(response) as (all: OutgoingHttpHeaders) => void;
  response.addTrailers = (trailers: OutgoingHttpHeaders) => {
    const message = trailers[field];
    addTrailers(
      typeof message === "string"
        ? { ...trailers, [field]: percentEncode(decodeURIComponent(message)) }
        : trailers,
    );
  };
}

/** Encodes a message as gRPC says. */
export function percentEncode(message: string): string {
  return message.replace(/[^\x20-\x24\x26-\x7e]+/gu, encodeURIComponent);
}
