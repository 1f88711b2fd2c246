import { Checker, Payloads } from "../payloads.ts";
import { quantile } from "../stats.ts";
import { RunlogClient, type RunlogScope, runlog } from "../systems/runlog.ts";
import { type Case, rateOf, timed, type Verdict, type Workload } from "./workload.ts";

interface Params extends Case {
  readonly runs: number;
  readonly eventsEach: number;
  readonly others: number;
  readonly isFamily: number;
}

/** Runs that the other events are of. */
const otherRuns = 100;
/** Replays whose first record is timed. */
const tries = 15;
const alone = "alone";
const among = "among others";
const filters = ["a family", "100 runs"] as const;

/** Milliseconds until the first record of a scope comes. */
async function firstRecordMs(client: RunlogClient, scope: RunlogScope): Promise<number> {
  const times: number[] = [];
  for (let i = 0; i < tries; i++) {
    times.push(await timed(() => client.readScope(scope, 1, () => undefined)));
  }
  return quantile(times, 0.5);
}

/**
 * W4: replay of one family, and of 100 runs, in an empty journal and among a
 * million other events: the cost follows what matches. Peers have no such
 * filters; a stream of theirs is one run.
 */
export const w4: Workload<Params> = {
  id: "W4",
  title: "replay of what matches, among what does not",
  figures: [
    { name: "first record", unit: "ms", better: "less" },
    { name: "replay", unit: "events/s", better: "more" },
  ],
  systems: [runlog],
  rounds: 3,
  cases: (mode) => {
    const others = mode === "quick" ? 50_000 : 1_000_000;
    const family = { runs: 10, eventsEach: 100, isFamily: 1 };
    const hundred = { runs: 100, eventsEach: mode === "quick" ? 200 : 10_000, isFamily: 0 };
    return [
      { name: `${filters[0]}, ${alone}`, ...family, others: 0 },
      { name: `${filters[0]}, ${among}`, ...family, others },
      { name: `${filters[1]}, ${alone}`, ...hundred, others: 0 },
      { name: `${filters[1]}, ${among}`, ...hundred, others },
    ];
  },
  async run({ client, params: { runs, eventsEach, others, isFamily } }) {
    if (!(client instanceof RunlogClient)) throw new Error("only runlog has such filters");
    const payloads = new Payloads(256);
    const range = (count: number) => ({ first: 1, count, perAppend: 100 });
    const writeOthers = async (half: number) => {
      for (let i = 0; i < otherRuns && others > 0; i++) {
        await client.write(`other-${half}-${i}`, payloads, range(others / otherRuns / 2));
      }
    };
    await writeOthers(1);
    const runIds = Array.from({ length: runs }, (_, i) => `run-${i}`);
    await client.createRuns(["root", ...runIds], (i) => (i === 0 ? "" : "root"));
    for (const runId of runIds) await client.write(runId, payloads, range(eventsEach));
    await writeOthers(2);
    const scope: RunlogScope =
      isFamily === 1
        ? { case: "ancestor", value: { ancestorRunId: "root" } }
        : { case: "runIds", value: { runIds } };
    const first = await firstRecordMs(client, scope);
    const count = runs * eventsEach;
    const ms = await timed(async () => {
      let checker = new Checker();
      await client.readScope(scope, count, (n) => {
        // Runs were written one after the other.
        if (n === 1) checker = new Checker();
        checker.take(n);
      });
    });
    return { "first record": first, replay: rateOf(count, ms) };
  },
  verdicts: (medians) =>
    filters.map((filter): Verdict => {
      const before = medians("runlog", `${filter}, ${alone}`, "first record");
      const after = medians("runlog", `${filter}, ${among}`, "first record");
      const goal = `first record of ${filter} among others within 3 × of alone`;
      if (before === undefined || after === undefined) {
        return { goal, measured: undefined, isMet: undefined };
      }
      const ratio = after / before;
      return { goal, measured: `${ratio.toFixed(2)} ×`, isMet: ratio <= 3 };
    }),
};
