/**
 * The body of a request for Connect's handlers: its messages in their
 * envelopes, or the one message that it is.
 *
 * A handler can do nothing with a part of a message, and keeps each piece that it
 * is given until the message is whole, so it is not given small ones.
 */
import { type Arrivals, joined } from "./arrivals.ts";

const headerBytes = 5;
/** Bytes from which on a part of a message is passed on. */
const partBytes = 16 * 1024;

/** Follows the envelopes of a body by their lengths alone. */
class Envelopes {
  readonly #header = Buffer.alloc(headerBytes);
  #headerFilled = 0;
  #bodyLeft = 0;

  /** Whether a message has begun and not ended. */
  get isInside(): boolean {
    return this.#headerFilled > 0;
  }

  /** Takes the next bytes; whether a message ended in them, or the length of one is known now. */
  take(chunk: Uint8Array): { readonly hasEnded: boolean; readonly hasHeader: boolean } {
    let hasEnded = false;
    let hasHeader = false;
    for (let at = 0; at < chunk.length; ) {
      if (this.#headerFilled < headerBytes) {
        this.#header[this.#headerFilled++] = chunk[at++]!;
        if (this.#headerFilled < headerBytes) continue;
        this.#bodyLeft = this.#header.readUInt32BE(1);
        hasHeader = true;
      } else {
        const taken = Math.min(this.#bodyLeft, chunk.length - at);
        this.#bodyLeft -= taken;
        at += taken;
      }
      if (this.#bodyLeft === 0) {
        this.#headerFilled = 0;
        hasEnded = true;
      }
    }
    return { hasEnded, hasHeader };
  }
}

/**
 * Passes a request's body on.
 *
 * @param isEnveloped false: the whole body is one message
 * @throws ConnectError where a message is late, or the client disconnects
 */
export async function* bodyPieces(
  arrivals: Arrivals,
  isEnveloped: boolean,
): AsyncGenerator<Uint8Array> {
  const envelopes = new Envelopes();
  let held: Buffer | undefined;
  let heldBytes = 0;
  /** Of the message that has begun, and of what arrived with its beginning. */
  let messageBytes = 0;
  try {
    for (;;) {
      const isInside = !isEnveloped || envelopes.isInside;
      // At least a byte: a message that is not enveloped has begun before it is seen.
      const pieces = await arrivals.take(isInside ? Math.max(1, messageBytes) : 0);
      if (pieces === undefined) break;
      const chunk = joined(pieces);
      const { hasEnded, hasHeader } = isEnveloped ? envelopes.take(chunk) : inOneMessage;
      if (hasEnded) {
        arrivals.startMessage();
        messageBytes = 0;
      }
      messageBytes += chunk.length;
      // A length is passed on at once: it may be refused.
      if (!hasEnded && !hasHeader && heldBytes + chunk.length < partBytes) {
        held ??= Buffer.allocUnsafe(partBytes);
        held.set(chunk, heldBytes);
        heldBytes += chunk.length;
        continue;
      }
      yield held === undefined ? chunk : Buffer.concat([held.subarray(0, heldBytes), chunk]);
      held = undefined;
      heldBytes = 0;
    }
    if (held !== undefined) yield held.subarray(0, heldBytes);
  } finally {
    arrivals.close();
  }
}

const inOneMessage = { hasEnded: false, hasHeader: false };
