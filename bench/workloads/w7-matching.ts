/**
 * W7: 10,000 runs in one family, and subscribers of inner nodes. One of them has
 * news, whatever the number of the others: what a record costs the server does
 * not depend on it.
 */
import { cpuMs } from "../measure.ts";
import { Payloads } from "../payloads.ts";
import { RunlogClient, runlog } from "../systems/runlog.ts";
import type { Case, Verdict, Workload } from "./workload.ts";

interface Params extends Case {
  readonly subscriptions: number;
  readonly events: number;
}

/** Inner nodes, and leaves below each. */
const width = 100;
const counts = [10, 100, 1_000, 10_000];

/** See the head of this file. */
export const w7: Workload<Params> = {
  id: "W7",
  title: "10,000 runs in one family, one of n subscriptions matches",
  figures: [{ name: "server CPU", unit: "µs/event", better: "less" }],
  systems: [runlog],
  rounds: 3,
  xAxis: "subscriptions",
  cases: (mode) =>
    counts.map((subscriptions) => {
      const events = mode === "quick" ? 2_000 : 20_000;
      return { name: subscriptions.toLocaleString("en"), x: subscriptions, subscriptions, events };
    }),
  async run({ client, pid, params: { subscriptions, events } }) {
    if (!(client instanceof RunlogClient)) throw new Error("only runlog has families");
    const inner = Array.from({ length: width }, (_, i) => `inner-${i}`);
    const leaves = inner.flatMap((id) => Array.from({ length: width }, (_, i) => `${id}-${i}`));
    await client.createRuns(["root"], () => "");
    await client.createRuns(inner, () => "root");
    await client.createRuns(leaves, (index) => inner[Math.floor(index / width)]!);
    // The first inner node has the news; the others are of nodes that have none.
    const idle = [...inner.slice(1), ...leaves.slice(width)];
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
    return { "server CPU": (((await cpuMs(pid!)) - before) * 1_000) / events };
  },
  verdicts: (medians) => {
    const goal = "10,000 subscriptions cost a record at most 1.5 × what 10 do";
    const few = medians("runlog", "10", "server CPU");
    const many = medians("runlog", "10,000", "server CPU");
    const verdict: Verdict =
      few === undefined || many === undefined
        ? { goal, measured: undefined, isMet: undefined }
        : { goal, measured: `${(many / few).toFixed(2)} ×`, isMet: many / few <= 1.5 };
    return [verdict];
  },
};
