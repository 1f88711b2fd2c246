/**
 * An orchestrator whose sub-agents work side by side, and somebody who follows the whole family:
 *
 *     runlog serve
 *     node examples/orchestrator.ts http://127.0.0.1:7400
 */
// Elsewhere: from "runlog".
import { connect, type Run } from "../src/client/node/runlog.ts";

await using log = connect(process.argv[2] ?? "http://127.0.0.1:7400");

/** A sub-agent, with a run of its own below its orchestrator's. */
function research(parent: Run, topic: string): Promise<number> {
  return log.withRun({ agent: "researcher", name: topic, parent }, async (run) => {
    run.emit("thought", `What is known about ${topic}?`);
    run.emit("tool.called", { tool: "search", query: topic });
    if (topic === "dragons") throw new Error("nothing is known about dragons");
    const { length } = topic;
    await run.finish({ length });
    return length;
  });
}

/** The orchestrator; its family has its id. */
const family = await log.withRun({ agent: "orchestrator" }, async (run) => {
  const topics = ["tides", "harbours", "dragons"];
  run.emit("plan.made", { topics });
  const found = await Promise.allSettled(topics.map((topic) => research(run, topic)));
  await run.finish({ found: found.filter(({ status }) => status === "fulfilled").length });
  return run.runId;
});

// One stream for all of them, from another process as well as here, while they run or later.
const names = new Map<string, string>();
for await (const record of log.follow({ family }, { until: "finished" })) {
  const { seq, runId, kind } = record;
  if (kind === "started") names.set(runId, record.run.name ?? "orchestrator");
  const what = kind === "event" ? `${record.type} ${record.text()}` : kind;
  const end =
    kind === "finished" ? ` ${record.state} ${record.failure?.message ?? record.text()}` : "";
  console.log(`${seq} ${names.get(runId)}: ${what}${end}`);
}
