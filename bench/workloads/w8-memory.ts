import { mkdtemp, rm } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { residentKiB } from "../measure.ts";
import { Payloads } from "../payloads.ts";
import { quantile } from "../stats.ts";
import { RunlogClient, type RunlogScope, runlog } from "../systems/runlog.ts";
import { type Case, timed, type Verdict, type Workload } from "./workload.ts";

interface Params extends Case {
  readonly idle: number;
  readonly slow: number;
  readonly events: number;
  readonly largeJournal: number;
  /** Milliseconds without a change after which memory is read. */
  readonly settleMs: number;
}

const name = "one server";
const MiB = 1_024;
const starts = 3;
const warmUp = 50_000;
const everything: RunlogScope = { case: "all", value: {} };

/** Milliseconds to start on a journal of so many events. */
async function startMs(events: number): Promise<number> {
  const directory = await mkdtemp(join(tmpdir(), "runlog-bench-"));
  try {
    const server = await runlog.start(directory);
    const client = await runlog.connect(server.url);
    const payloads = new Payloads(256);
    await client.write("run", payloads, { first: 1, count: events, perAppend: 1_000 });
    await client.close();
    await server.stop();
    const times: number[] = [];
    for (let i = 0; i < starts; i++) {
      let again = server;
      times.push(
        await timed(async () => {
          again = await runlog.start(directory);
        }),
      );
      await again.stop();
    }
    return quantile(times, 0.5);
  } finally {
    await rm(directory, { recursive: true, force: true });
  }
}

/** W8: memory of the server, and how long it takes to start on a large journal. */
export const w8: Workload<Params> = {
  id: "W8",
  title: "memory and start-up",
  figures: [
    { name: "idle", unit: "MiB", better: "less" },
    { name: "per idle subscriber", unit: "KiB", better: "less" },
    { name: "slow subscribers", unit: "MiB", better: "less" },
    { name: "start, 10⁴ events", unit: "ms", better: "less" },
    { name: "start, large journal", unit: "ms", better: "less" },
  ],
  systems: [runlog],
  rounds: 1,
  cases: (mode) => [
    mode === "quick"
      ? { name, idle: 1_000, slow: 10, events: 50_000, largeJournal: 50_000, settleMs: 200 }
      : {
          name,
          idle: 1_000,
          slow: 50,
          events: 1_000_000,
          largeJournal: 10_000_000,
          settleMs: 2_000,
        },
  ],
  async run({ client, pid, params: { idle, slow, events, largeJournal, settleMs } }) {
    if (!(client instanceof RunlogClient)) throw new Error("only runlog is looked into");
    const payloads = new Payloads(256);
    const settled = () => new Promise((resolve) => setTimeout(resolve, settleMs));
    await client.createRuns(["quiet"], () => "");
    // A process that has worked before: what its heap grows by at first is nobody's.
    await client.write("warm-up", payloads, { first: 1, count: warmUp, perAppend: 10 });
    await client.read("warm-up", warmUp, () => undefined);
    const scope: RunlogScope = { case: "runIds", value: { runIds: ["quiet"] } };
    await settled();
    const idleKiB = await residentKiB(pid!);
    for (let i = 0; i < idle; i++) await client.followScope(scope, () => undefined);
    await settled();
    const perSubscriber = ((await residentKiB(pid!)) - idleKiB) / idle;
    await client.write("w8", payloads, { first: 1, count: events, perAppend: 100 });
    const stopped = Array.from({ length: slow }, () => client.attachWithoutReading(everything));
    await Promise.all(stopped);
    await settled();
    return {
      idle: idleKiB / MiB,
      "per idle subscriber": perSubscriber,
      "slow subscribers": (await residentKiB(pid!)) / MiB,
      "start, 10⁴ events": await startMs(10_000),
      "start, large journal": await startMs(largeJournal),
    };
  },
  verdicts: (medians) => {
    const get = (figure: string) => medians("runlog", name, figure);
    const per = get("per idle subscriber");
    const small = get("start, 10⁴ events");
    const large = get("start, large journal");
    const verdicts: Verdict[] = [
      {
        goal: "at most 30 KiB for an idle subscriber",
        measured: per === undefined ? undefined : `${per.toFixed(1)} KiB`,
        isMet: per === undefined ? undefined : per <= 30,
      },
      {
        goal: "a large journal starts within 1.5 × of a small one",
        measured:
          small === undefined || large === undefined
            ? undefined
            : `${(large / small).toFixed(2)} ×`,
        isMet: small === undefined || large === undefined ? undefined : large / small <= 1.5,
      },
    ];
    return verdicts;
  },
};
