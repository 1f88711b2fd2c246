import { bytesIn } from "../measure.ts";
import { Checker, Payloads } from "../payloads.ts";
import { bareSqlite } from "../systems/bare-sqlite.ts";
import { durableStreams } from "../systems/durable-streams.ts";
import { jetstreamDefault } from "../systems/jetstream.ts";
import { redis } from "../systems/redis.ts";
import { runlog } from "../systems/runlog.ts";
import { type Case, rateOf, ratioVerdict, timed, type Workload } from "./workload.ts";

interface Params extends Case {
  readonly events: number;
  readonly warmUp: number;
}

const perAppend = 100;
const name = "256 bytes";

/** W1: one producer, one run, pipelined, 100 to an append, acknowledged durable. */
export const w1: Workload<Params> = {
  id: "W1",
  title: "one producer, one run, pipelined, 100 to an append",
  figures: [
    { name: "ingest", unit: "events/s", better: "more" },
    { name: "on disk", unit: "bytes/event", better: "less" },
  ],
  systems: [runlog, redis, jetstreamDefault, durableStreams, bareSqlite],
  rounds: 5,
  cases: (mode) => [
    mode === "quick"
      ? { name, events: 60_000, warmUp: 20_000 }
      : { name, events: 400_000, warmUp: 100_000 },
  ],
  async run({ system, client, directory, params: { events, warmUp } }) {
    const payloads = new Payloads(256);
    if (system === bareSqlite) {
      await client.write("w1", payloads, { first: 1, count: warmUp, perAppend });
      const range = { first: warmUp + 1, count: events, perAppend };
      const ms = await timed(() => client.write("w1", payloads, range));
      return {
        ingest: rateOf(events, ms),
        "on disk": (await bytesIn(directory)) / (warmUp + events),
      };
    }
    await client.write("warm-up", payloads, { first: 1, count: warmUp, perAppend });
    const range = { first: 1, count: events, perAppend };
    const ms = await timed(() => client.write("w1", payloads, range));
    const onDisk = (await bytesIn(directory)) / (warmUp + events);
    const checker = new Checker();
    await client.read("w1", events, (n) => checker.take(n));
    return { ingest: rateOf(events, ms), "on disk": onDisk };
  },
  verdicts: (medians) =>
    (
      [
        [redis.name, 4],
        [jetstreamDefault.name, 10],
        [durableStreams.name, 1.5],
        [bareSqlite.name, 0.5],
      ] as const
    ).map(([of, least]) => ratioVerdict(medians, { figure: "ingest", of, caseName: name, least })),
};
