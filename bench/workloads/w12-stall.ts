import { setTimeout as pause } from "node:timers/promises";
import { createClient } from "@connectrpc/connect";
import { AdminService } from "../../gen/runlog/v1/admin_pb.js";
import { RunService, RunState } from "../../gen/runlog/v1/run_pb.js";
import { type NewRun, type RunlogClient, runlog } from "../systems/runlog.ts";
import { Canary } from "./canary.ts";
import type { Case, Verdict, Workload } from "./workload.ts";

interface Params extends Case {
  readonly runs: number;
  readonly lists: number;
  readonly retentions: number;
}

const name = "a canary in another namespace";
const boundMs = 50;
const attacks = ["ListRuns", "CancelRun", "SetRetention", "DeleteTree"] as const;
/** Seconds; the runs are held by nobody. */
const leaseS = 24 * 3_600;
const undisturbedMs = 2_000;

/** A tree: a root, and runs below it in groups, of which one in a thousand has the label "rare". */
function* treeOf(root: string, count: number, isEnded: boolean): Generator<NewRun> {
  const lease = { seconds: BigInt(leaseS) };
  yield { runId: root, isEnded, create: { lease } };
  for (let n = 1; n < count; n++) {
    const group = n - (n % 100);
    const parentRunId = n % 100 === 0 || group === 0 ? root : `${root}-${group}`;
    const labels = { all: "yes", ...(n % 1_000 === 1 && { rare: "yes" }) };
    const conversationId = n % 2 === 0 ? "even" : "odd";
    const create = { parentRunId, labels, conversationId, lease };
    yield { runId: `${root}-${n}`, isEnded, create };
  }
}

/**
 * W12: how long another client's call waits while somebody asks for what is large:
 * lists among hundreds of thousands of runs, requests to stop a family of half of
 * them, the deletion of a tree of the other half, and hundreds of retentions.
 */
export const w12: Workload<Params> = {
  id: "W12",
  title: "the longest wait of another client",
  figures: [
    { name: "undisturbed", unit: "ms", better: "less" },
    ...attacks.map((attack) => ({ name: attack, unit: "ms", better: "less" as const })),
  ],
  systems: [runlog],
  rounds: 1,
  cases: (mode) => [
    mode === "quick"
      ? { name, runs: 5_000, lists: 20, retentions: 50 }
      : { name, runs: 300_000, lists: 200, retentions: 500 },
  ],
  async run({ client: any, params: { runs: count, lists, retentions } }) {
    const client = any as RunlogClient;
    await client.makeRuns(treeOf("running", count / 2, false));
    await client.makeRuns(treeOf("ended", count / 2, true));
    const runs = createClient(RunService, client.transport);
    const admin = createClient(AdminService, client.transport);
    const listings = [
      { labels: { all: "yes", rare: "yes" } },
      { labels: { all: "yes" }, states: [RunState.FAILED] },
      { ancestorRunId: "running", states: [RunState.SUCCEEDED] },
      { conversationId: "odd", parentRunId: "ended-1000" },
      { ancestorRunId: "ended", labels: { rare: "yes" }, states: [RunState.SUCCEEDED] },
    ];
    const list = async () => {
      for (let n = 0; n < lists; n++) {
        let pageToken = "";
        do {
          const request = { ...listings[n % listings.length]!, pageSize: 100, pageToken };
          pageToken = (await runs.listRuns(request)).nextPageToken;
        } while (pageToken !== "" && n < listings.length);
      }
    };
    const set = (_: unknown, n: number) =>
      admin.setRetention({ namespace: `kept-${n}`, retention: { seconds: 3_600n } });
    const canary = await Canary.start(client.url);
    try {
      return {
        undisturbed: await canary.longestDuring(() => pause(undisturbedMs)),
        ListRuns: await canary.longestDuring(list),
        CancelRun: await canary.longestDuring(() =>
          runs.cancelRun({ runId: "running", includeDescendants: true, reason: "enough" }),
        ),
        SetRetention: await canary.longestDuring(() =>
          Promise.all(Array.from({ length: retentions }, set)),
        ),
        DeleteTree: await canary.longestDuring(() => admin.deleteTree({ rootRunId: "ended" })),
      };
    } finally {
      await canary.stop();
    }
  },
  verdicts: (medians) =>
    attacks.map((attack): Verdict => {
      const goal = `${attack}: nobody else's call waits ${boundMs} ms`;
      const ms = medians("runlog", name, attack);
      if (ms === undefined) return { goal, measured: undefined, isMet: undefined };
      return { goal, measured: `${ms.toFixed(1)} ms`, isMet: ms <= boundMs };
    }),
};
