/** What nodes keep of namespaces, and what they read of them, once nobody uses them any more. */
import assert from "node:assert/strict";
import { create } from "@bufbuild/protobuf";
import { RunResultSchema, RunSpecSchema, RunState } from "../../gen/runlog/v1/run_pb.js";
import { Producer } from "../../src/ingest/operation.ts";
import type { Engine } from "../../src/server/engine.ts";
import { Consumer } from "../support/consumer.ts";
import { openRun } from "../support/engine.ts";
import { deaf, startNodes, type TestNodes } from "../support/nodes.ts";

const namespaces = 100;

/** Runs a run from its first event to its end, at a namespace of its own. */
async function runBriefly({ committer }: Engine, namespace: string): Promise<void> {
  const runId = "run";
  const producer = new Producer(runId);
  const spec = create(RunSpecSchema);
  const opened = await committer.submit({ kind: "open", namespace, runId, producer, spec });
  assert.equal(opened.t, "opened");
  const result = create(RunResultSchema, { state: RunState.SUCCEEDED });
  const ended = await committer.submit({
    kind: "finish",
    namespace,
    runId,
    producer,
    lastRunSeq: 0,
    result,
  });
  assert.equal(ended.t, "ended");
  committer.release(namespace, producer);
}

/** Calls again and again until it says so; the test's time is the bound. */
async function until(holds: () => boolean): Promise<void> {
  while (!holds()) await new Promise((resolve) => setImmediate(resolve));
}

/** The names of the namespaces that a node's watch reads, look by look. */
function looksOf({ journal: { history } }: Engine): (readonly string[])[] {
  const looks: (readonly string[])[] = [];
  const readAll = history.readAll.bind(history);
  history.readAll = (names, find) => {
    looks.push(names);
    return readAll(names, find);
  };
  return looks;
}

describe("namespaces that nobody uses", () => {
  let running: TestNodes;

  afterEach(async () => {
    assert.deepEqual(running.failures, []);
    await running.remove();
  });

  it("leave nothing behind in any node, and are never looked at", async () => {
    // Each node looks as often as it can: no wake-up says that there is nothing.
    running = await startNodes(2, {
      notifications: deaf,
      limits: { idleNamespaceMs: 100, pollIntervalMs: 10 },
    });
    const [a, b] = running.nodes as [Engine, Engine];
    for (let n = 0; n < namespaces; n++) {
      await runBriefly(a, `namespace-${n}`);
      await runBriefly(b, `namespace-${n}-b`);
    }
    const nothing = { tails: 0, queues: 0, known: 0, following: 0, lineages: 0, told: 0 };
    for (const node of [a, b]) {
      await until(() => Object.values(node.kept()).every((count) => count === 0));
      assert.deepEqual(node.kept(), nothing);
    }
    const looks = looksOf(a);
    const consumer = new Consumer({ scope: { kind: "all" }, types: [] });
    consumer.attach(a);
    consumer.read();
    await until(() => looks.length >= 10);
    await consumer.drop();
    assert.deepEqual([...new Set(looks.flat())], ["default"]);
  });

  it("are not looked for when other nodes write to them, nor do wake-ups go through all that are followed", async () => {
    running = await startNodes(2, { limits: { pollIntervalMs: 60_000 } });
    const [a, b] = running.nodes as [Engine, Engine];
    const consumer = new Consumer({ scope: { kind: "all" }, types: [] });
    consumer.attach(a);
    consumer.read();
    await until(() => a.journal.notifications!.isConnected && b.journal.notifications!.isConnected);
    await runBriefly(b, "default");
    await consumer.readUntil(1);
    const looks = looksOf(a);
    let listings = 0;
    const watched = a.tails.watched.bind(a.tails);
    a.tails.watched = () => {
      listings++;
      return watched();
    };
    for (let n = 0; n < namespaces; n++) await runBriefly(b, `namespace-${n}`);
    // What b notifies arrives in order: whatever it said of the others was heard by then.
    const before = consumer.received.length;
    await openRun(b, "last");
    await consumer.readUntil(before + 1);
    while (consumer.received.at(-1)!.runId !== "last")
      await consumer.readUntil(consumer.received.length + 1);
    await consumer.drop();
    assert.deepEqual([...new Set(looks.flat())], ["default"]);
    assert.equal(listings, 0);
  });
});
