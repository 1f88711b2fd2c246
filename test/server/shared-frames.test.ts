import assert from "node:assert/strict";
import type { SubscriptionFrame } from "../../src/delivery/frames.ts";
import { subscribe } from "../../src/delivery/subscribe.ts";
import { SharedFrames } from "../../src/server/shared-frames.ts";
import {
  append,
  type Engine,
  engineOver,
  eventOf,
  openRun,
  subscriptionTo,
} from "../support/engine.ts";
import { describeJournal } from "../support/journals.ts";

const appends = 5;

/** Reads live frames and puts them into their envelopes. */
class Subscriber {
  readonly #frames: AsyncGenerator<SubscriptionFrame>;
  readonly #shared: SharedFrames;

  constructor(engine: Engine, shared: SharedFrames, signal: AbortSignal) {
    const scope = { kind: "runs", runIds: ["run"] } as const;
    this.#frames = subscribe(engine, subscriptionTo(scope, { start: { t: "now" } }), signal);
    this.#shared = shared;
  }

  /** Reads up to the next frame of a kind; its envelope, in pieces. */
  async readTo(kind: SubscriptionFrame["t"]): Promise<readonly Uint8Array[]> {
    for (;;) {
      const { value, done } = await this.#frames.next();
      if (done === true) throw new Error("the subscription has ended");
      if (value.t === kind) return this.#shared.piecesOf(value);
    }
  }

  async leave(): Promise<void> {
    await this.#frames.return(undefined);
  }
}

describeJournal("live subscribers of one run", (open) => {
  for (const count of [1, 10, 100]) {
    it(`share the encoding of each frame, ${count} of them`, async () => {
      const opened = await open();
      const engine = engineOver(opened.journal);
      const stop = new AbortController();
      const shared = new SharedFrames();
      const subscribers = Array.from(
        { length: count },
        () => new Subscriber(engine, shared, stop.signal),
      );
      try {
        const producer = await openRun(engine, "run");
        for (const one of subscribers) await one.readTo("caught_up");
        for (let n = 1; n <= appends; n++) {
          const arrived = subscribers.map((one) => one.readTo("events"));
          await append(engine, producer, n, [eventOf(`event ${n}`)]);
          const [first, ...others] = await Promise.all(arrived);
          for (const other of others) assert.deepEqual(other, first);
        }
        const reused = appends * (count - 1);
        assert.deepEqual(shared.counts, { encoded: appends, reused });
      } finally {
        stop.abort();
        await Promise.all(subscribers.map((one) => one.leave()));
        await opened.remove();
      }
    });
  }
});
