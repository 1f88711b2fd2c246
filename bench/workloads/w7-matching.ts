import { Tails } from "../../src/delivery/tails.ts";
import { cpuMs } from "../measure.ts";
import { Payloads } from "../payloads.ts";
import { RunlogClient, runlog } from "../systems/runlog.ts";
import type { Case, Verdict, Workload } from "./workload.ts";

interface Params extends Case {
  readonly subscriptions: number;
  readonly events: number;
  /** Of the measure in this process. */
  readonly records: number;
}

/** Inner nodes, and leaves below each. */
const width = 100;
const tailBytes = 64 * 1024 * 1024;
const counts = [10, 100, 1_000, 10_000];

/** Microseconds until a record has woken who wants it, in this process; the quickest of several tries. */
function matchingUs(
  subscribed: readonly string[],
  lineage: readonly string[],
  records: number,
): number {
  const tries = 8;
  let best = Number.POSITIVE_INFINITY;
  for (let i = 0; i < tries; i++) {
    const tails = new Tails(tailBytes);
    let woken = 0;
    const data = new Uint8Array(16);
    const publish = (firstSeq: number) => {
      tails.publish(
        "default",
        [{ firstSeq, count: 1, lineage, firstRunSeq: firstSeq, types: "token", data }],
        0,
      );
    };
    publish(1);
    for (const ancestorId of subscribed) {
      const scope = {
        kind: "ancestor",
        ancestorId,
        includeSelf: true,
        maxDepth: Number.POSITIVE_INFINITY,
      } as const;
      tails.watch("default", { scope, kinds: undefined }, () => woken++);
    }
    // Half of them first: then the garbage collector has moved the new subscriptions.
    let seq = 2;
    while (seq <= records + 1) publish(seq++);
    const start = performance.now();
    while (seq <= 2 * records + 1) publish(seq++);
    best = Math.min(best, ((performance.now() - start) * 1_000) / records);
    if (woken !== 2 * records) throw new Error(`void: ${woken} of ${2 * records} were noticed`);
  }
  return best;
}

/**
 * W7: 10,000 runs in one family, and subscribers of inner nodes. One of them has
 * news, whatever the number of the others: what a record costs the server does
 * not depend on it.
 */
export const w7: Workload<Params> = {
  id: "W7",
  title: "10,000 runs in one family, one of n subscriptions matches",
  figures: [
    { name: "matching", unit: "µs/record", better: "less" },
    { name: "server CPU", unit: "µs/event", better: "less" },
  ],
  systems: [runlog],
  rounds: 3,
  xAxis: "subscriptions",
  cases: (mode) =>
    (mode === "quick" ? [10, 1_000] : counts).map((subscriptions) => {
      const [events, records] = mode === "quick" ? [2_000, 10_000] : [100_000, 200_000];
      const name = subscriptions.toLocaleString("en");
      return { name, x: subscriptions, subscriptions, events, records };
    }),
  async run({ client, pid, params: { subscriptions, events, records } }) {
    if (!(client instanceof RunlogClient)) throw new Error("only runlog has families");
    const inner = Array.from({ length: width }, (_, i) => `inner-${i}`);
    const leaves = inner.flatMap((id) => Array.from({ length: width }, (_, i) => `${id}-${i}`));
    await client.createRuns(["root"], () => "");
    await client.createRuns(inner, () => "root");
    await client.createRuns(leaves, (index) => inner[Math.floor(index / width)]!);
    // The first inner node has the news; the others are of nodes that have none.
    const idle = [...inner.slice(1), ...leaves.slice(width)];
    // Before this process has the other ends of so many streams for its garbage collector.
    const subscribed = Array.from({ length: subscriptions - 1 }, (_, i) => idle[i % idle.length]!);
    const lineage = [leaves[0]!, inner[0]!, "root"];
    const matching = matchingUs([inner[0]!, ...subscribed], lineage, records);
    const follow = (ancestorRunId: string, onEvent: () => void) =>
      client.followScope(
        { case: "ancestor", value: { ancestorRunId, includeSelf: true } },
        onEvent,
      );
    for (let i = 0; i < subscriptions - 1; i++) {
      await follow(idle[i % idle.length]!, () => {
        throw new Error("void: an event came to a subscriber of another family");
      });
    }
    const payloads = new Payloads(256);
    const { promise: arrived, resolve } = Promise.withResolvers<void>();
    let left = 2 * events;
    await follow(inner[0]!, () => {
      if (--left === events) warm.resolve();
      if (left === 0) resolve();
    });
    const warm = Promise.withResolvers<void>();
    const write = (first: number) =>
      client.write(leaves[0]!, payloads, { first, count: events, perAppend: 10 });
    await write(1);
    await warm.promise;
    const before = await cpuMs(pid!);
    await write(events + 1);
    await arrived;
    const cpu = (await cpuMs(pid!)) - before;
    return { matching, "server CPU": (cpu * 1_000) / events };
  },
  verdicts: (medians) => {
    const goal = "matching among 10,000 subscriptions costs at most 1.5 × what it does among 10";
    const few = medians("runlog", "10", "matching");
    const many = medians("runlog", "10,000", "matching");
    const verdict: Verdict =
      few === undefined || many === undefined
        ? { goal, measured: undefined, isMet: undefined }
        : { goal, measured: `${(many / few).toFixed(2)} ×`, isMet: many / few <= 1.5 };
    return [verdict];
  },
};
