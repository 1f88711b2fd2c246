import { fsyncMs } from "../measure.ts";
import { Checker, Payloads } from "../payloads.ts";
import { quantile } from "../stats.ts";
import { durableStreams } from "../systems/durable-streams.ts";
import { jetstreamDefault, jetstreamSynced } from "../systems/jetstream.ts";
import { redis } from "../systems/redis.ts";
import { runlog } from "../systems/runlog.ts";
import type { Case, Verdict, Workload } from "./workload.ts";

interface Params extends Case {
  readonly perSecond: number;
  readonly seconds: number;
}

const name = "5,000 events/s";

/**
 * W5: live latency at 5,000 events a second, from the emitting of an event to its arrival at a subscriber.
 */
export const w5: Workload<Params> = {
  id: "W5",
  title: "live latency at 5,000 events/s, emit to receive",
  figures: [
    { name: "p50", unit: "ms", better: "less" },
    { name: "p99", unit: "ms", better: "less" },
    { name: "p99.9", unit: "ms", better: "less" },
    { name: "fsync p50", unit: "ms", better: "less" },
  ],
  systems: [runlog, redis, jetstreamSynced, jetstreamDefault, durableStreams],
  rounds: 3,
  cases: (mode) => [{ name, perSecond: 5_000, seconds: mode === "quick" ? 1 : 10 }],
  async run({ client, directory, params: { perSecond, seconds } }) {
    const payloads = new Payloads(256);
    const warmUp = perSecond;
    const total = warmUp + perSecond * seconds;
    const emittedMs = new Float64Array(total + 1);
    const latencies: number[] = [];
    const checker = new Checker();
    const { promise: arrived, resolve, reject } = Promise.withResolvers<void>();
    // The stream has to be there before it can be followed.
    await client.writeOne("w5", payloads.of(1));
    const following = await client.follow("w5", (n) => {
      try {
        checker.take(n - 1);
      } catch (error) {
        reject(error);
      }
      if (n > warmUp) latencies.push(performance.now() - emittedMs[n - 1]!);
      if (n === total + 1) resolve();
    });
    const acked: Promise<void>[] = [];
    const start = performance.now();
    let emitted = 0;
    const timer = setInterval(() => {
      // What is due by now, so that a client that was late makes up for it.
      const due = Math.min(total, Math.floor(((performance.now() - start) / 1_000) * perSecond));
      for (; emitted < due; emitted++) {
        emittedMs[emitted + 1] = start + ((emitted + 1) / perSecond) * 1_000;
        acked.push(client.writeOne("w5", payloads.of(emitted + 2)));
      }
      if (emitted === total) clearInterval(timer);
    }, 1);
    try {
      await Promise.race([arrived, following.failed]);
      await Promise.all(acked);
    } finally {
      clearInterval(timer);
      await following.stop();
    }
    return {
      p50: quantile(latencies, 0.5),
      p99: quantile(latencies, 0.99),
      "p99.9": quantile(latencies, 0.999),
      "fsync p50": quantile(await fsyncMs(directory), 0.5),
    };
  },
  verdicts: (medians) =>
    ["p50", "p99", "p99.9"].map((figure): Verdict => {
      const ours = medians("runlog", name, figure);
      const theirs = medians(jetstreamSynced.name, name, figure);
      const goal = `${figure} at most that of ${jetstreamSynced.name}`;
      if (ours === undefined || theirs === undefined) {
        return { goal, measured: undefined, isMet: undefined };
      }
      const measured = `${ours.toFixed(1)} to ${theirs.toFixed(1)} ms`;
      return { goal, measured, isMet: ours <= theirs };
    }),
};
