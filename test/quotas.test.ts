/** Quotas and their rates, with a clock that the tests set. */
import assert from "node:assert/strict";
import fc from "fast-check";
import { noQuotas, type QuotaClock, type QuotaLimits, Quotas } from "../src/quotas.ts";
import { Rate } from "../src/rate.ts";
import { type Refusal, RefusedError } from "../src/refusal.ts";

/** Time that stands still unless it is moved. */
class Clock implements QuotaClock {
  nowMs = 0;
  readonly #timers = new Set<{ readonly atMs: number; readonly callback: () => void }>();

  now(): number {
    return this.nowMs;
  }

  after(ms: number, callback: () => void): () => void {
    const timer = { atMs: this.nowMs + ms, callback };
    this.#timers.add(timer);
    return () => this.#timers.delete(timer);
  }

  get timers(): number {
    return this.#timers.size;
  }

  /** Lets time pass, timer by timer; what they wake runs before the next one. */
  async pass(ms: number): Promise<void> {
    const untilMs = this.nowMs + ms;
    await settled();
    for (;;) {
      const [next] = [...this.#timers].toSorted((a, b) => a.atMs - b.atMs);
      if (next === undefined || next.atMs > untilMs) break;
      this.#timers.delete(next);
      this.nowMs = next.atMs;
      next.callback();
      await settled();
    }
    this.nowMs = untilMs;
  }
}

/** Resolves once everything that needs no time has run. */
const settled = () => new Promise<void>((resolve) => void setImmediate(resolve));

const limited = (limits: Partial<QuotaLimits>): QuotaLimits => ({ ...noQuotas, ...limits });
const signal = new AbortController().signal;

function refusalBy(call: () => unknown): Refusal {
  try {
    call();
  } catch (error) {
    if (error instanceof RefusedError) return error.refusal;
    throw error;
  }
  throw new Error("it was not refused");
}

describe("a rate", () => {
  const step = fc.record({ passMs: fc.nat(3_000), more: fc.integer({ min: 1, max: 40 }) });

  it("lets through what the limit allows in any stretch, and one period's more", () => {
    fc.assert(
      fc.property(fc.integer({ min: 1, max: 50 }), fc.array(step), (limit, steps) => {
        const clock = new Clock();
        const rate = new Rate(1_000, () => clock.now());
        const taken: { readonly atMs: number; readonly more: number }[] = [];
        for (const { passMs, more } of steps) {
          clock.nowMs += passMs;
          if (rate.msUntil(limit, more) > 0) continue;
          assert.ok(rate.tryAdd(limit, more));
          taken.push({ atMs: clock.nowMs, more });
        }
        for (const [first, { atMs: fromMs }] of taken.entries()) {
          let sum = 0;
          for (const { atMs, more } of taken.slice(first)) {
            sum += more;
            assert.ok(sum <= limit + ((atMs - fromMs) * limit) / 1_000 + 1e-6);
          }
        }
      }),
    );
  });

  it("tells when there is room, and there is", () => {
    fc.assert(
      fc.property(fc.integer({ min: 1, max: 50 }), fc.array(step), (limit, steps) => {
        const clock = new Clock();
        const rate = new Rate(1_000, () => clock.now());
        for (const { passMs, more } of steps) {
          clock.nowMs += passMs;
          if (more > limit) continue;
          clock.nowMs += Math.ceil(rate.msUntil(limit, more));
          assert.equal(rate.msUntil(limit, more), 0);
          assert.ok(rate.tryAdd(limit, more));
        }
      }),
    );
  });
});

describe("a quota", () => {
  it("of a count refuses what is over it, and says when to ask again", () => {
    const usage = new Quotas(new Clock()).of("a", limited({ streams: 1 }));
    usage.take("streams");
    const refusal = refusalBy(() => usage.take("streams"));
    assert.ok(refusal.reason === "quota" && refusal.limit === 1 && refusal.retryAfterMs === 1_000);
    usage.give("streams");
    usage.take("streams");
  });

  it("that can never hold as much does not ask to be asked again", () => {
    const usage = new Quotas(new Clock()).of("a", limited({ streams: 0, subscriptions: 2 }));
    for (const call of [() => usage.take("streams"), () => usage.check("subscriptions", 3)]) {
      const refusal = refusalBy(call);
      assert.ok(refusal.reason === "quota" && refusal.retryAfterMs === undefined);
    }
    const never = new Quotas(new Clock()).of("b", limited({ runsPerMinute: 0 }));
    const refusal = never.creation().run();
    assert.ok(refusal?.reason === "quota" && refusal.retryAfterMs === undefined);
  });

  it("of runs is taken once by an operation that is tried again, and comes back with time", async () => {
    const clock = new Clock();
    const usage = new Quotas(clock).of("a", limited({ runsPerMinute: 2 }));
    const first = usage.creation();
    for (let tries = 0; tries < 3; tries++) assert.equal(first.run(), undefined);
    assert.equal(usage.creation().run(), undefined);
    const third = usage.creation();
    const refusal = third.run();
    assert.ok(refusal?.reason === "quota" && refusal.retryAfterMs === 30_000);
    await clock.pass(30_000);
    assert.equal(third.run(), undefined);
    assert.notEqual(usage.creation().run(), undefined);
  });

  it("is another one's with another identity, and changes with the limits", () => {
    const quotas = new Quotas(new Clock());
    const one = limited({ openRuns: 1 });
    quotas.of("a", one).take("openRuns");
    quotas.of("b", one).take("openRuns");
    refusalBy(() => quotas.of("a", one).take("openRuns"));
    quotas.of("a", limited({ openRuns: 2 })).take("openRuns");
    assert.deepEqual([quotas.of("a", one).count("openRuns")], [2]);
  });

  it("is an identity's as it was last said, and else the default", () => {
    const quotas = new Quotas(new Clock());
    quotas.defaults = limited({ streams: 3 });
    assert.equal(quotas.of("a", undefined).limits.streams, 3);
    quotas.limit("a", limited({ streams: 5 }));
    assert.equal(quotas.of("a", undefined).limits.streams, 5);
    quotas.limit("b", limited({ streams: 5 }));
    assert.equal(quotas.of("b", undefined).limits.streams, 3);
  });

  it("is forgotten of an identity that uses nothing, and not before", async () => {
    const clock = new Clock();
    const quotas = new Quotas(clock);
    const limits = limited({ runsPerMinute: 1 });
    quotas.of("idle", limits);
    quotas.of("holds", limits).take("streams");
    quotas.of("made", limits).creation().run();
    quotas.sweep();
    assert.equal(quotas.size, 2);
    quotas.of("holds", limits).give("streams");
    await clock.pass(60_000);
    quotas.sweep();
    assert.equal(quotas.size, 0);
  });

  it("takes bounded memory, however many identities come", () => {
    const quotas = new Quotas(new Clock());
    for (let n = 0; n < 10_000; n++) quotas.of(`identity-${n}`, noQuotas);
    assert.ok(quotas.size <= 1_024, `${quotas.size}`);
  });
});

describe("a quota of bytes", () => {
  const KiB = 1_024;
  const maxWaiting = 8 * KiB;

  /** Windows in turn; the time at which each was taken. */
  function windows(clock: Clock, bytesPerSecond = KiB) {
    const usage = new Quotas(clock).of("a", limited({ bytesPerSecond }));
    const taken: [name: string, atMs: number][] = [];
    const send = (name: string, bytes: number) =>
      usage.admitWindow(bytes, maxWaiting, signal).then(() => {
        taken.push([name, clock.nowMs]);
      });
    return { usage, taken, send };
  }

  it("delays, in order, until the rate is kept, and drops nothing", async () => {
    const clock = new Clock();
    const { taken, send } = windows(clock);
    const sent = ["a", "b", "c", "d"].map((name) => send(name, 2 * KiB));
    await clock.pass(60_000);
    await Promise.all(sent);
    assert.deepEqual(taken, [
      ["a", 0],
      ["b", 1_000],
      ["c", 3_000],
      ["d", 5_000],
    ]);
    assert.equal(clock.timers, 0);
  });

  it("waits for nothing without events", async () => {
    const { taken, send } = windows(new Clock());
    await send("large", 100 * KiB);
    await send("finish", 0);
    assert.equal(taken.length, 2);
  });

  it("refuses windows where as much waits already as may, and says when to ask again", async () => {
    const clock = new Clock();
    const { taken, send } = windows(clock);
    await send("first", 3 * KiB);
    const waiting = [send("second", 6 * KiB), send("third", 2 * KiB)];
    await assert.rejects(send("fourth", 1), (error: unknown) => {
      const { refusal } = error as RefusedError;
      // What was taken and what waits, 11 KiB, less what fits into the first second.
      return refusal.reason === "quota" && refusal.retryAfterMs === 10_000;
    });
    await clock.pass(60_000);
    await Promise.all(waiting);
    assert.deepEqual(
      taken.map(([name]) => name),
      ["first", "second", "third"],
    );
  });

  it("lets go of a caller that has left", async () => {
    const clock = new Clock();
    const { usage, send } = windows(clock);
    await send("first", 3 * KiB);
    const left = new AbortController();
    const waiting = usage.admitWindow(KiB, maxWaiting, left.signal);
    left.abort(new Error("gone"));
    await assert.rejects(waiting, /gone/);
    assert.equal(clock.timers, 0);
    await clock.pass(3_000);
    assert.ok(usage.isIdle);
  });

  it("that is lifted lets go of those who wait", async () => {
    const clock = new Clock();
    const { usage, taken, send } = windows(clock);
    await send("first", 1_000 * KiB);
    const second = send("second", KiB);
    usage.limits = noQuotas;
    await clock.pass(1_000);
    await second;
    assert.deepEqual(taken.at(-1), ["second", 1_000]);
  });
});
