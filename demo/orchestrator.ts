/**
 * The orchestrator: the root of the tree. It starts a worker per directory,
 * starts one again that was killed, and ends when all have ended.
 */
import { RunState } from "../gen/runlog/v1/run_pb.js";
import { jsonEvent } from "./analysis.ts";
import { Recorder } from "./recorder.ts";
import { type KillOrder, ownTask, type Task, workerRunId } from "./tasks.ts";
import { endWithParent, type WorkerNews, Workers } from "./workers.ts";

endWithParent();
await orchestrate(ownTask());
process.exit(0);

async function orchestrate(task: Task): Promise<void> {
  const recorder = await Recorder.open(task, "orchestrator");
  const directories = task.directory.split(",");
  await recorder.put(jsonEvent("plan.made", { directories }));
  const workers = new Workers(async (news) => {
    await recorder.put(eventOf(news));
  });
  process.on("message", (order: KillOrder) => {
    process.send?.({ killed: workers.kill(order.kill) });
  });
  await Promise.all(
    directories.map((directory) =>
      workers.run({
        ...task,
        directory,
        name: directory,
        runId: workerRunId(task.rootRunId, directory),
        parentRunId: task.runId,
      }),
    ),
  );
  await recorder.put(jsonEvent("plan.done", { directories: directories.length }));
  await recorder.finish(RunState.SUCCEEDED);
}

function eventOf(news: WorkerNews) {
  const { name, runId } = news.task;
  return news.t === "died"
    ? jsonEvent("worker.died", { name, runId, signal: news.signal })
    : jsonEvent(news.attempt === 1 ? "worker.started" : "worker.restarted", { name, runId });
}
