import { cpuMs } from "../measure.ts";
import { Checker, Payloads } from "../payloads.ts";
import { runlog } from "../systems/runlog.ts";
import { runlogWithAccess } from "../systems/runlog-with-access.ts";
import { type Case, rateOf, timed, type Workload } from "./workload.ts";

interface Params extends Case {
  readonly runs: number;
  readonly eventsEach: number;
  readonly warmUpEach: number;
  /** Of W1; 0: as they are emitted, as in W2. */
  readonly perAppend: number;
}

/** Streams that are opened at once. */
const openers = 16;
const oneRun = "events of one run, 100 to an append";
const manyRuns = "events of 1,000 runs, as they are emitted";
const streams = "streams, each opened and answered";

/**
 * W14: runlog that asks who calls, what they may do and what they use, beside the same without:
 * W1, W2, and streams that bring nothing else than their opening. What the server computes for
 * each is compared: it depends less on what else a machine does than the rate.
 */
export const w14: Workload<Params> = {
  id: "W14",
  title: "with an access file and quotas, beside the same without",
  figures: [
    { name: "server's CPU", unit: "µs of each", better: "less" },
    { name: "rate", unit: "a second", better: "more" },
  ],
  systems: [runlog, runlogWithAccess],
  rounds: 7,
  cases: (mode) => {
    const part = mode === "quick" ? 10 : 1;
    return [
      {
        name: oneRun,
        runs: 1,
        eventsEach: 800_000 / part,
        warmUpEach: 200_000 / part,
        perAppend: 100,
      },
      { name: manyRuns, runs: 1_000, eventsEach: 200 / part, warmUpEach: 40 / part, perAppend: 0 },
      { name: streams, runs: 0, eventsEach: 8_000 / part, warmUpEach: 4_000 / part, perAppend: 0 },
    ];
  },
  async run({ client, pid, params: { runs, eventsEach, warmUpEach, perAppend } }) {
    const payloads = new Payloads(256);
    const measured = async (count: number, work: () => Promise<unknown>) => {
      const before = await cpuMs(pid!);
      const ms = await timed(work);
      const cpu = await cpuMs(pid!);
      return { rate: rateOf(count, ms), "server's CPU": ((cpu - before) * 1_000) / count };
    };
    if (runs === 0) {
      await client.write("w14", payloads, { first: 1, count: 1, perAppend: 1 });
      const open = (count: number) =>
        Promise.all(
          Array.from({ length: openers }, async () => {
            for (let n = 0; n < count / openers; n++) {
              const following = await client.follow("w14", () => undefined);
              await following.stop();
            }
          }),
        );
      await open(warmUpEach);
      return measured(eventsEach, () => open(eventsEach));
    }
    const write = (prefix: string, count: number) => {
      if (runs === 1) return client.write(prefix, payloads, { first: 1, count, perAppend });
      const names = Array.from({ length: runs }, (_, at) => `${prefix}-${at}`);
      return client.writeEach(names, payloads, { eventsEach: count, unacked: 100 });
    };
    await write("warm-up", warmUpEach);
    const figures = await measured(runs * eventsEach, () => write("w14", eventsEach));
    const checker = new Checker();
    await client.read(runs === 1 ? "w14" : "w14-7", eventsEach, (n) => checker.take(n));
    return figures;
  },
  verdicts: (medians) =>
    [oneRun, manyRuns, streams].map((caseName) => {
      const without = medians(runlog.name, caseName, "server's CPU");
      const withAccess = medians(runlogWithAccess.name, caseName, "server's CPU");
      const goal = `${caseName}: at most 1.05 × the same without`;
      if (without === undefined || withAccess === undefined) {
        return { goal, measured: undefined, isMet: undefined };
      }
      const ratio = withAccess / without;
      return { goal, measured: `${ratio.toFixed(3)} ×`, isMet: ratio <= 1.05 };
    }),
};
