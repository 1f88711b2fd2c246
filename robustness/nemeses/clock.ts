/** Wall clocks that are set. */
import { AdminService } from "../../gen/runlog/v1/admin_pb.js";
import { IngestService } from "../../gen/runlog/v1/ingest_pb.js";
import { RunService, RunState } from "../../gen/runlog/v1/run_pb.js";
import { CallFailure, Channel } from "../load/channel.ts";
import type { Nemesis, Strike } from "./nemesis.ts";

const dayMs = 86_400_000;
const callMs = 20_000;
/** Another namespace than the load's, whose trees are kept for an hour. */
const namespace = "kept";
const keptSeconds = 3_600n;

/** A jump of the wall clock; what is kept for an hour is still there afterwards. */
export const clockJump: Nemesis = {
  name: "clock-jump",
  what: "the wall clock jumps by up to two days for longer than a look for what may be deleted",
  journal: "sqlite",
  hits: ["node", "disk"],
  async strike({ nodes, disk: { control } }, strike) {
    const [node] = nodes;
    if (node === undefined) return;
    const run = `kept-${strike.random.between(1, 1_000_000)}`;
    await keep(node.url, run);
    control.shiftClock(strike.random.pick([-2, -1, 1, 1, 2]) * dayMs);
    await strike.wait(11_000, 14_000);
    control.shiftClock(0);
    await lookFor(node.url, run, strike);
  },
};

/** Makes a run that has ended, in a namespace with a retention. */
async function keep(url: string, runId: string): Promise<void> {
  const channel = new Channel(url);
  try {
    const { setRetention } = AdminService.method;
    const ended = { create: {}, finish: { state: RunState.SUCCEEDED } };
    await channel.unary(IngestService.method.appendEvents, { namespace, runId, ...ended }, callMs);
    await channel.unary(setRetention, { namespace, retention: { seconds: keptSeconds } }, callMs);
  } finally {
    channel.close();
  }
}

async function lookFor(url: string, runId: string, { found }: Strike): Promise<void> {
  const channel = new Channel(url);
  try {
    await channel.unary(RunService.method.getRun, { namespace, runId }, callMs);
  } catch (error) {
    if (!(error instanceof CallFailure)) throw error;
    if (error.reason !== "RUN_NOT_FOUND") throw error;
    found("retention keeps what it says", `${runId} was deleted when the clock jumped`);
  } finally {
    channel.close();
  }
}
