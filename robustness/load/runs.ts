/** Runs: what they are called, whose children they are, how they end. */
import type { MessageInitShape } from "@bufbuild/protobuf";
import { type RunSpecSchema, RunState } from "../../gen/runlog/v1/run_pb.js";

/** The root of the family that the load makes; it has no events and never ends. */
export const rootRun = "family";
/** A run on which nothing ever happens, for a subscriber who only hears Progress. */
export const quietRun = "quiet";

/** Seconds: longer than any fault, so that no run is lost while its producer comes back. */
const leaseSeconds = 600n;

/** A run as its producer makes it. */
export interface Plan {
  readonly run: string;
  /** "" is none. */
  readonly parent: string;
  /** Events until it ends. */
  readonly events: number;
  /** Whether it is there already, as a fork is; else whoever opens it creates it. */
  readonly isThere?: boolean;
}

/** What an open creates, if it creates. */
export function creationOf(plan: Plan): { create?: MessageInitShape<typeof RunSpecSchema> } {
  return plan.isThere === true ? {} : { create: specOf(plan.parent) };
}

/** The spec of a run, with its lease in seconds. */
export function specOf(
  parent: string,
  seconds = leaseSeconds,
): MessageInitShape<typeof RunSpecSchema> {
  return {
    parentRunId: parent,
    agentId: "rig",
    labels: { made: "by the rig" },
    lease: { seconds },
  };
}

/** The result that a producer gives a run: not the same for two producers. */
export function resultOf({ run, events }: Plan, by: string) {
  return {
    state: events % 5 === 0 ? RunState.FAILED : RunState.SUCCEEDED,
    output: `${run} by ${by}`,
  };
}

/** A state's name as histories have it. */
export function stateName(state: RunState): string {
  return RunState[state] ?? String(state);
}
