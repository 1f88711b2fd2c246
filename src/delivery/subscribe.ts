/**
 * One subscription on a stream of its own. Take the next page after the cursor,
 * hand it over, move the cursor; where there is no page, wait for a wake-up or
 * for the progress interval. History and live are the same loop.
 *
 * Between two frames it holds one page at most, which goes where its memory is
 * needed, so a subscriber that does not read costs the frame that it was sent and
 * delays nobody.
 */

import { yieldToEventLoop } from "../event-loop.ts";
import { QuietTimer } from "../quiet-timer.ts";
import { Wakeup } from "../wakeup.ts";
import type { SubscriptionFrame } from "./frames.ts";
import { Subscription } from "./subscription.ts";
import type { DeliveryOptions, SubscriptionSpec } from "./subscription-spec.ts";

/**
 * Delivers a subscription until it ends by itself or `signal` aborts; then the
 * generator returns, and who aborted knows why.
 *
 * @throws RefusedError where the subscription cannot start or go on
 */
export async function* subscribe(
  options: DeliveryOptions,
  spec: SubscriptionSpec,
  signal: AbortSignal,
): AsyncGenerator<SubscriptionFrame> {
  const wakeup = new Wakeup();
  const subscription = new Subscription(options, spec, wakeup.wake);
  const quiet = new QuietTimer(spec.progressIntervalMs, () => {
    subscription.tick();
    wakeup.wake();
  });
  try {
    while (!signal.aborted) {
      wakeup.reset();
      const { frames, next } = await subscription.step();
      for (const frame of frames) if (frame.t !== "filter_changed") yield frame;
      if (frames.length > 0) quiet.note();
      if (next === "ended") return;
      if (next === "more") {
        if (frames.length === 0) await yieldToEventLoop();
      } else {
        await wakeup.wait(signal);
      }
    }
  } finally {
    quiet.close();
    subscription.close();
  }
}
