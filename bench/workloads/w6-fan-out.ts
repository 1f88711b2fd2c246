import { cpuMs } from "../measure.ts";
import { Checker, Payloads } from "../payloads.ts";
import { durableStreams } from "../systems/durable-streams.ts";
import { jetstreamDefault } from "../systems/jetstream.ts";
import { redis } from "../systems/redis.ts";
import { RunlogClient, runlog } from "../systems/runlog.ts";
import type { OnEvent, SystemClient } from "../systems/system.ts";
import { type Case, rateOf, ratioVerdict, type Workload } from "./workload.ts";

interface Params extends Case {
  readonly subscribers: number;
  /** Infinity: all at once. */
  readonly perSecond: number;
  readonly events: number;
  readonly warmUp: number;
}

const steady = "1,000 events/s";
const burst = "all at once";
const peers = [redis, jetstreamDefault, durableStreams];
/** Milliseconds without a delivery after which the rest is given up. */
const stallMs = 10_000;
/** A rate that is no bound; JSON knows no Infinity. */
const unbounded = Number.MAX_SAFE_INTEGER;

async function prepare(client: SystemClient) {
  if (!(client instanceof RunlogClient)) {
    return (onEvent: OnEvent) => client.follow("w6", onEvent);
  }
  await client.createRuns(["w6-root", "w6"], (index) => (index === 0 ? "" : "w6-root"));
  return (onEvent: OnEvent) =>
    client.followScope({ case: "ancestor", value: { ancestorRunId: "w6-root" } }, onEvent);
}

/**
 * W6: one run, 500 subscribers of its ancestor, 1,000 events a second. Peers have no ancestors: there it is the stream.
 */
export const w6: Workload<Params> = {
  id: "W6",
  title: "one run, 500 subscribers of its ancestor",
  figures: [
    { name: "delivered", unit: "events/s", better: "more" },
    { name: "server CPU", unit: "µs/delivery", better: "less" },
  ],
  systems: [runlog, ...peers],
  rounds: 3,
  cases: (mode) => {
    const events = mode === "quick" ? 300 : 4_000;
    const warmUp = mode === "quick" ? 10 : 1_000;
    const steadily = { name: steady, subscribers: 500, perSecond: 1_000, events, warmUp };
    if (mode === "quick") return [steadily];
    return [steadily, { name: burst, subscribers: 500, perSecond: unbounded, events, warmUp }];
  },
  async run({ client, pid, params: { subscribers, perSecond, events, warmUp } }) {
    const payloads = new Payloads(256);
    const follow = await prepare(client);
    await client.writeOne("w6", payloads.of(1));
    const broken = Promise.withResolvers<never>();
    broken.promise.catch(() => undefined);
    let last = 1;
    let left = 0;
    let delivered = 0;
    let onArrived: () => void = () => undefined;
    const followings = await Promise.all(
      Array.from({ length: subscribers }, () => {
        const checker = new Checker(1);
        return follow((n) => {
          try {
            checker.take(n);
            delivered++;
          } catch (error) {
            broken.reject(error);
          }
          if (n === last && --left === 0) onArrived();
        });
      }),
    );
    const failed = [broken.promise, ...followings.map((following) => following.failed)];

    /** Writes events at a rate, and waits until every subscriber has all of them. */
    const deliver = async (count: number, rate: number) => {
      const first = last + 1;
      last += count;
      left = subscribers;
      const arrived = new Promise<void>((resolve) => {
        onArrived = resolve;
      });
      const acked: Promise<void>[] = [];
      const start = performance.now();
      const timer = setInterval(() => {
        const due = Math.min(count, Math.floor(((performance.now() - start) / 1_000) * rate));
        while (acked.length < due) {
          acked.push(client.writeOne("w6", payloads.of(first + acked.length)));
        }
        if (acked.length === count) clearInterval(timer);
      }, 1);
      let before = delivered;
      const stalled = setInterval(() => {
        if (delivered === before) broken.reject(new Error(`void: nothing came for ${stallMs} ms`));
        before = delivered;
      }, stallMs);
      try {
        await Promise.race([arrived, ...failed]);
      } finally {
        clearInterval(timer);
        clearInterval(stalled);
      }
      const ms = performance.now() - start;
      await Promise.all(acked);
      return ms;
    };

    await deliver(warmUp, unbounded);
    const cpuBefore = await cpuMs(pid!);
    const ms = await deliver(events, perSecond);
    const cpu = (await cpuMs(pid!)) - cpuBefore;
    for (const following of followings) await following.stop();
    const deliveries = subscribers * events;
    return { delivered: rateOf(deliveries, ms), "server CPU": (cpu * 1_000) / deliveries };
  },
  verdicts: (medians) =>
    [steady, burst].flatMap((caseName) =>
      peers.map(({ name: of }) => {
        const verdict = ratioVerdict(medians, { figure: "delivered", of, caseName, least: 2 });
        return { ...verdict, goal: `${caseName}: ${verdict.goal}` };
      }),
    ),
};
