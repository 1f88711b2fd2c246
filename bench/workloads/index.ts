/** All workloads. */
import { byJournal, byPayload } from "./growth.ts";
import { w1 } from "./w1-pipelined.ts";
import { w2 } from "./w2-token-streams.ts";
import { w3 } from "./w3-replay.ts";
import { w4 } from "./w4-filtered-replay.ts";
import { w5 } from "./w5-latency.ts";
import { w6 } from "./w6-fan-out.ts";
import { w7 } from "./w7-matching.ts";
import { w8 } from "./w8-memory.ts";
import { w12 } from "./w12-stall.ts";
import { w13 } from "./w13-signals.ts";
import { w14 } from "./w14-access.ts";
import type { Workload } from "./workload.ts";

// A workload is only ever given its own cases.
export const workloads = [
  ...[w1, w2, w3, w4, w5, w6, w7, w8, w12, w13, w14],
  ...[byJournal, byPayload],
] as unknown as readonly Workload[];
