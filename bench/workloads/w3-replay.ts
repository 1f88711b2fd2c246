import { Checker, Payloads } from "../payloads.ts";
import { bareGrpc } from "../systems/bare-grpc.ts";
import { durableStreams } from "../systems/durable-streams.ts";
import { jetstreamDefault } from "../systems/jetstream.ts";
import { redis } from "../systems/redis.ts";
import { runlog } from "../systems/runlog.ts";
import { type Case, rateOf, ratioVerdict, timed, type Workload } from "./workload.ts";

interface Params extends Case {
  readonly events: number;
  readonly warmUp: number;
  readonly warmUpMs: number;
}

const name = "one run";

/**
 * W3: replay of 1,000,000 events to one subscriber; events are decoded and looked at as they come.
 */
export const w3: Workload<Params> = {
  id: "W3",
  title: "replay of one run to one subscriber",
  figures: [{ name: "replay", unit: "events/s", better: "more" }],
  systems: [runlog, redis, jetstreamDefault, durableStreams, bareGrpc],
  rounds: 3,
  cases: (mode) => [
    mode === "quick"
      ? { name, events: 51_200, warmUp: 10_240, warmUpMs: 0 }
      : { name, events: 1_024_000, warmUp: 204_800, warmUpMs: 1_500 },
  ],
  async run({ client, params: { events, warmUp, warmUpMs } }) {
    const payloads = new Payloads(256);
    const write = (stream: string, count: number) =>
      client.write(stream, payloads, { first: 1, count, perAppend: 100 });
    const replay = async (stream: string, count: number) => {
      const checker = new Checker();
      const ms = await timed(() => client.read(stream, count, (n) => checker.take(n)));
      if (checker.last !== count) throw new Error(`void: ${checker.last} of ${count} events came`);
      return ms;
    };
    await write("warm-up", warmUp);
    // By time: a fast system has read all of it before its code is compiled.
    let warmMs = 0;
    do warmMs += await replay("warm-up", warmUp);
    while (warmMs < warmUpMs);
    await write("w3", events);
    return { replay: rateOf(events, await replay("w3", events)) };
  },
  verdicts: (medians) =>
    (
      [
        [redis.name, 2],
        [jetstreamDefault.name, 3],
        [durableStreams.name, 1.5],
        [bareGrpc.name, 0.6],
      ] as const
    ).map(([of, least]) => ratioVerdict(medians, { figure: "replay", of, caseName: name, least })),
};
