/** How cost grows: W1, W3 and W4 over the size of the journal, and W1 and W3 over the size of a payload. */
import { bytesIn } from "../measure.ts";
import { Checker, Payloads } from "../payloads.ts";
import { quantile } from "../stats.ts";
import { RunlogClient, type RunlogScope, runlog } from "../systems/runlog.ts";
import { type Case, rateOf, timed, type Workload } from "./workload.ts";

interface Params extends Case {
  /** Events that are there before. */
  readonly journal: number;
  readonly payload: number;
  /** Events that are written and read. */
  readonly events: number;
}

const familyRuns = 10;
const eventsPerFamilyRun = 100;
const tries = 15;
const KiB = 1_024;

async function measure(client: RunlogClient, directory: string, params: Params) {
  const { journal, payload, events } = params;
  const payloads = new Payloads(payload);
  const perAppend = Math.max(1, Math.min(100, Math.floor((512 * KiB) / payload)));
  const runIds = Array.from({ length: familyRuns }, (_, i) => `member-${i}`);
  await client.createRuns(["root", ...runIds], (i) => (i === 0 ? "" : "root"));
  for (const runId of runIds) {
    await client.write(runId, payloads, { first: 1, count: eventsPerFamilyRun, perAppend });
  }
  if (journal > 0) {
    await client.write("before", payloads, { first: 1, count: journal, perAppend: 1_000 });
  }
  const range = { first: 1, count: events, perAppend };
  const ingestMs = await timed(() => client.write("run", payloads, range));
  const checker = new Checker();
  const replayMs = await timed(() => client.read("run", events, (n) => checker.take(n)));
  const family: RunlogScope = { case: "ancestor", value: { ancestorRunId: "root" } };
  const times: number[] = [];
  for (let i = 0; i < tries; i++) {
    const count = familyRuns * eventsPerFamilyRun;
    times.push(await timed(() => client.readScope(family, count, () => undefined)));
  }
  const total = journal + events + familyRuns * eventsPerFamilyRun;
  return {
    ingest: rateOf(events, ingestMs),
    replay: rateOf(events, replayMs),
    family: quantile(times, 0.5),
    "on disk": (await bytesIn(directory)) / total,
  };
}

const figures = [
  { name: "ingest", unit: "events/s", better: "more" },
  { name: "replay", unit: "events/s", better: "more" },
  { name: "family", unit: "ms for 1,000 events", better: "less" },
  { name: "on disk", unit: "bytes/event", better: "less" },
] as const;

function growth(id: string, title: string, xAxis: string, cases: Workload<Params>["cases"]) {
  const workload: Workload<Params> = {
    id,
    title,
    xAxis,
    cases,
    figures: [...figures],
    systems: [runlog],
    rounds: 1,
    async run({ client, directory, params }) {
      if (!(client instanceof RunlogClient)) throw new Error("only runlog is looked into");
      return measure(client, directory, params);
    },
  };
  return workload;
}

/** Over the size of the journal. */
export const byJournal = growth(
  "journal-size",
  "runlog over the size of its journal",
  "events in the journal",
  (mode) =>
    (mode === "quick" ? [10_000] : [10_000, 100_000, 1_000_000, 10_000_000]).map((journal) => {
      const events = mode === "quick" ? 20_000 : 200_000;
      return { name: journal.toLocaleString("en"), x: journal, journal, payload: 256, events };
    }),
);

/** Over the size of a payload. */
export const byPayload = growth(
  "payload-size",
  "runlog over the size of a payload",
  "bytes of a payload",
  (mode) =>
    (mode === "quick" ? [KiB] : [64, 256, KiB, 4 * KiB, 16 * KiB, 64 * KiB]).map((payload) => {
      const bytes = (mode === "quick" ? 8 : 256) * KiB * KiB;
      const events = Math.min(mode === "quick" ? 20_000 : 400_000, Math.floor(bytes / payload));
      return { name: payload.toLocaleString("en"), x: payload, journal: 0, payload, events };
    }),
);
