import type { SubscriptionFrame } from "../delivery/frames.ts";
import { envelop } from "../wire/envelope.ts";
import { type GoAwayFrame, toSubscribeBytes } from "./messages.ts";

/** Frames that are kept: subscribers at different places take turns. */
const maxFrames = 8;
/** Records of a frame that is kept, in bytes: a page of history is read once by each. */
const maxBytes = 64 * 1024;

interface Shared {
  readonly parts: readonly Uint8Array[];
  readonly pieces: readonly Uint8Array[];
}

/**
 * Frames of records that go to many subscribers are put into their envelope
 * once: live subscribers of one run, or of its ancestors, are at the same place
 * and get the same records one after the other.
 */
export class SharedFrames {
  readonly #recent: Shared[] = [];
  #encoded = 0;
  #reused = 0;

  /** Frames of records that were put together, and that were there already. */
  get counts(): { readonly encoded: number; readonly reused: number } {
    return { encoded: this.#encoded, reused: this.#reused };
  }

  /** A frame in its envelope, in pieces. */
  piecesOf(frame: SubscriptionFrame | GoAwayFrame): readonly Uint8Array[] {
    if (frame.t !== "events") return envelop([toSubscribeBytes(frame)]);
    const { parts } = frame;
    const known = this.#recent.find((one) => isSame(one.parts, parts));
    if (known !== undefined) {
      this.#reused++;
      return known.pieces;
    }
    this.#encoded++;
    const pieces = envelop([toSubscribeBytes(frame)]);
    if (parts.reduce((sum, part) => sum + part.length, 0) > maxBytes) return pieces;
    this.#recent.unshift({ parts, pieces });
    if (this.#recent.length > maxFrames) this.#recent.pop();
    return pieces;
  }
}

/** Whether two frames are of the same bytes in memory, which the tail hands to everybody. */
function isSame(some: readonly Uint8Array[], others: readonly Uint8Array[]): boolean {
  return some.length === others.length && some.every((part, index) => part === others[index]);
}
