import { SenderClosedError } from "./errors.ts";
import type { SenderState } from "./sender-types.ts";

/** Whether a sender is over. */
export function isFinal(state: SenderState): boolean {
  return state.t === "ended" || state.t === "closed" || state.t === "failed";
}

/** The error for calls to a sender that has ended. */
export function finalError(state: SenderState): Error {
  switch (state.t) {
    case "failed":
      return state.error;
    case "ended":
      return new SenderClosedError("the run has ended");
    default:
      return new SenderClosedError("the sender is closed");
  }
}
