import { createHash } from "node:crypto";
import { closeSync, openSync, writeSync } from "node:fs";
import { join } from "node:path";
import type { RunState } from "../gen/runlog/v1/run_pb.js";
import { type EventInit, openRun, type RunSender, type SenderStats } from "../src/client/index.ts";
import { connectTo, type NodeConnection } from "../src/client/node/index.ts";
import { demoBackoff, type Task } from "./tasks.ts";

/** A line of the file: an event that was sent, or what the sender counted in the end. */
export type SentLine =
  | { readonly runSeq: number; readonly hash: string }
  | { readonly stats: SenderStats };

/** What must arrive unchanged. The time is left out: a second run of the same work has another. */
export function hashOf(type: string, data: Uint8Array): string {
  return createHash("sha256").update(type).update("\0").update(data).digest("hex").slice(0, 24);
}

/** The nodes, beginning with another one in each process: so the family is spread over them. */
function fromAnother(urls: string): string {
  const nodes = urls.split(",");
  const at = process.pid % nodes.length;
  return [...nodes.slice(at), ...nodes.slice(0, at)].join(",");
}

/**
 * A run as the demo's processes write it: through the client's sender, with a
 * file beside it that says what was sent, for the check at the end.
 *
 * Invariant: an event stands in the file before it is given to the sender, so
 * whatever reaches the journal is in some process's file, also of a process
 * that was killed.
 */
export class Recorder {
  readonly #connection: NodeConnection;
  readonly #sender: RunSender;
  readonly #file: number;
  /** Events that were durable when this process opened the run. */
  readonly #durableBefore: number;
  #runSeq = 0;

  private constructor(
    connection: NodeConnection,
    sender: RunSender,
    file: number,
    durableBefore: number,
  ) {
    this.#connection = connection;
    this.#sender = sender;
    this.#file = file;
    this.#durableBefore = durableBefore;
  }

  /** Opens the run of a task, new or where an earlier process left it. */
  static async open(task: Task, agentId: string): Promise<Recorder> {
    const connection = connectTo(fromAnother(task.server));
    const sender = openRun(connection.transport, {
      runId: task.runId,
      spec: { parentRunId: task.parentRunId, agentId, displayName: task.name },
      limits: { backoff: demoBackoff },
    });
    const { lastRunSeq } = await sender.opened;
    const file = openSync(join(task.sentDirectory, `${task.runId}.${process.pid}.jsonl`), "wx");
    return new Recorder(connection, sender, file, lastRunSeq);
  }

  /**
   * Records the next event of the process's work. Returns false where an
   * earlier process has made it durable already.
   */
  async put(event: EventInit): Promise<boolean> {
    this.#runSeq++;
    if (this.#runSeq <= this.#durableBefore) {
      return false;
    }
    while (!this.#sender.hasRoom) {
      await this.#sender.ready();
    }
    const hash = hashOf(event.type ?? "", event.data ?? new Uint8Array());
    this.#write({ runSeq: this.#runSeq, hash });
    if (!this.#sender.emit(event)) {
      await this.#sender.ready();
      throw new Error(`event ${this.#runSeq} of ${this.#sender.runId} was not taken`);
    }
    return true;
  }

  /** Ends the run, once everything is durable. */
  async finish(state: RunState.SUCCEEDED | RunState.FAILED): Promise<void> {
    await this.#sender.finish({ state });
    this.#write({ stats: this.#sender.stats });
    closeSync(this.#file);
    this.#connection.close();
  }

  #write(line: SentLine): void {
    writeSync(this.#file, `${JSON.stringify(line)}\n`);
  }
}
