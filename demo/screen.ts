/**
 * What the demo shows of the stream: every fact about a run, and of the rest
 * as many lines as a person can follow. Nothing is left out of the count.
 */
import pc from "picocolors";
import type { SequencedEvent } from "../gen/runlog/v1/record_pb.js";
import { RunState } from "../gen/runlog/v1/run_pb.js";

/** Milliseconds between ordinary lines. */
const lineIntervalMs = 140;
const whoColumns = 26;
const textColumns = 76;

/** Events that are always shown. */
const alwaysShown = new Set(["plan.made", "plan.done", "worker.died", "worker.restarted"]);

/** Prints a stream, and what the conductor does to it. */
export class Screen {
  readonly #paths = new Map<string, string>();
  #lastLineMs = 0;
  #unseen = 0;

  /** Something that the demo itself does. */
  act(text: string): void {
    console.log(pc.bold(pc.yellow(`>>> ${text}`)));
  }

  /** A heading or a result. */
  say(text = ""): void {
    console.log(text);
  }

  /** A record of the stream. */
  show(record: SequencedEvent): void {
    const nowMs = performance.now();
    const line = this.#render(record);
    if (!line.important && nowMs - this.#lastLineMs < lineIntervalMs) {
      this.#unseen++;
      return;
    }
    if (!line.important) {
      this.#lastLineMs = nowMs;
    }
    const who = (this.#paths.get(record.runId) ?? record.runId).padEnd(whoColumns);
    const more = this.#unseen === 0 ? "" : pc.dim(`  (+${this.#unseen})`);
    this.#unseen = 0;
    console.log(`${pc.dim(String(record.seq).padStart(6))}  ${pc.cyan(who)}  ${line.text}${more}`);
  }

  #render({ record, runId }: SequencedEvent): {
    readonly important: boolean;
    readonly text: string;
  } {
    switch (record.case) {
      case "runStarted": {
        const { spec } = record.value;
        const parent = this.#paths.get(spec?.parentRunId ?? "");
        const name = spec?.displayName ?? "";
        this.#paths.set(runId, parent === undefined ? name : `${parent}/${name}`);
        return { important: true, text: pc.blue("run started") };
      }
      case "runFinished": {
        const { result, lastRunSeq } = record.value;
        const state = RunState[result?.state ?? RunState.UNSPECIFIED] ?? "";
        return {
          important: true,
          text: pc.green(`run ended: ${state}, ${lastRunSeq} event${lastRunSeq === 1n ? "" : "s"}`),
        };
      }
      case "event": {
        const { type, data } = record.value;
        const text = `${type.padEnd(17)} ${new TextDecoder().decode(data)}`.slice(0, textColumns);
        const important = alwaysShown.has(type);
        return { important, text: important ? pc.bold(text) : text };
      }
      default:
        return { important: true, text: record.case ?? "?" };
    }
  }
}
