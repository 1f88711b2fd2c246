import assert from "node:assert/strict";
import { Wakeup } from "../src/wakeup.ts";

describe("a wake-up", () => {
  /** Whether `wait` has ended once everything that is ready has run. */
  const hasEnded = async (wait: Promise<void>): Promise<boolean> => {
    const turn = new Promise<boolean>((resolve) => setImmediate(resolve, false));
    return Promise.race([wait.then(() => true), turn]);
  };

  it("ends the wait that is under way", async () => {
    const wakeup = new Wakeup();
    const wait = wakeup.wait();
    assert.equal(await hasEnded(wait), false);
    wakeup.wake();
    assert.equal(await hasEnded(wait), true);
  });

  it("ends the next wait where it comes while nobody waits, and only that one", async () => {
    const wakeup = new Wakeup();
    wakeup.wake();
    wakeup.wake();
    assert.equal(await hasEnded(wakeup.wait()), true);
    const wait = wakeup.wait();
    assert.equal(await hasEnded(wait), false);
    wakeup.wake();
    assert.equal(await hasEnded(wait), true);
    assert.equal(await hasEnded(wakeup.wait()), false);
  });

  it("is forgotten by a waiter that looks afterwards", async () => {
    const wakeup = new Wakeup();
    wakeup.wake();
    wakeup.reset();
    const wait = wakeup.wait();
    assert.equal(await hasEnded(wait), false);
    wakeup.wake();
    assert.equal(await hasEnded(wait), true);
  });

  it("need not come where the signal aborts", async () => {
    const wakeup = new Wakeup();
    const ending = new AbortController();
    const wait = wakeup.wait(ending.signal);
    assert.equal(await hasEnded(wait), false);
    ending.abort();
    assert.equal(await hasEnded(wait), true);
    assert.equal(await hasEnded(wakeup.wait(ending.signal)), true);
  });
});
