/** Results as tables on the terminal. */
import Table from "cli-table3";
import type { Summary } from "../stats.ts";
import type { WorkloadResult } from "../suite.ts";

/** A number as people read it: whole where it is large. */
export function format(value: number): string {
  if (value >= 1_000) return Math.round(value).toLocaleString("en");
  return value >= 100 ? value.toFixed(0) : value.toFixed(value >= 10 ? 1 : 2);
}

function spread({ median, min, max, rounds }: Summary): string {
  if (rounds === 1) return format(median);
  return `${format(median)}  (${format(min)} to ${format(max)})`;
}

/** A workload's table, and beneath it what its goals say. */
export function tableOf({ workload, results, verdicts }: WorkloadResult): string {
  const [headline] = workload.figures;
  const table = new Table({
    head: ["", "", ...workload.figures.map(({ name, unit }) => `${name}, ${unit}`), "runlog is"],
    style: { head: [], border: [] },
  });
  for (const { system, caseName, figures, problem } of results) {
    const ours = results.find((one) => one.system === "runlog" && one.caseName === caseName);
    const mine = ours?.figures?.[headline.name]?.median;
    const theirs = figures?.[headline.name]?.median;
    const ratio = mine === undefined || theirs === undefined ? undefined : mine / theirs;
    table.push([
      caseName,
      system,
      ...workload.figures.map(({ name }) => {
        const summary = figures?.[name];
        return summary === undefined ? "-" : spread(summary);
      }),
      problem ?? (system === "runlog" || ratio === undefined ? "" : `${ratio.toFixed(2)} ×`),
    ]);
  }
  const lines = verdicts.map(({ goal, measured, isMet }) => {
    const word = isMet === undefined ? "not measured" : isMet ? "met" : "NOT met";
    return `  goal: ${goal}: ${measured ?? ""} ${word}`;
  });
  return [`${workload.id}  ${workload.title}`, table.toString(), ...lines, ""].join("\n");
}
