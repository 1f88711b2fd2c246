/** runlog, asking who calls, what they may do and what they use. */
import { createHash } from "node:crypto";
import { writeFile } from "node:fs/promises";
import { join } from "node:path";
import { RunlogClient, runlog, startRunlog } from "./runlog.ts";

/** What each call shows. */
const benchToken = "the-token-of-the-bench";
/** Far beyond what is done, so that everything is counted and nothing refused. */
const quotas = {
  streams: 1e6,
  subscriptions: 1e6,
  open_runs: 1e6,
  runs_per_minute: 1e9,
  namespaces_per_hour: 1e9,
  bytes_per_second: 1e12,
};

/** The same with an access file: each call is authenticated, its rights looked up, its use counted. */
export const runlogWithAccess: typeof runlog = {
  name: "runlog with an access file",
  durability: runlog.durability,
  async start(directory) {
    const path = join(directory, "access.json");
    const sha256 = createHash("sha256").update(benchToken).digest("hex");
    const grants = [
      { namespace: "default", permissions: ["ingest", "read", "signal", "cancel", "admin"] },
    ];
    const tokens = [{ name: "bench", sha256, grants }];
    await writeFile(path, JSON.stringify({ tokens, quotas }));
    return startRunlog(`sqlite:${join(directory, "runlog.db")}`, [], ["--access", path]);
  },
  connect: (url) => Promise.resolve(new RunlogClient(url, benchToken)),
};
