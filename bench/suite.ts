/** Runs workloads, the systems in turn, round by round, each round on a new server in an empty directory. */
import { type ChildProcess, fork } from "node:child_process";
import { once } from "node:events";
import { mkdtemp, rm } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { fileURLToPath } from "node:url";
import type { Job } from "./job.ts";
import { type Summary, summarize } from "./stats.ts";
import type { System } from "./systems/system.ts";
import type { Case, Mode, Verdict, Workload } from "./workloads/workload.ts";

const jobFile = fileURLToPath(new URL("./job.ts", import.meta.url));

/** What a system gave in one case of a workload. */
export interface Result {
  readonly system: string;
  readonly durability: string;
  readonly caseName: string;
  readonly x: number | undefined;
  /** By figure; absent where a round was void or the system is missing. */
  readonly figures: Readonly<Record<string, Summary>> | undefined;
  /** Why there are none. */
  readonly problem: string | undefined;
}

/** What a workload gave. */
export interface WorkloadResult {
  readonly workload: Workload;
  readonly results: readonly Result[];
  readonly verdicts: readonly Verdict[];
}

/** How to run. */
export interface SuiteOptions {
  readonly workloads: readonly Workload[];
  readonly mode: Mode;
  /** Systems to leave out are not in it; all where it is undefined. */
  readonly systems: readonly string[] | undefined;
  /** Milliseconds that a round may take; then it is void. */
  readonly roundTimeoutMs: number;
  /** Told before each round. */
  readonly onRound: (text: string) => void;
}

/** How many rounds there will be. */
export function countRounds({ workloads, mode, systems }: SuiteOptions): number {
  return workloads.reduce(
    (sum, one) => sum + one.cases(mode).length * roundsOf(one, mode) * chosen(one, systems).length,
    0,
  );
}

/** Runs all of it; the workloads' results in turn. */
export async function* runSuite(options: SuiteOptions): AsyncGenerator<WorkloadResult> {
  for (const workload of options.workloads) yield await runWorkload(workload, options);
}

function roundsOf(workload: Workload, mode: Mode): number {
  return mode === "quick" ? 1 : workload.rounds;
}

function chosen(workload: Workload, names: readonly string[] | undefined): readonly System[] {
  return workload.systems.filter(({ name }) => names === undefined || names.includes(name));
}

async function runWorkload(workload: Workload, options: SuiteOptions): Promise<WorkloadResult> {
  const { mode, systems, onRound, roundTimeoutMs } = options;
  const results: Result[] = [];
  for (const params of workload.cases(mode)) {
    const rounds = new Map<System, Record<string, number>[]>();
    const problems = new Map<System, string>();
    for (const system of chosen(workload, systems)) {
      rounds.set(system, []);
      const missing = system.missing?.();
      if (missing !== undefined) problems.set(system, missing);
    }
    for (let round = 0; round < roundsOf(workload, mode); round++) {
      for (const [system, figures] of rounds) {
        onRound(`${workload.id} ${params.name}: ${system.name}`);
        if (problems.has(system)) continue;
        try {
          figures.push(await runRound(workload, system, params, roundTimeoutMs));
        } catch (error) {
          problems.set(system, error instanceof Error ? error.message : String(error));
        }
      }
    }
    for (const [system, figures] of rounds) {
      results.push(toResult(workload, system, params, figures, problems.get(system)));
    }
  }
  const medians = (system: string, caseName: string, figure: string) =>
    results.find((one) => one.system === system && one.caseName === caseName)?.figures?.[figure]
      ?.median;
  return { workload, results, verdicts: workload.verdicts?.(medians) ?? [] };
}

function toResult(
  workload: Workload,
  { name: system, durability }: System,
  { name: caseName, x }: Case,
  rounds: readonly Record<string, number>[],
  problem: string | undefined,
): Result {
  const figures =
    problem === undefined
      ? Object.fromEntries(
          workload.figures.map(({ name }) => [name, summarize(rounds.map((one) => one[name]!))]),
        )
      : undefined;
  return { system, durability, caseName, x, figures, problem };
}

async function runRound(
  workload: Workload,
  system: System,
  params: Case,
  timeoutMs: number,
): Promise<Record<string, number>> {
  const directory = await mkdtemp(join(tmpdir(), "runlog-bench-"));
  try {
    const server = await system.start(directory);
    try {
      const { url, pid } = server;
      const job: Job = { workload: workload.id, system: system.name, params, url, pid, directory };
      return await runJob(job, timeoutMs);
    } finally {
      await server.stop();
    }
  } finally {
    await rm(directory, { recursive: true, force: true });
  }
}

async function runJob(job: Job, timeoutMs: number): Promise<Record<string, number>> {
  const child: ChildProcess = fork(jobFile, [JSON.stringify(job)], {
    stdio: ["ignore", "ignore", "pipe", "ipc"],
  });
  const timer = setTimeout(() => child.kill("SIGKILL"), timeoutMs);
  let figures: Record<string, number> | undefined;
  child.once("message", (message) => {
    figures = message as Record<string, number>;
  });
  const printed: Buffer[] = [];
  child.stderr!.on("data", (bytes: Buffer) => printed.push(bytes));
  const [code, signal] = (await once(child, "close")) as [number | null, string | null];
  clearTimeout(timer);
  if (figures !== undefined) return figures;
  if (signal === "SIGKILL") throw new Error(`void: not done after ${timeoutMs / 1_000} s`);
  const lines = Buffer.concat(printed).toString().split("\n");
  const reason = lines.find((line) => /^\S*Error: /.test(line));
  throw new Error(reason ?? `void: the client ended with ${code ?? signal}`);
}
