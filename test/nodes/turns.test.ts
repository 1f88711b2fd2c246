/** Nodes that append to one namespace in turn: what subscribers get, and where from. */
import assert from "node:assert/strict";
import type { Producer } from "../../src/ingest/operation.ts";
import type { Engine } from "../../src/server/engine.ts";
import { Consumer } from "../support/consumer.ts";
import { append, eventOf, openRun, readAll } from "../support/engine.ts";
import { startNodes, type TestNodes } from "../support/nodes.ts";

const rounds = 100;

/** Calls again and again until it says so; the test's time is the bound. */
async function until(holds: () => boolean): Promise<void> {
  while (!holds()) await new Promise((resolve) => setImmediate(resolve));
}

/**
 * Counts the pages that a node's subscriber gets out of its tail, and from the first of them
 * on its looks in the journal: before, it catches up.
 */
function countPages({ tails, journal: { history } }: Engine): {
  tail: number;
  journal: number;
} {
  const pages = { tail: 0, journal: 0 };
  const readTail = tails.read.bind(tails);
  tails.read = (...args) => {
    const page = readTail(...args);
    if (page !== undefined && page.records.length > 0) pages.tail++;
    return page;
  };
  // Each page from the journal begins with the namespace; the follower's and the commits' do not.
  const readNamespace = history.read.bind(history);
  history.read = (...args) => {
    if (pages.tail > 0) pages.journal++;
    return readNamespace(...args);
  };
  return pages;
}

describe("nodes that write in turn", () => {
  let running: TestNodes;

  afterEach(async () => {
    assert.deepEqual(running.failures, []);
    await running.remove();
  });

  it("deliver the same dense records everywhere, all of them out of their tails", async () => {
    running = await startNodes(2);
    const nodes = running.nodes as [Engine, Engine];
    const producers = [await openRun(nodes[0], "run-0"), await openRun(nodes[1], "run-1")] as const;
    const consumers = nodes.map(() => new Consumer({ scope: { kind: "all" }, types: [] }));
    const pages = nodes.map(countPages);
    for (const [index, consumer] of consumers.entries()) {
      const node = nodes[index]!;
      consumer.attach(node);
      consumer.read();
      await until(() => node.kept()["following"] === 1);
    }
    const before = (await readAll(nodes[0].journal)).length;
    const write = (index: 0 | 1, round: number) => {
      const producer: Producer = producers[index];
      return append(nodes[index], producer, round, [eventOf(`${index}:${round}`)]);
    };
    const reading = consumers.map((consumer) => consumer.readUntil(before + 4 * rounds));
    for (let round = 1; round <= rounds; round++) {
      assert.equal((await write(0, round)).t, "durable");
      assert.equal((await write(1, round)).t, "durable");
    }
    // And all at once, so that each node is ahead of what it has read of the other.
    const commits = Array.from({ length: rounds }, (_, i) => [
      write(0, rounds + 1 + i),
      write(1, rounds + 1 + i),
    ]);
    for (const { t } of await Promise.all(commits.flat())) assert.equal(t, "durable");
    await Promise.all(reading);
    const [first, second] = consumers.map(({ received }) => received);
    assert.deepEqual(
      first!.map(({ seq }) => Number(seq)),
      first!.map((_, index) => index + 1),
    );
    assert.deepEqual(first, second);
    for (const { tail, journal } of pages) {
      console.log(`      ${tail} pages out of the tail, ${journal} looks in the journal`);
      assert.ok(tail > rounds / 2, `${tail} pages out of the tail`);
      assert.equal(journal, 0);
    }
    for (const consumer of consumers) await consumer.drop();
  });
});
