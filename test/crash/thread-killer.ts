/** Loaded before a program: SIGUSR2 ends all of its threads but the main one, wherever they are. */
import * as diagnostics from "node:diagnostics_channel";
import { isMainThread, type Worker } from "node:worker_threads";

if (isMainThread) {
  diagnostics.subscribe("worker_threads", (message) => {
    const { worker } = message as { worker: Worker };
    process.on("SIGUSR2", () => void worker.terminate());
  });
}
