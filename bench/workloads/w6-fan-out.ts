/** W6: one run, 500 subscribers of its ancestor, 1,000 events a second. Peers have no ancestors: there it is the stream. */
import { cpuMs } from "../measure.ts";
import { Checker, Payloads } from "../payloads.ts";
import { durableStreams } from "../systems/durable-streams.ts";
import { jetstreamDefault } from "../systems/jetstream.ts";
import { redis } from "../systems/redis.ts";
import { RunlogClient, runlog } from "../systems/runlog.ts";
import type { OnEvent, SystemClient } from "../systems/system.ts";
import { type Case, rateOf, ratioVerdict, timed, type Workload } from "./workload.ts";

interface Params extends Case {
  readonly subscribers: number;
  /** Infinity: all at once. */
  readonly perSecond: number;
  readonly events: number;
}

const steady = "1,000 events/s";
const burst = "all at once";
const peers = [redis, jetstreamDefault, durableStreams];
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

/** See the head of this file. */
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
    const steadily = { name: steady, subscribers: 500, perSecond: 1_000, events };
    if (mode === "quick") return [steadily];
    return [steadily, { name: burst, subscribers: 500, perSecond: unbounded, events }];
  },
  async run({ client, pid, params: { subscribers, perSecond, events } }) {
    const payloads = new Payloads(256);
    const follow = await prepare(client);
    await client.writeOne("w6", payloads.of(1));
    const { promise: arrived, resolve, reject } = Promise.withResolvers<void>();
    let left = subscribers;
    const followings = await Promise.all(
      Array.from({ length: subscribers }, () => {
        const checker = new Checker(1);
        return follow((n) => {
          try {
            checker.take(n);
          } catch (error) {
            reject(error);
          }
          if (n === events + 1 && --left === 0) resolve();
        });
      }),
    );
    const acked: Promise<void>[] = [];
    const cpuBefore = await cpuMs(pid!);
    const ms = await timed(async () => {
      const start = performance.now();
      const timer = setInterval(() => {
        const due = Math.min(events, Math.floor(((performance.now() - start) / 1_000) * perSecond));
        while (acked.length < due) acked.push(client.writeOne("w6", payloads.of(acked.length + 2)));
        if (acked.length === events) clearInterval(timer);
      }, 1);
      try {
        await Promise.race([arrived, ...followings.map(({ failed }) => failed)]);
      } finally {
        clearInterval(timer);
      }
    });
    const cpu = (await cpuMs(pid!)) - cpuBefore;
    await Promise.all(acked);
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
