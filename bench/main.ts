/**
 * runlog beside what people would use instead, in one run.
 *
 *     npm run bench
 *     npm run bench -- --quick
 *     npm run bench -- --only W1,W3 --systems runlog,"Redis Streams"
 */
import { mkdir, writeFile } from "node:fs/promises";
import { cpus, release, totalmem } from "node:os";
import { join } from "node:path";
import { fileURLToPath } from "node:url";
import { SingleBar } from "cli-progress";
import { Command, Option } from "commander";
import { chartOf } from "./report/chart.ts";
import { tableOf } from "./report/table.ts";
import { countRounds, runSuite, type SuiteOptions, type WorkloadResult } from "./suite.ts";
import { workloads } from "./workloads/index.ts";

const list = (text: string) => text.split(",").map((one) => one.trim());
const known = workloads.map(({ id }) => id);
const systems = [...new Set(workloads.flatMap((one) => one.systems.map(({ name }) => name)))];

const program = new Command("npm run bench --")
  .description(
    "Runs workloads over runlog and over its peers in turn; tables on the terminal, JSON and charts into bench/results/.",
  )
  .option("--quick", "two minutes or so: shows that all works, figures are not to be quoted")
  .addOption(new Option("--only <ids>", `workloads, of ${known.join(", ")}`).argParser(list))
  .addOption(new Option("--systems <names>", `of ${systems.join(", ")}`).argParser(list))
  .option("--out <directory>", "where results are written to", defaultOut())
  .parse();

function defaultOut(): string {
  return fileURLToPath(new URL("./results", import.meta.url));
}

interface Flags {
  readonly quick?: boolean;
  readonly only?: readonly string[];
  readonly systems?: readonly string[];
  readonly out: string;
}

const flags = program.opts<Flags>();
refuseUnknown("workload", flags.only, known);
refuseUnknown("system", flags.systems, systems);
const mode = flags.quick === true ? "quick" : "full";
const cores = cpus();
const machine = `${cores.length} cores (${cores[0]?.model}), ${Math.round(totalmem() / 2 ** 30)} GiB, Linux ${release()}, Node ${process.version}`;
console.log(`${machine}; client and server share it; ${mode}\n`);

const bar = new SingleBar({
  format: "{bar} {value}/{total} {text}",
  clearOnComplete: true,
  stopOnComplete: true,
  noTTYOutput: false,
});
const options: SuiteOptions = {
  workloads: workloads.filter(({ id }) => flags.only?.includes(id) ?? true),
  mode,
  systems: flags.systems,
  // Void is what hangs, not what a machine is slow at.
  roundTimeoutMs: mode === "quick" ? 120_000 : 300_000,
  onRound: (text) => bar.increment(1, { text }),
};
bar.start(countRounds(options), 0, { text: "" });
const outcomes: WorkloadResult[] = [];
for await (const outcome of runSuite(options)) {
  outcomes.push(outcome);
  if (process.stdout.isTTY) process.stdout.write("\r\u001b[K");
  console.log(tableOf(outcome));
}
bar.stop();
console.log("An acknowledged event is durable by");
for (const [name, durability] of durabilities(outcomes)) console.log(`  ${name}: ${durability}`);
await mkdir(flags.out, { recursive: true });
for (const outcome of outcomes) {
  await writeFile(join(flags.out, `${outcome.workload.id}.svg`), chartOf(outcome));
}
const json = outcomes.map(({ workload: { id, title, figures }, results, verdicts }) => {
  return { id, title, figures, results, verdicts };
});
const file = join(flags.out, "results.json");
const time = new Date().toISOString();
await writeFile(file, `${JSON.stringify({ machine, mode, time, workloads: json }, null, 2)}\n`);
console.log(`written: ${file} and a chart beside it for each workload`);
// A peer that is missing, or that fails at what is asked of it, is no failure of ours.
const results = outcomes.flatMap((outcome) => outcome.results);
if (results.some(({ system, problem }) => system === "runlog" && problem !== undefined)) {
  process.exitCode = 1;
}

function durabilities(all: readonly WorkloadResult[]): Map<string, string> {
  return new Map(
    all.flatMap((one) => one.results).map(({ system, durability }) => [system, durability]),
  );
}

function refuseUnknown(
  what: string,
  given: readonly string[] | undefined,
  all: readonly string[],
): void {
  const wrong = given?.find((one) => !all.includes(one));
  if (wrong !== undefined)
    program.error(`unknown ${what} ${wrong}: it is one of ${all.join(", ")}`);
}
