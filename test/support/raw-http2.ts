/** HTTP/2 by hand (RFC 9113), for what no client would send. */
import { once } from "node:events";
import * as net from "node:net";

const preface = Buffer.from("PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n");

/** Frame types and flags, those that tests need. */
export const frameType = {
  data: 0,
  headers: 1,
  rstStream: 3,
  settings: 4,
  ping: 6,
  goaway: 7,
} as const;
export const endStream = 1;
export const endHeaders = 4;
const ack = 1;

/** One frame. */
export function frame(type: number, flags: number, streamId: number, payload: Uint8Array): Buffer {
  const header = Buffer.alloc(9);
  header.writeUIntBE(payload.length, 0, 3);
  header[3] = type;
  header[4] = flags;
  header.writeUInt32BE(streamId, 5);
  return Buffer.concat([header, payload]);
}

/** What a client begins a connection with. */
const clientStart = Buffer.concat([preface, frame(frameType.settings, 0, 0, Buffer.alloc(0))]);

/** Header fields as HPACK's literals without indexing, of less than 127 bytes each. */
export function fields(pairs: Readonly<Record<string, string>>): Buffer {
  const text = (value: string) => {
    const bytes = Buffer.from(value, "latin1");
    return Buffer.concat([Buffer.of(bytes.length), bytes]);
  };
  return Buffer.concat(
    Object.entries(pairs).flatMap(([name, value]) => [Buffer.of(0), text(name), text(value)]),
  );
}

/** A frame that was received. */
export interface RawFrame {
  readonly type: number;
  readonly flags: number;
  readonly streamId: number;
  readonly payload: Buffer;
}

/** A connection whose frames are written by hand. */
export class RawConnection {
  readonly socket: net.Socket;
  readonly #frames: RawFrame[] = [];
  #buffer = Buffer.alloc(0);
  #wake: () => void = () => undefined;

  constructor(url: string) {
    const { hostname, port } = new URL(url);
    this.socket = net.connect({ host: hostname, port: Number(port), noDelay: true });
    this.socket.on("error", () => undefined);
    this.socket.on("data", (chunk: Buffer) => this.#take(chunk));
    this.socket.on("close", () => this.#wake());
    this.socket.write(clientStart);
  }

  /** Writes bytes; resolves once the kernel has them. */
  async send(...bytes: readonly Uint8Array[]): Promise<void> {
    if (!this.socket.write(Buffer.concat(bytes))) await once(this.socket, "drain");
  }

  /** The next frame of some types; undefined where the connection closes before. One call at a time. */
  async receive(...types: readonly number[]): Promise<RawFrame | undefined> {
    for (;;) {
      const index = this.#frames.findIndex((one) => types.includes(one.type));
      if (index >= 0) return this.#frames.splice(index, 1)[0];
      if (this.socket.closed) return undefined;
      await new Promise<void>((resolve) => {
        this.#wake = resolve;
      });
    }
  }

  close(): void {
    this.socket.destroy();
  }

  #take(chunk: Buffer): void {
    this.#buffer = Buffer.concat([this.#buffer, chunk]);
    while (this.#buffer.length >= 9) {
      const length = this.#buffer.readUIntBE(0, 3);
      if (this.#buffer.length < 9 + length) break;
      const [type, flags] = [this.#buffer[3]!, this.#buffer[4]!];
      const streamId = this.#buffer.readUInt32BE(5) & 0x7fffffff;
      const payload = this.#buffer.subarray(9, 9 + length);
      this.#buffer = this.#buffer.subarray(9 + length);
      if (type === frameType.settings && (flags & ack) === 0) {
        this.socket.write(frame(frameType.settings, ack, 0, Buffer.alloc(0)));
      }
      this.#frames.push({ type, flags, streamId, payload });
    }
    this.#wake();
  }
}
