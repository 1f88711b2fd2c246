/** W2: 1,000 runs in one process, an event at a time each: the next once the one before is durable. */
import { Checker, Payloads } from "../payloads.ts";
import { jetstreamDefault, jetstreamSynced } from "../systems/jetstream.ts";
import { redis } from "../systems/redis.ts";
import { runlog } from "../systems/runlog.ts";
import { type Case, rateOf, ratioVerdict, timed, type Workload } from "./workload.ts";

interface Params extends Case {
  readonly runs: number;
  readonly eventsEach: number;
  readonly warmUpEach: number;
}

/** Runs that are read back. */
const checkedRuns = 10;
const name = "1,000 runs";
// Durable Streams is missing: its server answers appends to some of 1,000 new streams with 404.
const peers = [redis, jetstreamDefault, jetstreamSynced];

/** See the head of this file. */
export const w2: Workload<Params> = {
  id: "W2",
  title: "1,000 runs in one process, an event at a time each",
  figures: [{ name: "ingest", unit: "events/s", better: "more" }],
  systems: [runlog, ...peers],
  rounds: 3,
  cases: (mode) => [
    mode === "quick"
      ? { name, runs: 1_000, eventsEach: 5, warmUpEach: 2 }
      : { name, runs: 1_000, eventsEach: 50, warmUpEach: 20 },
  ],
  async run({ client, params: { runs, eventsEach, warmUpEach } }) {
    const payloads = new Payloads(256);
    const names = (prefix: string) => Array.from({ length: runs }, (_, i) => `${prefix}-${i}`);
    await client.writeEach(names("warm-up"), payloads, warmUpEach);
    const ms = await timed(() => client.writeEach(names("w2"), payloads, eventsEach));
    for (let i = 0; i < checkedRuns; i++) {
      const checker = new Checker();
      await client.read(`w2-${i * 7}`, eventsEach, (n) => checker.take(n));
    }
    return { ingest: rateOf(runs * eventsEach, ms) };
  },
  verdicts: (medians) =>
    peers.map(({ name: of }) =>
      ratioVerdict(medians, { figure: "ingest", of, caseName: name, least: 2 }),
    ),
};
