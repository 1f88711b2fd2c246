import assert from "node:assert/strict";
import { Code } from "@connectrpc/connect";
import { Reason } from "../../gen/runlog/v1/error_pb.js";
import { RunState } from "../../gen/runlog/v1/run_pb.js";
import {
  follow,
  JournalWentBackError,
  RunlogError,
  SenderClosedError,
  type SenderState,
} from "../../src/client/index.ts";
import { chosenSeed, randomOf } from "../crash/random.ts";
import { startTestServer } from "../support/server.ts";
import { loseAnswerOnce, randomCuts } from "./breaking-proxy.ts";
import { backoff, isRefusal, SenderRig, States, succeeded, typesUpTo } from "./sender-rig.ts";

describe("the sender", () => {
  let rig: SenderRig;

  beforeEach(async () => {
    rig = await SenderRig.start();
  });

  afterEach(() => rig.close());

  const seed = chosenSeed();

  it(`loses, doubles and reorders nothing where connections break (RUNLOG_TEST_SEED=${seed})`, async () => {
    const random = randomOf(seed);
    rig.proxy.newFault = randomCuts((min, max) => random.between(min, max));
    const perRun = 2_500;
    const runIds = ["a", "b", "c", "d"];
    const stats = await Promise.all(
      runIds.map(async (runId) => {
        const limits = { backoff, maxBufferedEvents: 300, maxFrameEvents: 16 };
        const sender = rig.open(rig.proxy.url, { runId, spec: {}, limits });
        for (let i = 1; i <= perRun; i++) {
          await sender.ready();
          assert.ok(sender.emit({ type: `e${i}`, data: Buffer.alloc(80, runId) }));
        }
        const { run, durable } = await sender.finish(succeeded);
        assert.deepEqual([run.lastRunSeq, durable], [BigInt(perRun), perRun]);
        return sender.stats;
      }),
    );
    const reconnects = stats.reduce((sum, each) => sum + each.reconnects, 0);
    assert.ok(
      rig.proxy.cuts >= runIds.length && reconnects >= runIds.length,
      `${rig.proxy.cuts} cuts, ${reconnects} reconnects`,
    );
    for (const runId of runIds) assert.deepEqual(await rig.typesOf(runId), typesUpTo(perRun));
    const records = await rig.replay();
    assert.deepEqual(
      records.map(({ seq }) => seq),
      records.map((_, i) => BigInt(i + 1)),
    );
    const ends = records.filter(({ record }) => record.case === "runFinished");
    assert.deepEqual(ends.map(({ runId }) => runId).sort(), runIds);
  });

  it("goes on where a graceful restart of the server interrupts it", async () => {
    const states = new States();
    const { onState } = states;
    const sender = rig.open(rig.proxy.url, {
      runId: "r",
      spec: {},
      limits: { backoff },
      onState,
    });
    for (let i = 1; i <= 500; i++) sender.emit({ type: `e${i}` });
    await sender.opened;
    rig.server = await rig.server.restart({ port: Number(new URL(rig.server.url).port) });
    for (let i = 501; i <= 1_000; i++) sender.emit({ type: `e${i}` });
    assert.equal((await sender.finish(succeeded)).durable, 1_000);
    assert.ok(states.count("open") >= 2);
    assert.deepEqual(await rig.typesOf("r"), typesUpTo(1_000));
  });

  it("ends a run once where the answer to its end is lost", async () => {
    const code = "marker-of-the-result";
    rig.proxy.newFault = loseAnswerOnce(code);
    const sender = rig.open(rig.proxy.url, { runId: "r", spec: {}, limits: { backoff } });
    for (let i = 1; i <= 10; i++) sender.emit({ type: `e${i}` });
    const result = { state: RunState.FAILED, failure: { code, message: "m" } } as const;
    const { run, durable } = await sender.finish(result);
    assert.deepEqual([run.state, run.result?.failure?.code, durable], [RunState.FAILED, code, 10]);
    assert.deepEqual([rig.proxy.cuts, rig.proxy.calls], [1, 2]);
    const ends = (await rig.replay()).filter(({ record }) => record.case === "runFinished");
    assert.equal(ends.length, 1);
  });

  it("refuses at once what cannot name a run, however long", async () => {
    for (const runId of [
      "x".repeat(129),
      "ä".repeat(65),
      "x".repeat(5_000),
      "a\0b",
      "\ud800",
      "",
      "a b",
      "ä",
    ]) {
      // Nobody is there to ask.
      const sender = rig.open("http://127.0.0.1:1", { runId, spec: {} });
      await assert.rejects(sender.finish(succeeded), isRefusal(Reason.INVALID_FIELD));
    }
  });

  it("asks once for a run that does not exist", async () => {
    const states = new States();
    const { onState } = states;
    const sender = rig.open(rig.proxy.url, { runId: "unknown", limits: { backoff }, onState });
    assert.ok(sender.emit({ type: "e" }));
    await assert.rejects(sender.finish(succeeded), isRefusal(Reason.RUN_NOT_FOUND));
    await assert.rejects(sender.opened, isRefusal(Reason.RUN_NOT_FOUND));
    assert.equal(states.seen.map(({ t }) => t).join(), "connecting,failed");
    assert.equal(rig.proxy.calls, 1);
    assert.deepEqual(await rig.replay(), []);
  });

  it("asks once where nobody serves the method", async () => {
    const sender = rig.open(`${rig.proxy.url}/wrong`, { spec: {}, limits: { backoff } });
    await assert.rejects(sender.finish(succeeded), (error) => {
      assert.ok(error instanceof RunlogError && error.code === Code.Unimplemented, String(error));
      return true;
    });
    assert.equal(rig.proxy.calls, 1);
  });

  it("fails with what it knows where the journal went back", async () => {
    const states = new States();
    const { onState } = states;
    const sender = rig.open(rig.proxy.url, {
      runId: "r",
      spec: {},
      limits: { backoff },
      onState,
    });
    for (let i = 1; i <= 5; i++) sender.emit({ type: `e${i}` });
    await sender.opened;
    const filter = { scope: { case: "runIds" as const, value: { runIds: ["r"] } } };
    for await (const item of follow(rig.connect(rig.server.url), { filter })) {
      if (item.t === "records" && item.records.some(({ runSeq }) => runSeq === 5n)) break;
    }
    // A drain lets acknowledgements through before it ends the call.
    const { port } = new URL(rig.server.url);
    await rig.server.remove();
    assert.equal(sender.stats.durable, 5);
    rig.server = await startTestServer({ port: Number(port) });
    await assert.rejects(sender.finish(succeeded), (error) => {
      assert.ok(error instanceof JournalWentBackError, String(error));
      assert.deepEqual([error.acknowledgedRunSeq, error.lastRunSeq], [5, 0]);
      return true;
    });
    assert.deepEqual(await rig.typesOf("r"), []);
  });

  it("closes a drained run, and the next sender goes on behind it", async () => {
    const first = rig.open(rig.server.url, { runId: "r", spec: {} });
    for (let i = 1; i <= 100; i++) first.emit({ type: `e${i}` });
    assert.deepEqual(await first.close(60_000), { durable: 100, unacked: 0 });
    assert.equal(first.emit({ type: "late" }), false);
    await assert.rejects(first.finish(succeeded), SenderClosedError);
    const second = rig.open(rig.server.url, { runId: "r" });
    assert.equal((await second.opened).lastRunSeq, 100);
    second.emit({ type: "e101" });
    await second.finish(succeeded);
    assert.deepEqual(await rig.typesOf("r"), typesUpTo(101));
  });

  it("gives up a close that a silent peer would block for ever, and says how much is left", async () => {
    rig.proxy.newFault = () => () => "swallow";
    const sender = rig.open(rig.proxy.url, { runId: "r", spec: {} });
    for (let i = 1; i <= 3; i++) sender.emit({ type: `e${i}` });
    assert.deepEqual(await sender.close(50), { durable: 0, unacked: 3 });
    assert.deepEqual(sender.state, { t: "closed", unacked: 3 });
  });

  it("stops at once where its signal says so, with the reason", async () => {
    rig.proxy.newFault = () => () => "swallow";
    const controller = new AbortController();
    const { signal } = controller;
    const sender = rig.open(rig.proxy.url, {
      spec: {},
      signal,
      limits: { maxBufferedEvents: 1 },
    });
    sender.emit({ type: "e1" });
    const waits = [sender.ready(), sender.finish(succeeded), sender.opened];
    const reason = new Error("enough");
    controller.abort(reason);
    for (const wait of waits) {
      await assert.rejects(wait, (error) => {
        assert.ok(error instanceof SenderClosedError && error.cause === reason, String(error));
        return true;
      });
    }
  });

  it("leaves a peer that accepts and never answers, and tries again", async () => {
    let isFirst = true;
    rig.proxy.newFault = () => {
      const fate = isFirst ? "swallow" : "forward";
      isFirst = false;
      return () => fate;
    };
    const states = new States();
    const onState = (state: SenderState) => {
      states.onState(state);
      // The dead connection itself is for the transport's pings to find.
      if (state.t === "waiting") rig.proxy.cutAll();
    };
    const limits = { backoff, openTimeoutMs: 100 };
    const sender = rig.open(rig.proxy.url, { runId: "r", spec: {}, limits, onState });
    sender.emit({ type: "e1" });
    await sender.finish(succeeded);
    assert.ok(states.count("waiting") >= 1);
    assert.deepEqual(await rig.typesOf("r"), ["e1"]);
  });
});
