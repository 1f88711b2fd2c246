/** The client's process: runs one round and sends its figures to the parent. */
import type { SystemClient } from "./systems/system.ts";
import { workloads } from "./workloads/index.ts";
import type { Case } from "./workloads/workload.ts";

/** The settings of a round. */
export interface Job {
  readonly workload: string;
  readonly system: string;
  readonly params: Case;
  readonly url: string;
  readonly pid: number | undefined;
  readonly directory: string;
}

const job = JSON.parse(process.argv[2]!) as Job;
const workload = workloads.find(({ id }) => id === job.workload)!;
const system = workload.systems.find(({ name }) => name === job.system)!;
const client = (await system.connect(job.url)) as SystemClient;
const { pid, directory, params } = job;
const figures = await workload.run({ system, client, pid, directory, params });
await client.close();
process.send!(figures, () => process.exit(0));
