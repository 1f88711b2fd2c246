/**
 * Faults and attacks against real servers, and whether every promise is kept.
 *
 *     npm run robustness -- --minutes 5
 *     npm run robustness -- --minutes 1 --seed 4711 power-loss kill
 *     npm run robustness -- --check history.ndjson
 */
import { chmod, mkdtemp, rm } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join, resolve } from "node:path";
import { Command, InvalidArgumentError } from "commander";
import { attacks } from "./abuse/attacks.ts";
import { runAbuse } from "./abuse/suite.ts";
import { checkHistory } from "./history/check.ts";
import { readHistory } from "./history/history.ts";
import { nemeses } from "./nemeses/index.ts";
import { campaign, recoveryMs } from "./play.ts";
import { randomOf } from "./random.ts";
import { Report } from "./report.ts";
import { server } from "./system/entry.ts";

const maxSeed = 2 ** 31 - 1;
/** Of the time, where everything is run. */
const shares = { sqlite: 0.35, postgres: 0.4 } as const;

/** Milliseconds of one attack. */
const shortestAttackMs = 500;
const longestAttackMs = 3_000;

const positive = (text: string): number => {
  const value = Number(text);
  if (!(value > 0)) throw new InvalidArgumentError("give a number above 0.");
  return value;
};
const program = new Command("npm run robustness --")
  .description(
    "Makes faults and attacks, and checks every promise. The exit status is 1 if one is broken.",
  )
  .argument("[names...]", "nemeses and attacks, by name; all unless given")
  .option("--minutes <n>", "how long faults are made; attacks take what they take", positive, 2)
  .option("--seed <n>", "the choices of an earlier run; a new one unless given", positive)
  .option("--list", "tell the names of all nemeses and attacks, and what they do")
  .option("--check <file>", "check the history of an earlier run again")
  .option("--server <file>", "src/cli/main.ts of another checkout, to see what it breaks")
  .option("--keep", "keep histories and logs though nothing is broken")
  .addHelpText("after", help())
  .parse();

function help(): string {
  return `
Needs Linux and gcc: disks and clocks fail by a library that is compiled and preloaded.
Full disks are mounted, which takes root. Where a promise is broken the seed and the
paths of the histories are printed: JSON lines, beside the logs of the servers.
docs/reliability.md says what is promised.
`;
}

const {
  minutes,
  seed: givenSeed,
  list,
  check,
  keep,
  server: otherServer,
} = program.opts<{
  minutes: number;
  seed?: number;
  list?: boolean;
  check?: string;
  keep?: boolean;
  server?: string;
}>();

if (otherServer !== undefined) server.entry = resolve(otherServer);
if (list === true) {
  const all = [...nemeses, ...attacks];
  const width = Math.max(...all.map(({ name }) => name.length));
  console.log("nemeses");
  for (const { name, journal, what } of nemeses) {
    console.log(`  ${name.padEnd(width)}  ${journal.padEnd(8)}  ${what}`);
  }
  console.log("attacks");
  for (const { name, what } of attacks) console.log(`  ${name.padEnd(width)}            ${what}`);
} else if (check !== undefined) {
  const report = new Report();
  report.addHistory(check, checkHistory(readHistory(check), { recoveryMs }));
  finish(report);
} else {
  await run();
}

async function run(): Promise<void> {
  const names = program.args;
  const known = new Set([...nemeses, ...attacks].map(({ name }) => name));
  const unknown = names.find((name) => !known.has(name));
  if (unknown !== undefined) program.error(`there is no ${unknown}; --list tells all names`);
  const isChosen = ({ name }: { name: string }) => names.length === 0 || names.includes(name);
  const seed = givenSeed ?? Math.floor(Math.random() * maxSeed) + 1;
  const random = randomOf(seed);
  const directory = await mkdtemp(join(tmpdir(), "runlog-robustness-"));
  // PostgreSQL has a user of its own, which has to reach its small disk in it.
  await chmod(directory, 0o755);
  console.log(`seed ${seed}, histories and logs in ${directory}`);
  const report = new Report();
  const totalMs = minutes * 60_000;
  const chosen = nemeses.filter(isChosen);
  const both =
    chosen.some((one) => one.journal !== "postgres") &&
    chosen.some((one) => one.journal !== "sqlite");
  for (const journal of ["sqlite", "postgres"] as const) {
    const own = chosen.filter((one) => one.journal === journal || one.journal === "any");
    // A nemesis of any journal alone is tried on both.
    if (own.length === 0) continue;
    const forMs = names.length === 0 ? totalMs * shares[journal] : both ? totalMs / 2 : totalMs;
    const options = { journal, nemeses: own, random: random.fork(journal), forMs, directory };
    await campaign(options, report);
  }
  const chosenAttacks = attacks.filter(isChosen);
  if (chosenAttacks.length > 0) {
    const attackMs = attackMsOf(names.length === 0 ? totalMs : undefined, chosenAttacks.length);
    const options = { attacks: chosenAttacks, random: random.fork("abuse"), directory, attackMs };
    await runAbuse(options, report);
  }
  finish(report);
  if (report.isBroken) console.log(`seed ${seed}; histories and logs: ${directory}`);
  else if (keep !== true) await rm(directory, { recursive: true, force: true });
}

/** Milliseconds of each attack: all share what faults leave, and each lasts long enough to hurt. */
function attackMsOf(totalMs: number | undefined, count: number): number {
  if (totalMs === undefined) return longestAttackMs;
  const left = totalMs * (1 - shares.sqlite - shares.postgres);
  return Math.min(longestAttackMs, Math.max(shortestAttackMs, left / count));
}

function finish(report: Report): void {
  console.log(report.text());
  if (report.isBroken) process.exitCode = 1;
}
