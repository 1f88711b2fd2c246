/**
 * Bounds the time that one message may take to arrive. A client that announces
 * a message and never sends the rest would otherwise hold its buffer for ever;
 * between messages a stream may be silent for as long as it likes.
 *
 * gRPC, gRPC-Web and Connect's streams put five bytes before a message: flags,
 * and its length as a big-endian number
 * (https://github.com/grpc/grpc/blob/master/doc/PROTOCOL-HTTP2.md).
 */
import { Code, ConnectError } from "@connectrpc/connect";

const headerBytes = 5;

/** Follows the envelopes of a body by their lengths alone. */
class Envelopes {
  readonly #header = Buffer.alloc(headerBytes);
  #headerFilled = 0;
  #bodyLeft = 0;

  /** Whether a message has begun and not ended. */
  get isInside(): boolean {
    return this.#headerFilled > 0;
  }

  /** Takes the next bytes; returns whether a message ended in them. */
  take(chunk: Uint8Array): boolean {
    let ended = false;
    for (let at = 0; at < chunk.length; ) {
      if (this.#headerFilled < headerBytes) {
        this.#header[this.#headerFilled++] = chunk[at++]!;
        if (this.#headerFilled < headerBytes) continue;
        this.#bodyLeft = this.#header.readUInt32BE(1);
      } else {
        const taken = Math.min(this.#bodyLeft, chunk.length - at);
        this.#bodyLeft -= taken;
        at += taken;
      }
      if (this.#bodyLeft === 0) {
        this.#headerFilled = 0;
        ended = true;
      }
    }
    return ended;
  }
}

/**
 * Passes a request's body on, and throws DEADLINE_EXCEEDED where a message does
 * not arrive in time.
 *
 * @param isEnveloped false: the whole body is one message
 */
export async function* withMessageDeadline(
  body: AsyncIterable<Uint8Array>,
  isEnveloped: boolean,
  timeoutMs: number,
): AsyncGenerator<Uint8Array> {
  const chunks = body[Symbol.asyncIterator]();
  const envelopes = new Envelopes();
  const late = Promise.withResolvers<never>();
  // Also where nobody waits for it at that moment.
  late.promise.catch(() => undefined);
  let timer: NodeJS.Timeout | undefined;
  const start = () => {
    timer ??= setTimeout(() => {
      const problem = `a message took longer than ${timeoutMs} ms to arrive`;
      late.reject(new ConnectError(problem, Code.DeadlineExceeded));
    }, timeoutMs);
  };
  const stop = () => {
    clearTimeout(timer);
    timer = undefined;
  };
  try {
    if (!isEnveloped) start();
    for (;;) {
      const next = chunks.next();
      const { done, value } =
        timer === undefined ? await next : await Promise.race([next, late.promise]);
      if (done === true) return;
      if (isEnveloped) {
        if (envelopes.take(value)) stop();
        if (envelopes.isInside) start();
      }
      yield value;
    }
  } finally {
    stop();
  }
}
