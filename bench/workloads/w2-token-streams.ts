import { Checker, Payloads } from "../payloads.ts";
import { jetstreamDefault, jetstreamSynced } from "../systems/jetstream.ts";
import { redis } from "../systems/redis.ts";
import { runlog } from "../systems/runlog.ts";
import { type Case, rateOf, ratioVerdict, timed, type Workload } from "./workload.ts";

interface Params extends Case {
  readonly runs: number;
  readonly eventsEach: number;
  readonly warmUpEach: number;
  readonly unacked: number;
}

/** Runs that are read back. */
const checkedRuns = 10;
const emitted = "as they are emitted";
const awaited = "each waits for the one before";
// Durable Streams is missing: its server answers appends to some of 1,000 new streams with 404.
const peers = [redis, jetstreamDefault, jetstreamSynced];

/**
 * W2: 1,000 runs in one process, an event at a time each: as it is emitted, one in
 * each turn of the event loop; and the next once the one before is durable.
 */
export const w2: Workload<Params> = {
  id: "W2",
  title: "1,000 runs in one process, an event at a time each",
  figures: [{ name: "ingest", unit: "events/s", better: "more" }],
  systems: [runlog, ...peers],
  rounds: 3,
  cases: (mode) => {
    const runs = 1_000;
    if (mode === "quick")
      return [{ name: emitted, runs, eventsEach: 5, warmUpEach: 2, unacked: 100 }];
    return [
      { name: emitted, runs, eventsEach: 100, warmUpEach: 40, unacked: 100 },
      // Longer than the code takes to be compiled, which is most of a second here.
      { name: awaited, runs, eventsEach: 100, warmUpEach: 50, unacked: 1 },
    ];
  },
  async run({ client, params: { runs, eventsEach, warmUpEach, unacked } }) {
    const payloads = new Payloads(256);
    const names = (prefix: string) => Array.from({ length: runs }, (_, i) => `${prefix}-${i}`);
    await client.writeEach(names("warm-up"), payloads, { eventsEach: warmUpEach, unacked });
    const ms = await timed(() => client.writeEach(names("w2"), payloads, { eventsEach, unacked }));
    for (let i = 0; i < checkedRuns; i++) {
      const checker = new Checker();
      await client.read(`w2-${i * 7}`, eventsEach, (n) => checker.take(n));
    }
    return { ingest: rateOf(runs * eventsEach, ms) };
  },
  verdicts: (medians) =>
    [emitted, awaited].flatMap((caseName) =>
      peers.map(({ name: of }) => {
        const verdict = ratioVerdict(medians, { figure: "ingest", of, caseName, least: 2 });
        return { ...verdict, goal: `${caseName}: ${verdict.goal}` };
      }),
    ),
};
