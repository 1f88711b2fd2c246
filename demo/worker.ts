/**
 * A worker: counts and lints the files of one directory, and gives large
 * subdirectories to workers of its own.
 *
 * Invariant: its events are a function of the files alone. Killed at any
 * moment and started again, it asks how far its run is and goes on there.
 */
import { join } from "node:path";
import { setTimeout as sleep } from "node:timers/promises";
import { RunState } from "../gen/runlog/v1/run_pb.js";
import { add, analyze, contentsOf, filesBelow, jsonEvent, noCounts } from "./analysis.ts";
import { Recorder } from "./recorder.ts";
import { ownTask, type Task, workerRunId } from "./tasks.ts";
import { endWithParent, Workers } from "./workers.ts";

/** Files from which on a subdirectory is worth a process. */
const minFilesToDelegate = 4;
/** Milliseconds below which a pause is not worth its timer. */
const minPauseMs = 20;

endWithParent();
await work(ownTask());
process.exit(0);

async function work(task: Task): Promise<void> {
  const recorder = await Recorder.open(task, "linter");
  const { own, delegated } = divide(task);
  for (const { directory, runId } of delegated) {
    await recorder.put(jsonEvent("work.delegated", { directory, runId }));
  }
  const workers = new Workers(async () => undefined);
  const below = Promise.all(delegated.map((subtask) => workers.run(subtask)));
  const [, counts] = await Promise.all([below, lint(own, task, recorder)]);
  await recorder.put(jsonEvent("directory.summary", { directory: task.directory, ...counts }));
  await recorder.finish(RunState.SUCCEEDED);
}

/** Which files are this worker's, and which directories get a worker of their own. */
function divide(task: Task): { readonly own: string[]; readonly delegated: Task[] } {
  const absolute = join(task.repository, task.directory);
  const { directories, files } = contentsOf(absolute);
  const own = [...files];
  const delegated: Task[] = [];
  // Three levels are a tree; more would be processes that only wait.
  const mayDelegate = task.parentRunId === task.rootRunId;
  for (const name of directories) {
    const below = filesBelow(join(absolute, name));
    if (!mayDelegate || below.length < minFilesToDelegate) {
      own.push(...below.map((file) => join(name, file)));
      continue;
    }
    const directory = join(task.directory, name);
    const runId = workerRunId(task.rootRunId, directory);
    delegated.push({ ...task, directory, name, runId, parentRunId: task.runId });
  }
  return { own, delegated };
}

async function lint(files: readonly string[], task: Task, recorder: Recorder) {
  let counts = noCounts;
  let dueMs = performance.now();
  for (const file of files) {
    const path = join(task.directory, file);
    const analysis = analyze(join(task.repository, path), path);
    const stepMs = task.paceMs / files.length / analysis.events.length;
    for (const event of analysis.events) {
      if (!(await recorder.put(event))) {
        continue;
      }
      dueMs += stepMs;
      const pauseMs = dueMs - performance.now();
      if (pauseMs > minPauseMs) {
        await sleep(pauseMs);
      }
    }
    counts = add(counts, analysis.counts);
  }
  return counts;
}
