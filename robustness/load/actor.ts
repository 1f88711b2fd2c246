/** What all who make load share: where to go, what to write down, when to stop. */
import type { History } from "../history/history.ts";
import type { Random } from "../random.ts";
import { Channel, failureOf } from "./channel.ts";

/** Surroundings of an actor. */
export interface Stage {
  readonly history: History;
  /** URLs of the nodes that clients know, whether they run or not. */
  readonly nodes: readonly string[];
  /** Begins nothing new once this is aborted, and finishes what it has. */
  readonly closing: AbortSignal;
  /** Ends whatever it does. */
  readonly ending: AbortSignal;
}

/** Resolves after so many milliseconds, or when the signal is aborted. */
export function pause(ms: number, signal: AbortSignal): Promise<void> {
  if (signal.aborted) return Promise.resolve();
  return new Promise((resolve) => {
    const done = () => {
      clearTimeout(timer);
      signal.removeEventListener("abort", done);
      resolve();
    };
    const timer = setTimeout(done, ms);
    signal.addEventListener("abort", done);
  });
}

/** Milliseconds that a client waits before it calls again. */
export const backoffMs = { min: 50, max: 400 } as const;

/** Runs something with a channel to one of the nodes, which is closed afterwards. */
export async function withChannel<T>(
  stage: Stage,
  random: Random,
  use: (channel: Channel, node: string) => Promise<T>,
): Promise<T> {
  const node = random.pick(stage.nodes);
  const channel = new Channel(node);
  try {
    return await use(channel, node);
  } finally {
    channel.close();
  }
}

/** Writes down how a call of a producer failed. */
export function noteRefusal(stage: Stage, by: string, error: unknown, run?: string): string {
  const { reason, code, message, isLocal } = failureOf(error as Error);
  stage.history.append({
    t: "refused",
    ...(run === undefined ? {} : { run }),
    by,
    reason,
    code,
    message,
    isLocal,
  });
  return reason;
}
