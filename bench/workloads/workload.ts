/** What a workload is: cases, systems that it runs over, and what is done in the client's process. */
import type { System, SystemClient } from "../systems/system.ts";

/** How much is done: `quick` shows that all works, `full` gives figures to be quoted. */
export type Mode = "quick" | "full";

/** A setting of a workload. */
export interface Case {
  readonly name: string;
  /** Where it stands on the axis of a line chart. */
  readonly x?: number;
  readonly [parameter: string]: number | string | undefined;
}

/** What a round is run with, in the client's process. */
export interface Round<C extends Case> {
  readonly system: System;
  /** Connected to a server on an empty directory. */
  readonly client: SystemClient;
  /** The server's process. */
  readonly pid: number | undefined;
  readonly directory: string;
  readonly params: C;
}

/** What is measured: a name with its unit, and which way is better. */
export interface Figure {
  readonly name: string;
  readonly unit: string;
  readonly better: "more" | "less";
}

/** Reads a median; undefined where it was not measured. */
export type Medians = (system: string, caseName: string, figure: string) => number | undefined;

/** What the results have to show. */
export interface Verdict {
  readonly goal: string;
  /** As it was measured, in words; undefined where a peer is missing. */
  readonly measured: string | undefined;
  readonly isMet: boolean | undefined;
}

/** A workload. */
export interface Workload<C extends Case = Case> {
  readonly id: string;
  readonly title: string;
  readonly figures: readonly [Figure, ...Figure[]];
  readonly systems: readonly System[];
  /** What the axis of a line chart says; bars where it is absent. */
  readonly xAxis?: string;
  cases(mode: Mode): readonly C[];
  /** Rounds of each case where all is done. */
  readonly rounds: number;
  /** @returns a number for each figure; throws where the round is void */
  run(round: Round<C>): Promise<Record<string, number>>;
  verdicts?(medians: Medians): readonly Verdict[];
}

/** A goal that is a ratio of runlog's median to a peer's. */
export function ratioVerdict(
  medians: Medians,
  { figure, of, caseName, least }: { figure: string; of: string; caseName: string; least: number },
): Verdict {
  const ours = medians("runlog", caseName, figure);
  const theirs = medians(of, caseName, figure);
  const goal = `at least ${least} × ${of}`;
  if (ours === undefined || theirs === undefined)
    return { goal, measured: undefined, isMet: undefined };
  const ratio = ours / theirs;
  return { goal, measured: `${ratio.toFixed(2)} ×`, isMet: ratio >= least };
}

/** Events a second. */
export function rateOf(count: number, ms: number): number {
  return (count / ms) * 1_000;
}

/** Runs something and says how many milliseconds it took. */
export async function timed(work: () => Promise<unknown>): Promise<number> {
  const start = performance.now();
  await work();
  return performance.now() - start;
}
