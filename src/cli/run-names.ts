import type { SequencedEvent } from "../../gen/runlog/v1/record_pb.js";
import type { RunSpec } from "../../gen/runlog/v1/run_pb.js";

/** Names kept: a family of ten thousand, several times over. */
const maxNames = 50_000;

/** Levels of the tree that a path shows; more would leave no room for the event. */
const maxLevels = 3;

interface Known {
  readonly name: string;
  readonly parentRunId: string;
}

/** The name for people: as given, else the agent, else a short id. */
export function runName(runId: string, spec: RunSpec | undefined): string {
  return spec?.displayName || spec?.agentId || shortRunId(runId);
}

/** The end of a UUID, which differs where ids were made together; other ids as they are. */
function shortRunId(runId: string): string {
  return /^[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}$/i.test(runId) ? runId.slice(-8) : runId;
}

/**
 * Who is who in a stream, learnt from the stream itself: RunStarted precedes
 * a run's first event, so a reader from the beginning knows every name.
 *
 * Invariant: bounded; the runs that were learnt first are forgotten first, and
 * a run that is not known is shown by a short form of its id.
 */
export class RunNames {
  readonly #known = new Map<string, Known>();

  /** Takes what a record says of its run. */
  learn(record: SequencedEvent): void {
    if (record.record.case !== "runStarted") {
      return;
    }
    const { spec } = record.record.value;
    const parentRunId = spec?.parentRunId ?? "";
    this.#known.set(record.runId, { name: runName(record.runId, spec), parentRunId });
    if (this.#known.size > maxNames) {
      for (const oldest of this.#known.keys()) {
        this.#known.delete(oldest);
        break;
      }
    }
  }

  /** The run's place in its tree, for example "orchestrator/worker-2". */
  path(runId: string): string {
    const levels: string[] = [];
    let next = runId;
    while (next !== "" && levels.length < maxLevels) {
      const known = this.#known.get(next);
      // An unknown ancestor would only be an id in front of a name.
      if (known === undefined && levels.length > 0) {
        break;
      }
      levels.unshift(known?.name ?? shortRunId(next));
      next = known?.parentRunId ?? "";
    }
    return levels.join("/");
  }
}
