/**
 * HTTP/2 by hand, for what no client would send: frames of any kind on a plain socket
 * (https://www.rfc-editor.org/rfc/rfc9113#name-frame-definitions), headers as literals
 * without indexing or Huffman coding (https://www.rfc-editor.org/rfc/rfc7541#section-6.2.2).
 */
import { once } from "node:events";
import { connect, type Socket } from "node:net";
import type { Target } from "./attack.ts";

/** Numbers of frame types. */
export const types = {
  data: 0,
  headers: 1,
  priority: 2,
  reset: 3,
  settings: 4,
  ping: 6,
  goAway: 7,
  windowUpdate: 8,
  continuation: 9,
} as const;
/** Flags of frames. */
export const flags = { none: 0, endStream: 1, ack: 1, endHeaders: 4 } as const;
/** What a client says first. */
export const preface = Buffer.from("PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n");
const maxFrameBytes = 16_384;

/** One frame. */
export function frame(type: number, flag: number, stream: number, payload: Buffer): Buffer {
  const head = Buffer.alloc(9);
  head.writeUIntBE(payload.length, 0, 3);
  head[3] = type;
  head[4] = flag;
  head.writeUInt32BE(stream, 5);
  return Buffer.concat([head, payload]);
}

/** A SETTINGS frame, by identifier. */
export function settings(values: Readonly<Record<number, number>> = {}): Buffer {
  const payload = Object.entries(values).map(([id, value]) => {
    const bytes = Buffer.alloc(6);
    bytes.writeUInt16BE(Number(id));
    bytes.writeUInt32BE(value, 2);
    return bytes;
  });
  return frame(types.settings, flags.none, 0, Buffer.concat(payload));
}

/** A block of headers. */
function headerBlock(headers: Iterable<readonly [string, string]>): Buffer {
  const parts: Buffer[] = [];
  for (const [name, value] of headers) {
    parts.push(Buffer.of(0), lengthOf(Buffer.byteLength(name)), Buffer.from(name));
    parts.push(lengthOf(Buffer.byteLength(value)), Buffer.from(value));
  }
  return Buffer.concat(parts);
}

/** An integer with a prefix of 7 bits. */
function lengthOf(value: number): Buffer {
  if (value < 127) return Buffer.of(value);
  const bytes = [127];
  let rest = value - 127;
  for (; rest >= 128; rest = Math.floor(rest / 128)) bytes.push((rest % 128) + 128);
  bytes.push(rest);
  return Buffer.from(bytes);
}

/** The headers of a gRPC call. */
export function grpcHeaders(path: string, authority: string): [string, string][] {
  return [
    [":method", "POST"],
    [":scheme", "http"],
    [":path", path],
    [":authority", authority],
    ["content-type", "application/grpc"],
    ["te", "trailers"],
  ];
}

/** A HEADERS frame that begins a stream. */
export function begin(
  stream: number,
  headers: Iterable<readonly [string, string]>,
  flag = 0,
): Buffer {
  return frame(types.headers, flags.endHeaders | flag, stream, headerBlock(headers));
}

/** Bytes as DATA frames; a length in front makes them a gRPC message. */
export function data(stream: number, bytes: Buffer, frameBytes = maxFrameBytes): Buffer {
  const frames: Buffer[] = [];
  for (let at = 0; at < bytes.length; at += frameBytes) {
    frames.push(frame(types.data, flags.none, stream, bytes.subarray(at, at + frameBytes)));
  }
  return Buffer.concat(frames);
}

/** A gRPC message with its head. */
export function envelope(message: Uint8Array, flag = 0): Buffer {
  const head = Buffer.alloc(5);
  head[0] = flag;
  head.writeUInt32BE(message.length, 1);
  return Buffer.concat([head, message]);
}

/** A plain socket to the server; what breaks it is of no interest. */
export class RawConnection {
  readonly socket: Socket;

  private constructor(socket: Socket) {
    this.socket = socket;
  }

  /** Connects; undefined where the server does not take the connection. */
  static async open(
    { host, port, over }: Pick<Target, "host" | "port" | "over">,
    reads = true,
  ): Promise<RawConnection | undefined> {
    const socket = connect({ host, port, noDelay: true });
    socket.on("error", () => undefined);
    if (reads) socket.resume();
    try {
      await once(socket, "connect", { signal: over });
      return new RawConnection(socket);
    } catch {
      socket.destroy();
      return undefined;
    }
  }

  /** Writes, and waits until the kernel has it or the connection is gone. */
  write(bytes: Buffer): Promise<void> {
    if (this.isGone) return Promise.resolve();
    return new Promise((resolve) => {
      const done = () => {
        this.socket.off("close", done);
        resolve();
      };
      this.socket.once("close", done);
      this.socket.write(bytes, done);
    });
  }

  get isGone(): boolean {
    return this.socket.destroyed || this.socket.writableEnded;
  }

  close(): void {
    this.socket.destroy();
  }
}
