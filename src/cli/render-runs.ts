/**
 * Runs as a table or as trees.
 *
 * Invariant: every run that is given is shown once; where a parent is not
 * among them, its children are roots.
 */
import { timestampMs } from "@bufbuild/protobuf/wkt";
import { type Run, RunState } from "../../gen/runlog/v1/run_pb.js";
import type { Colors } from "./colors.ts";
import { stateColor } from "./render-record.ts";
import { runName } from "./run-names.ts";
import { countText, durationText, printable, widthOf } from "./text.ts";

/** How to render. */
export interface RenderRunsOptions {
  readonly colors: Colors;
  /** Milliseconds since 1970, for the duration of what still runs. */
  readonly nowMs: number;
}

/** Renders one line of a table. */
export function renderRun(run: Run, options: RenderRunsOptions): string {
  const { colors } = options;
  const state = stateName(run.state).padEnd(9);
  const name = printable(runName(run.runId, run.spec));
  return (
    `${stateColor(run.state, colors)(state)}  ${printable(run.runId)}  ` +
    `${countText(run.lastRunSeq, "event").padStart(14)}  ${elapsed(run, options.nowMs).padStart(7)}  ` +
    `${name}${noteText(run, colors)}`
  );
}

/** Renders the trees that the runs form, oldest first. */
export function renderTrees(runs: readonly Run[], options: RenderRunsOptions): string[] {
  const children = new Map<string, Run[]>();
  const ids = new Set(runs.map((run) => run.runId));
  const roots: Run[] = [];
  for (const run of runs) {
    const parent = run.spec?.parentRunId ?? "";
    const siblings = ids.has(parent) ? (children.get(parent) ?? []) : roots;
    siblings.push(run);
    if (siblings !== roots) {
      children.set(parent, siblings);
    }
  }
  const lines: { readonly label: string; readonly width: number; readonly run: Run }[] = [];
  const bySeq = (a: Run, b: Run) => Number(a.startSeq - b.startSeq);
  // A stack of its own: a tree's depth must not be that of the call stack.
  const stack = roots
    .sort(bySeq)
    .reverse()
    .map((run) => ({ run, prefix: "", branch: "" }));
  for (let next = stack.pop(); next !== undefined; next = stack.pop()) {
    const { run, prefix, branch } = next;
    const name = printable(runName(run.runId, run.spec));
    const drawn = prefix + branch;
    lines.push({
      label: options.colors.dim(drawn) + name,
      width: drawn.length + widthOf(name),
      run,
    });
    const below = (children.get(run.runId) ?? []).sort(bySeq);
    const inner = branch === "" ? prefix : prefix + (branch === "└─ " ? "   " : "│  ");
    for (let i = below.length - 1; i >= 0; i--) {
      const child = below[i];
      if (child !== undefined) {
        const last = i === below.length - 1;
        stack.push({ run: child, prefix: inner, branch: last ? "└─ " : "├─ " });
      }
    }
  }
  const columns = Math.min(60, Math.max(0, ...lines.map((line) => line.width)));
  return lines.map(({ label, width, run }) => {
    const { colors } = options;
    const state = stateColor(run.state, colors)(stateName(run.state).padEnd(9));
    return (
      `${label}${" ".repeat(Math.max(0, columns - width))}  ${state}  ` +
      `${countText(run.lastRunSeq, "event").padStart(14)}  ${elapsed(run, options.nowMs).padStart(7)}  ` +
      `${colors.dim(printable(run.runId))}${noteText(run, colors)}`
    );
  });
}

/** The state in lower case, as --state takes it. */
export function stateName(state: RunState): string {
  return RunState[state]?.toLowerCase() ?? "unknown";
}

/** What a run waits for, how much input awaits its handling, and why it failed. */
function noteText(run: Run, colors: Colors): string {
  const pending = run.lastSignalSeq - run.handledSignalSeq;
  const unhandled = pending > 0n ? `  ${colors.yellow(countText(pending, "signal"))}` : "";
  const waiting =
    run.waiting === undefined ? "" : `  ${colors.yellow(printable(`for ${run.waiting.code}`))}`;
  return `${waiting}${unhandled}${failureText(run, colors)}`;
}

function failureText(run: Run, colors: Colors): string {
  const failure = run.result?.failure;
  return failure === undefined
    ? ""
    : `  ${colors.red(printable(`${failure.code}: ${failure.message}`))}`;
}

function elapsed(run: Run, nowMs: number): string {
  if (run.createTime === undefined) {
    return "";
  }
  const end = run.endTime === undefined ? nowMs : timestampMs(run.endTime);
  return durationText(end - timestampMs(run.createTime));
}
