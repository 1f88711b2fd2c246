import assert from "node:assert/strict";
import { inspect } from "node:util";
import type { Drop, EventInit } from "../../src/client/index.ts";
import { chosenSeed, randomOf } from "../crash/random.ts";
import { startTestServer } from "../support/server.ts";
import { backoff, SenderRig, succeeded, typesUpTo } from "./sender-rig.ts";

describe("the sender and events that it does not take", () => {
  let rig: SenderRig;

  beforeEach(async () => {
    rig = await SenderRig.start();
  });

  afterEach(() => rig.close());

  const seed = chosenSeed();

  it(`tells of every event that it does not take, and the others have no gap (RUNLOG_TEST_SEED=${seed})`, async () => {
    const drops: Drop[] = [];
    const random = randomOf(seed);
    const sender = rig.open(rig.server.url, {
      runId: "r",
      spec: {},
      limits: { backoff, maxBufferedEvents: 20 },
      onDrop: (drop) => drops.push(drop),
    });
    let taken = 0;
    let refused = 0;
    for (let i = 0; i < 2_000; i++) {
      if (sender.emit({ type: `e${taken + 1}` })) taken++;
      else refused++;
      if (random.between(1, 40) === 1) await sender.ready();
    }
    await sender.ready();
    assert.ok(taken > 20 && refused > 0);
    assert.equal(drops.filter(({ reason }) => reason === "overflow").length, refused);
    const tooLarge = { type: "big", data: new Uint8Array(1024 * 1024) };
    assert.deepEqual([sender.emit(tooLarge), drops.at(-1)?.reason], [false, "too_large"]);
    const { durable } = await sender.finish(succeeded);
    const { emitted, dropped } = sender.stats;
    assert.deepEqual([durable, emitted, dropped], [taken, taken, drops.length]);
    assert.deepEqual(await rig.typesOf("r"), typesUpTo(taken));
  });

  it("drops every event that the server would refuse, and goes on", async () => {
    const drops: Drop[] = [];
    const onDrop = (drop: Drop) => drops.push(drop);
    const sender = rig.open(rig.server.url, { runId: "r", spec: {}, onDrop });
    const pairs = (count: number) =>
      Object.fromEntries(Array.from({ length: count }, (_, i) => [`k${i}`, "v"]));
    const invalid: EventInit[] = [
      { type: "" },
      { type: "x".repeat(129) },
      { type: "ä".repeat(65) },
      { type: "a\nb" },
      { type: "a\u007fb" },
      { type: "\ud800" },
      { type: "e", contentType: "x".repeat(129) },
      { type: "e", attributes: pairs(17) },
      { type: "e", attributes: { "": "v" } },
      { type: "e", attributes: { ["k".repeat(64)]: "v" } },
      { type: "e", attributes: { k: "v".repeat(1_025) } },
      { type: "e", contentType: "a\0" },
      { type: "e", attributes: { k: "\0" } },
      { type: "e", time: { seconds: 253_402_300_800n } },
      { type: "e", time: { seconds: 1n, nanos: -1 } },
    ];
    for (const event of invalid) {
      assert.equal(sender.emit(event), false, inspect(event));
      assert.equal(drops.at(-1)?.reason, "invalid");
      assert.match(drops.at(-1)?.problem ?? "", /^event\.(type|content_type|attributes|time)/);
    }
    // At the limits themselves nothing is dropped, and the server agrees.
    const largest = {
      contentType: "ä".repeat(64),
      attributes: { ...pairs(15), ["k".repeat(63)]: "ä".repeat(512) },
    };
    assert.ok(sender.emit({ type: "ä".repeat(64), ...largest }));
    assert.ok(sender.emit({ type: "x".repeat(128) }));
    assert.equal((await sender.finish(succeeded)).durable, 2);
    assert.deepEqual(await rig.typesOf("r"), ["ä".repeat(64), "x".repeat(128)]);
  });

  it("lets the run wait where it was asked to, though an event before that was dropped", async () => {
    await rig.server.remove();
    rig.server = await startTestServer({ limits: { maxEventBytes: 1_000 } });
    const sender = rig.open(rig.server.url, { runId: "r", spec: {}, onDrop: () => undefined });
    sender.emit({ type: "e1" });
    sender.emit({ type: "big", data: new Uint8Array(2_000) });
    const waiting = sender.wait({ code: "approval" });
    sender.emit({ type: "e2" });
    const flushed = sender.flush();
    sender.emit({ type: "e3" });
    await waiting;
    await flushed;
    await sender.finish(succeeded);
    assert.deepEqual(await rig.recordsOf("r"), [
      "runStarted",
      "e1",
      "runWaiting",
      "runResumed",
      "e2",
      "e3",
      "runFinished",
    ]);
  });

  it("drops what the server finds too large although it was emitted before it could say so", async () => {
    await rig.server.remove();
    rig.server = await startTestServer({ limits: { maxEventBytes: 1_000 } });
    const drops: Drop[] = [];
    const onDrop = (drop: Drop) => drops.push(drop);
    const sender = rig.open(rig.server.url, { runId: "r", spec: {}, onDrop });
    for (const type of ["e1", "big", "e2"]) {
      assert.ok(sender.emit({ type, data: new Uint8Array(type === "big" ? 2_000 : 10) }));
    }
    assert.equal((await sender.finish(succeeded)).durable, 2);
    assert.deepEqual(
      drops.map(({ reason, event, limit }) => [reason, event.type, limit]),
      [["too_large", "big", 1_000]],
    );
    assert.deepEqual(await rig.typesOf("r"), typesUpTo(2));
  });
});
