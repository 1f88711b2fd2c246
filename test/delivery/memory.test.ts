/** What subscribers hold, and what becomes of it where the memory is needed for others. */
import assert from "node:assert/strict";
import type { Filter } from "../../src/delivery/filter.ts";
import { subscribe } from "../../src/delivery/subscribe.ts";
import { Watch } from "../../src/delivery/watch.ts";
import type { Journal } from "../../src/journal/journal.ts";
import {
  append,
  engineOver,
  eventOf,
  openRun,
  recordsIn,
  subscriptionTo,
} from "../support/engine.ts";
import { describeJournal } from "../support/journals.ts";

const KiB = 1024;
const MiB = 1024 * KiB;

describeJournal("a subscriber's memory", (open) => {
  let journal: Journal;
  let remove: () => Promise<void>;

  beforeEach(async () => {
    ({ journal, remove } = await open());
  });

  afterEach(() => remove());

  it("is that of its page, which is dropped where others need it, and read again", async () => {
    const engine = engineOver(journal, { tailBytes: 0, frameBytes: 4 * KiB });
    const producer = await openRun(engine, "run");
    for (let at = 1; at <= 64; at++) {
      await append(engine, producer, at, [eventOf("x".repeat(2 * KiB))]);
    }
    const { pages } = engine.memory;
    const abort = new AbortController();
    const subscription = subscriptionTo({ kind: "all" }, { stop: "caught_up" });
    const seqs: bigint[] = [];
    let evictions = 0;
    for await (const frame of subscribe(engine, subscription, abort.signal)) {
      seqs.push(...recordsIn(frame).map(({ seq }) => seq));
      if (pages.usedBytes === 0 || evictions === 5) continue;
      assert.ok(pages.usedBytes < 65 * 3 * KiB, `${pages.usedBytes}`);
      // Somebody reads as much as there is room for.
      const taken = pages.freeBytes + 1;
      pages.take(taken);
      assert.equal(pages.usedBytes, taken);
      pages.give(taken);
      evictions++;
    }
    assert.equal(evictions, 5);
    assert.deepEqual(
      seqs,
      Array.from({ length: 65 }, (_, i) => BigInt(i + 1)),
    );
    const { memory } = engine;
    assert.deepEqual([pages.usedBytes, memory.subscriptions.usedBytes], [0, 0]);
  });

  it("delays readers of history, and no live ones", async () => {
    const engine = engineOver(journal);
    const producer = await openRun(engine, "run");
    const { frames } = engine.memory;
    const taken = frames.freeBytes + 1;
    const abort = new AbortController();
    const live = subscribe(
      engine,
      subscriptionTo({ kind: "all" }, { start: { t: "now" } }),
      abort.signal,
    );
    for (const expected of ["subscribed", "caught_up"]) {
      assert.equal((await live.next()).value?.t, expected);
    }
    frames.take(taken);
    await append(engine, producer, 1, [eventOf("news")]);
    assert.equal((await live.next()).value?.t, "events");
    engine.tails.setMaxBytes(0);
    const late = subscribe(engine, subscriptionTo({ kind: "all" }), abort.signal);
    assert.equal((await late.next()).value?.t, "subscribed");
    const first = late.next();
    const early = await Promise.race([first, append(engine, producer, 2, [eventOf("x")])]);
    assert.ok("t" in early && early.t === "durable");
    frames.give(taken);
    assert.equal((await first).value?.t, "events");
    abort.abort();
    await Promise.all([live.return(undefined), late.return(undefined)]);
  });

  it("is bounded for each call: one call is refused more, and others still subscribe", async () => {
    const memoryBytes = 16 * MiB;
    const engine = engineOver(journal, { memoryBytes });
    await openRun(engine, "run");
    const runIds = Array.from({ length: 100 }, (_, at) => `${at}`.padEnd(120, "x"));
    const scope = { kind: "runs", runIds } as const;
    const filter: Filter = { scope, types: undefined, kinds: undefined };
    const { subscriptions } = engine.memory;
    const calls = Array.from({ length: 4 }, () => new Watch(engine));
    const answers: ReturnType<Watch["run"]>[] = [];
    const abort = new AbortController();
    let [accepted, refused] = [0, 0];
    for (const call of calls) {
      for (let id = 1; id <= 200; id++)
        call.start(id, () => ({ ...subscriptionTo({ kind: "all" }), filter }), 1);
      call.end();
      const frames = call.run(abort.signal);
      answers.push(frames);
      for (let answered = 0; answered < 200; ) {
        const { value } = await frames.next();
        if (value?.t === "ended") refused++;
        else if (value?.frame.t === "subscribed") accepted++;
        else continue;
        answered++;
        if (value.t === "ended") assert.equal(value.refusal?.reason, "overloaded");
      }
      // It holds its subscriptions until its end.
      assert.ok(subscriptions.freeBytes > 512 * KiB, `${subscriptions.freeBytes}`);
    }
    assert.equal(accepted + refused, 800);
    assert.ok(accepted > 40 && refused > 400, `${accepted}, ${refused}`);
    const canary = subscribe(engine, subscriptionTo({ kind: "all" }), abort.signal);
    assert.equal((await canary.next()).value?.t, "subscribed");
    await canary.return(undefined);
    abort.abort();
    await Promise.all(answers.map((frames) => frames.return(undefined)));
  });

  it("is not taken by subscriptions that come once their call is over", async () => {
    const engine = engineOver(journal);
    const call = new Watch(engine);
    call.start(1, () => subscriptionTo({ kind: "all" }), 1);
    const abort = new AbortController();
    const frames = call.run(abort.signal);
    assert.equal((await frames.next()).value?.t, "frame");
    const { subscriptions } = engine.memory;
    assert.ok(subscriptions.usedBytes > 0);
    await frames.return(undefined);
    call.start(2, () => subscriptionTo({ kind: "all" }), 1);
    assert.equal(subscriptions.usedBytes, 0);
  });
});
