import assert from "node:assert/strict";
import fc from "fast-check";
import { checkJournal, type Journal } from "../../robustness/history/check-journal.ts";
import { checkProducers } from "../../robustness/history/check-producers.ts";
import { checkSignals } from "../../robustness/history/check-signals.ts";
import { seen } from "../../robustness/load/seen.ts";
import { findDueWaits } from "../../src/journal/waits.ts";
import { RefusedError } from "../../src/refusal.ts";
import type { Engine } from "../../src/server/engine.ts";
import { readAll } from "../support/engine.ts";
import { assertHistories } from "../support/histories.ts";
import { deaf, startNodes } from "../support/nodes.ts";
import { Agent, Log, run } from "./signal-agent.ts";

type Step =
  | {
      readonly kind: "signal";
      readonly node: number;
      readonly again: boolean;
      readonly differs: boolean;
    }
  | { readonly kind: "append"; readonly count: number; readonly signals: number }
  | { readonly kind: "wait"; readonly isBounded: boolean }
  | { readonly kind: "finish" }
  | { readonly kind: "die" | "cancel" | "expire" | "delete"; readonly node: number }
  | { readonly kind: "turns"; readonly count: number };

const nodeCount = 2;
const node = fc.nat({ max: nodeCount - 1 });
const step: fc.Arbitrary<Step> = fc.oneof(
  {
    weight: 8,
    arbitrary: fc.record({
      kind: fc.constant("signal" as const),
      node,
      again: fc.boolean(),
      differs: fc.nat(9).map((n) => n === 0),
    }),
  },
  {
    weight: 8,
    arbitrary: fc.record({
      kind: fc.constant("append" as const),
      count: fc.nat({ max: 3 }),
      signals: fc.nat({ max: 3 }),
    }),
  },
  {
    weight: 5,
    arbitrary: fc.record({ kind: fc.constant("wait" as const), isBounded: fc.boolean() }),
  },
  { weight: 1, arbitrary: fc.constant({ kind: "finish" as const }) },
  { weight: 4, arbitrary: fc.record({ kind: fc.constant("die" as const), node }) },
  {
    weight: 4,
    arbitrary: fc.record({ kind: fc.constantFrom("cancel", "expire", "expire", "delete"), node }),
  },
  {
    weight: 6,
    arbitrary: fc.record({ kind: fc.constant("turns" as const), count: fc.nat({ max: 20 }) }),
  },
);

/** Ends the waits that have a deadline, as if it had passed. */
async function expire({ journal, committer }: Engine): Promise<void> {
  for (const due of await findDueWaits(journal.db, Number.MAX_SAFE_INTEGER, 100)) {
    const { namespace, run_id: runId, wait_deadline_ms: deadlineMs } = due;
    await committer.submit({ kind: "end_wait", namespace, runId, deadlineMs });
  }
}

/** What a history breaks of what was promised. */
async function broken(engine: Engine, log: Log): Promise<string[]> {
  const records = (await readAll(engine.journal)).map(seen);
  const journal: Journal = { records, byRun: Map.groupBy(records, (record) => record.run) };
  log.add({ t: "journal", reader: "readAll", node: "", records });
  return (
    [
      ...checkJournal(log.entries, journal),
      ...checkProducers(log.entries, journal),
      ...checkSignals(log.entries, journal),
    ]
      // Runs before this one were deleted.
      .filter(({ promise }) => promise !== "seq is dense")
      .map(({ promise, what }) => `${promise}: ${what}`)
  );
}

async function runSteps(nodes: readonly Engine[], steps: readonly Step[]): Promise<void> {
  let log = new Log();
  let agent = new Agent(nodes, log);
  let sending: Promise<void>[] = [];
  let sent = 0;
  const settle = async () => {
    await Promise.all(sending);
    sending = [];
    for (const engine of nodes) await engine.committer.idle();
  };
  await agent.open(0);
  await agent.opened();
  for (const one of steps) {
    switch (one.kind) {
      case "signal": {
        const n = one.again && sent > 0 ? sent : ++sent;
        const variant = one.differs ? 1 : 0;
        sending.push(log.signal(nodes[one.node]!, `sender-${n}`, variant));
        break;
      }
      case "append":
        await agent.append(one.count, one.signals);
        break;
      case "wait":
        await agent.wait(one.isBounded);
        break;
      case "finish":
        await agent.finish();
        break;
      case "die":
        await agent.open(one.node);
        break;
      case "cancel":
        sending.push(log.cancel(nodes[one.node]!));
        break;
      case "expire":
        sending.push(expire(nodes[one.node]!));
        break;
      case "turns":
        for (let i = 0; i < one.count; i++) await new Promise((r) => setImmediate(r));
        break;
      case "delete": {
        await agent.leave();
        await settle();
        const violations = await broken(nodes[0]!, log);
        assert.deepEqual(violations, []);
        const isDeleted = await nodes[one.node]!.deletions.delete("default", run).then(
          () => true,
          (error: unknown) => {
            if (!(error instanceof RefusedError)) throw error;
            return false;
          },
        );
        // The same run, and the same ids of signals, from the beginning.
        if (isDeleted) {
          log = new Log();
          agent = new Agent(nodes, log);
          sent = 0;
        } else log.entries.pop();
        await agent.open(one.node);
        await agent.opened();
      }
    }
  }
  await agent.leave();
  await settle();
  assert.deepEqual(await broken(nodes.at(-1)!, log), []);
}

describe("a run that gets signals, waits, is asked to stop, taken over and deleted", () => {
  for (const [name, notifications] of [
    ["on nodes that wake each other", undefined],
    ["on nodes of which every wake-up is lost", deaf],
  ] as const) {
    it(`keeps what senders and its producer were promised, ${name}`, async () => {
      await assertHistories(
        15,
        [fc.array(step, { minLength: 30, maxLength: 120, size: "max" })],
        async (steps) => {
          const running = await startNodes(nodeCount, notifications && { notifications });
          try {
            await runSteps(running.nodes, steps);
            assert.deepEqual(running.failures, []);
          } finally {
            await running.remove();
          }
        },
      );
    });
  }
});
