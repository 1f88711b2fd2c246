import assert from "node:assert/strict";
import * as net from "node:net";
import { Reason } from "../../gen/runlog/v1/error_pb.js";
import type { SenderState } from "../../src/client/index.ts";
import { lockNamespace } from "../../src/journal/namespaces.ts";
import { openJournal } from "../../src/journal/open.ts";
import { defaultLimits } from "../../src/limits.ts";
import { engineOver, readAll } from "../support/engine.ts";
import { giveBackDatabase, takeDatabase } from "../support/postgres.ts";
import { startTestServer } from "../support/server.ts";
import { noFault } from "./breaking-proxy.ts";
import { backoff, isRefusal, SenderRig, States, succeeded, typesUpTo } from "./sender-rig.ts";

describe("the sender and other producers of its run", () => {
  let rig: SenderRig;

  beforeEach(async () => {
    rig = await SenderRig.start();
  });

  afterEach(() => rig.close());

  it("hears at once that another producer has its run, and does not take it back", async () => {
    const states = new States();
    const { onState } = states;
    const first = rig.open(rig.proxy.url, {
      runId: "r",
      spec: {},
      limits: { backoff },
      onState,
    });
    first.emit({ type: "e1" });
    await first.opened;
    const second = rig.open(rig.server.url, { runId: "r", limits: { backoff } });
    await states.until("failed");
    assert.equal(first.emit({ type: "stale" }), false);
    await assert.rejects(first.ready(), isRefusal(Reason.FENCED));
    await assert.rejects(first.finish(succeeded), isRefusal(Reason.FENCED));
    assert.deepEqual([states.count("connecting"), rig.proxy.calls], [1, 1]);
    const { lastRunSeq } = await second.opened;
    second.emit({ type: `e${lastRunSeq + 1}` });
    await second.finish(succeeded);
    assert.deepEqual(await rig.typesOf("r"), typesUpTo(lastRunSeq + 1));
  });

  it("is not fenced by an opening that it had given up and that arrives late", async () => {
    const late: Buffer[] = [];
    let isFirst = true;
    rig.proxy.newFault = () => {
      if (!isFirst) return () => "forward";
      isFirst = false;
      let isComplete = false;
      return (from, chunk) => {
        if (from === "client" && !isComplete) {
          late.push(chunk);
          isComplete = chunk.includes("r-late");
        }
        return "swallow";
      };
    };
    const onState = ({ t }: SenderState) => {
      if (t === "waiting") rig.proxy.cutAll();
    };
    const limits = { backoff, openTimeoutMs: 100 };
    const sender = rig.open(rig.proxy.url, { runId: "r-late", spec: {}, limits, onState });
    sender.emit({ type: "e1" });
    await sender.flush();
    const socket = net.connect(Number(new URL(rig.server.url).port), "127.0.0.1");
    socket.write(Buffer.concat(late));
    const answer: Buffer[] = [];
    for await (const chunk of socket) {
      answer.push(chunk);
      if (Buffer.concat(answer).includes("r-late")) break;
    }
    socket.destroy();
    sender.emit({ type: "e2" });
    assert.equal((await sender.finish(succeeded)).durable, 2);
    assert.deepEqual(await rig.typesOf("r-late"), typesUpTo(2));
  });

  it("does not take for its own what another producer has written in between", async () => {
    const sent = Promise.withResolvers<void>();
    let isSilent = false;
    rig.proxy.newFault = () => (from, chunk) => {
      if (isSilent && from === "client" && chunk.includes("e3")) sent.resolve();
      return isSilent ? "swallow" : "forward";
    };
    const sender = rig.open(rig.proxy.url, { runId: "r", spec: {}, limits: { backoff } });
    await sender.opened;
    isSilent = true;
    for (let i = 1; i <= 3; i++) sender.emit({ type: `e${i}` });
    await sent.promise;
    const other = rig.open(rig.server.url, { runId: "r" });
    for (let i = 1; i <= 3; i++) other.emit({ type: `other${i}` });
    assert.deepEqual(await other.close(60_000), { durable: 3, unacked: 0 });
    rig.proxy.newFault = noFault;
    rig.proxy.cutAll();
    await assert.rejects(sender.finish(succeeded), isRefusal(Reason.CONFLICT));
    assert.equal(sender.stats.durable, 0);
    assert.deepEqual(await rig.typesOf("r"), ["other1", "other2", "other3"]);
  });

  it("opens its run again that was lost while it was connected", async () => {
    const url = await takeDatabase();
    const several = await startTestServer({ journal: url });
    const journal = await openJournal(url, defaultLimits);
    const sender = rig.open(several.url, { runId: "r", spec: {}, limits: { backoff } });
    sender.emit({ type: "e1" });
    await sender.flush();
    // As another node does that takes the server for dead.
    await journal.write(async (tx) => {
      await lockNamespace(tx, "default");
      await tx.updateTable("runs").set({ node_key: 0 }).execute();
    });
    await engineOver(journal).committer.lose({
      namespace: "default",
      runId: "r",
      epoch: 1,
      leaseMs: 1,
    });
    sender.emit({ type: "e2" });
    assert.equal((await sender.finish(succeeded)).durable, 2);
    const facts = (await readAll(journal)).map(({ record }) => record.case);
    const ends = ["runFinished", "runResumed", "event", "runFinished"];
    assert.deepEqual(facts, ["runStarted", "event", ...ends]);
    await journal.close();
    await several.remove();
    assert.deepEqual(several.errors, []);
    await giveBackDatabase(url);
  });
});
