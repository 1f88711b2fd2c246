/** Streams on which there is nothing to say: proxies cut those that are silent for too long. */
import assert from "node:assert/strict";
import { append, eventsOf, open, Stream } from "../support/producer.ts";
import type { TestServer } from "../support/server.ts";
import { Watcher } from "../support/watcher.ts";
import { collect, describeService, refusalOf, type WireClient } from "../support/wire.ts";

const unmatched = {
  scope: { case: "all" as const, value: {} },
  eventTypes: ["nobody-sends-this"],
};

describeService("a stream with nothing to say", (wire, startServer) => {
  let server: TestServer;
  let client: WireClient;

  beforeEach(async () => {
    server = await startServer({ limits: { progressIntervalMs: 200 } });
    client = await wire.connect(server.url);
  });

  afterEach(async () => {
    client.close();
    await server.remove();
    assert.deepEqual(server.errors, []);
  });

  /** Appends without a pause: whoever follows the namespace is woken again and again. */
  async function busyUntil(isOver: () => boolean): Promise<void> {
    await client.ingest.appendEvents({ runId: "busy", create: {} });
    for (let at = 1; !isOver(); at++) {
      const window = { firstRunSeq: BigInt(at), events: eventsOf("x") };
      await client.ingest.appendEvents({ runId: "busy", ...window });
    }
  }

  it("moves the cursor of a filter on by Progress while wake-ups bring it nothing", async () => {
    await client.ingest.appendEvents({ runId: "busy", create: {} });
    const abort = new AbortController();
    const frames = client.subscribe
      .subscribe({ filter: unmatched, start: { case: "fromNow", value: true } }, abort)
      [Symbol.asyncIterator]();
    for (const expected of ["subscribed", "caughtUp"]) {
      assert.equal((await frames.next()).value.frame.case, expected);
    }
    let over = false;
    const busy = busyUntil(() => over);
    const seqs: bigint[] = [];
    while (seqs.length < 2) {
      const { frame } = (await frames.next()).value;
      assert.ok(frame.case === "progress", frame.case);
      seqs.push(frame.value.seq);
    }
    over = true;
    await busy;
    assert.ok(seqs[1]! > seqs[0]!, `${seqs}`);
    abort.abort();
    // Another Progress may have come before.
    await refusalOf(collect({ [Symbol.asyncIterator]: () => frames }));
  });

  if (!wire.isBidirectional) return;

  it("tells each of many subscriptions how far it is while wake-ups bring it nothing", async () => {
    await client.ingest.appendEvents({ runId: "busy", create: {} });
    const watcher = new Watcher(client);
    watcher.start(1, unmatched, { start: { case: "fromNow", value: true } });
    await watcher.expect(1, "subscribed");
    await watcher.expect(1, "caughtUp");
    let over = false;
    const busy = busyUntil(() => over);
    const first = await watcher.expect(1, "progress");
    const second = await watcher.expect(1, "progress");
    over = true;
    await busy;
    assert.ok(second.value.seq > first.value.seq);
    watcher.cancel();
  });

  it("sends a producer heartbeats, which ask nothing of it", async () => {
    const stream = new Stream(client);
    stream.send(open("r"));
    let next = await stream.next();
    // On a busy machine the opening may take as long as the silence.
    while (next?.case === "heartbeat") next = await stream.next();
    assert.equal(next?.case, "opened");
    await stream.expect("heartbeat");
    await stream.expect("heartbeat");
    stream.send(append("r", 1, "later"));
    next = await stream.next();
    while (next?.case === "heartbeat") next = await stream.next();
    assert.ok(next?.case === "ack" && next.value.runSeq === 1n, next?.case);
    stream.halfClose();
    for (next = await stream.next(); next !== undefined; next = await stream.next()) {
      assert.equal(next.case, "heartbeat");
    }
  });
});
