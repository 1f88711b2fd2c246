import { once } from "node:events";
import { isMainThread, parentPort, Worker, workerData } from "node:worker_threads";
import { createClient } from "@connectrpc/connect";
import { RunService } from "../../gen/runlog/v1/run_pb.js";
import { connectTo } from "../../src/client/node/index.ts";

/**
 * A client of its own: in a thread, on a connection, in a namespace that nobody else uses.
 * It calls without a pause, one call after the other, and measures how long each takes;
 * what the others' client is busy with itself does not count.
 */
export class Canary {
  readonly #worker: Worker;

  private constructor(worker: Worker) {
    this.#worker = worker;
  }

  /** Starts it; it has called some times already, so that what is new to it is over. */
  static async start(url: string): Promise<Canary> {
    const canary = new Canary(new Worker(new URL(import.meta.url), { workerData: url }));
    await once(canary.#worker, "message");
    return canary;
  }

  /** The longest that a call took which was under way during some work, in milliseconds. */
  async longestDuring(work: () => Promise<unknown>): Promise<number> {
    await this.#ask();
    await work();
    return this.#ask();
  }

  async stop(): Promise<void> {
    await this.#worker.terminate();
  }

  /** The longest since it was asked last. */
  async #ask(): Promise<number> {
    const answer = once(this.#worker, "message");
    this.#worker.postMessage("longest");
    const [longestMs] = (await answer) as [number];
    return longestMs;
  }
}

/** Calls before it says that it has started. */
const firstCalls = 200;

async function call(port: NonNullable<typeof parentPort>, url: string): Promise<never> {
  const runs = createClient(RunService, connectTo(url).transport);
  const canary = { namespace: "canary", runId: "canary" };
  await runs.createRun({ ...canary, spec: {} });
  let longestMs = 0;
  let isAsked = false;
  port.on("message", () => {
    isAsked = true;
  });
  for (let calls = 1; ; calls++) {
    const startMs = performance.now();
    // One that reads, and one that goes through the journal's only writer.
    if (calls % 2 === 0) await runs.getRun(canary);
    else await runs.createRun({ ...canary, spec: {} });
    longestMs = Math.max(longestMs, performance.now() - startMs);
    if (!isAsked && calls !== firstCalls) continue;
    port.postMessage(longestMs);
    longestMs = 0;
    isAsked = false;
  }
}

if (!isMainThread && parentPort !== null) await call(parentPort, String(workerData));
