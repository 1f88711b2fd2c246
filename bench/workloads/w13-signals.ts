import { createClient } from "@connectrpc/connect";
import { RunService } from "../../gen/runlog/v1/run_pb.js";
import { fsyncMs } from "../measure.ts";
import { Payloads } from "../payloads.ts";
import { quantile } from "../stats.ts";
import { RunlogClient, runlog } from "../systems/runlog.ts";
import type { Case, Verdict, Workload } from "./workload.ts";

interface Params extends Case {
  readonly perSecond: number;
  readonly seconds: number;
}

/** Round trips for each plain event: two commits, and a frame more. */
const goal = 3;

const casesOf = (seconds: number): readonly Params[] =>
  [20, 500].map((perSecond) => ({ name: `${perSecond} signals/s`, perSecond, seconds }));

/**
 * W13: from SignalRun over the producer's frame to its answering event at a subscriber, and
 * beside it, at the same time and rate, plain events of another run.
 */
export const w13: Workload<Params> = {
  id: "W13",
  title: "a signal and its answer, beside plain events",
  figures: [
    { name: "signal p50", unit: "ms", better: "less" },
    { name: "signal p99", unit: "ms", better: "less" },
    { name: "event p50", unit: "ms", better: "less" },
    { name: "event p99", unit: "ms", better: "less" },
    { name: "p50 ratio", unit: "×", better: "less" },
    { name: "p99 ratio", unit: "×", better: "less" },
    { name: "fsync p50", unit: "ms", better: "less" },
  ],
  systems: [runlog],
  rounds: 3,
  cases: (mode) => casesOf(mode === "quick" ? 2 : 20),
  async run({ client, directory, params: { perSecond, seconds } }) {
    if (!(client instanceof RunlogClient)) throw new Error("only runlog has signals");
    const payloads = new Payloads(256);
    const warmUp = perSecond;
    const total = warmUp + perSecond * seconds;
    const runs = createClient(RunService, client.transport);
    const agent = await client.answerSignals("agent", payloads);
    // The stream has to be there before it can be followed.
    await client.writeOne("plain", payloads.of(1));
    const answers = await follow(client, "agent", { before: 0, count: total, warmUp });
    const events = await follow(client, "plain", { before: 1, count: total, warmUp });
    const { promise: broken, reject } = Promise.withResolvers<never>();
    const acked: Promise<unknown>[] = [];
    const taken = (answer: Promise<unknown>) => {
      acked.push(answer);
      answer.catch(reject);
    };
    const start = performance.now();
    const dueMs = (n: number) => start + (n / perSecond) * 1_000;
    let emitted = 0;
    const timer = setInterval(() => {
      // What is due by now, so that a client that was late makes up for it.
      const due = Math.min(total, Math.floor(((performance.now() - start) / 1_000) * perSecond));
      while (emitted < due) {
        const n = ++emitted;
        answers.emittedMs[n] = dueMs(n);
        events.emittedMs[n + 1] = dueMs(n);
        const event = { type: "input", data: payloads.of(n) };
        taken(runs.signalRun({ runId: "agent", signalId: `signal-${n}`, event }));
        taken(client.writeOne("plain", payloads.of(n + 1)));
      }
      if (emitted === total) clearInterval(timer);
    }, 1);
    try {
      await Promise.race([Promise.all([answers.all, events.all]), agent.failed, broken]);
      await Promise.all(acked);
    } finally {
      clearInterval(timer);
      await answers.stop();
      await events.stop();
      await agent.stop();
    }
    const signal = answers.latencies;
    const plain = events.latencies;
    return {
      "signal p50": quantile(signal, 0.5),
      "signal p99": quantile(signal, 0.99),
      "event p50": quantile(plain, 0.5),
      "event p99": quantile(plain, 0.99),
      "p50 ratio": quantile(signal, 0.5) / quantile(plain, 0.5),
      "p99 ratio": quantile(signal, 0.99) / quantile(plain, 0.99),
      "fsync p50": quantile(await fsyncMs(directory), 0.5),
    };
  },
  verdicts: (medians) =>
    casesOf(0).map(({ name }): Verdict => {
      const ratio = medians("runlog", name, "p50 ratio");
      return {
        goal: `${name}: p50 at most ${goal} × that of a plain event`,
        measured: ratio === undefined ? undefined : `${ratio.toFixed(2)} ×`,
        isMet: ratio === undefined ? undefined : ratio <= goal,
      };
    }),
};

/** Follows a run from the event after `before` to the last of so many; a warm-up does not count. */
async function follow(
  client: RunlogClient,
  run: string,
  { before, count, warmUp }: { before: number; count: number; warmUp: number },
) {
  const last = before + count;
  const emittedMs = new Float64Array(last + 1);
  const latencies: number[] = [];
  /** Calls that are under way at once may overtake each other: what counts is that each comes once. */
  const hasCome = new Uint8Array(last + 1);
  let left = count;
  const { promise, resolve, reject } = Promise.withResolvers<void>();
  const following = await client.follow(run, (n) => {
    if (hasCome[n] !== 0) reject(new Error(`void: event ${n} came twice`));
    hasCome[n] = 1;
    if (n > before + warmUp) latencies.push(performance.now() - emittedMs[n]!);
    if (--left === 0) resolve();
  });
  return {
    emittedMs,
    latencies,
    all: Promise.race([promise, following.failed]),
    stop: following.stop,
  };
}
