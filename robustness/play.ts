/**
 * One history: a system under load, faults one after the other or at once, and what it
 * comes to.
 */
import { mkdir } from "node:fs/promises";
import { join } from "node:path";
import { Health, HealthCheckResponse_ServingStatus } from "../gen/grpc/health/v1/health_pb.js";
import { checkHistory, type Verdict } from "./history/check.ts";
import { History } from "./history/history.ts";
import { pause } from "./load/actor.ts";
import { CallFailure, Channel } from "./load/channel.ts";
import { Load } from "./load/load.ts";
import { produceRun } from "./load/window-producer.ts";
import type { Nemesis, Strike } from "./nemeses/nemesis.ts";
import type { Random } from "./random.ts";
import type { Report } from "./report.ts";
import { startPostgresSystem } from "./system/postgres-system.ts";
import type { ServerNode } from "./system/server-node.ts";
import { canMount } from "./system/small-disk.ts";
import { startSqliteSystem } from "./system/sqlite-system.ts";
import type { JournalKind, Needs, System } from "./system/system.ts";

/** What a history is made of. */
interface PlayOptions {
  readonly journal: JournalKind;
  /** One or more, each for this journal. */
  readonly nemeses: readonly Nemesis[];
  readonly random: Random;
  /** Milliseconds in which faults begin. */
  readonly forMs: number;
  /** An empty directory for the history, the logs and the journal. */
  readonly directory: string;
}

/** How a history went. */
interface Played extends Verdict {
  readonly path: string;
}

/** Bytes that a server under this load may have resident. */
const maxRssBytes = 512 * 2 ** 20;
/** Milliseconds from the end of a fault until each node takes writes again. */
export const recoveryMs = 45_000;
/** Milliseconds between faults, after everybody is well again. */
const calmMs = { min: 200, max: 1_500 };
/** One fault in so many comes together with another one. */
const togetherOneIn = 4;
const neverMs = 60_000;
/** Milliseconds of one fault, with all restarts that belong to it. */
const longestStrikeMs = 120_000;
/** Milliseconds of load without a fault in the end: long enough for Progress to be late. */
const lastCalmMs = 7_000;

/** Plays a history and checks it. */
async function play(options: PlayOptions): Promise<Played> {
  const { directory, random, journal, nemeses } = options;
  await mkdir(directory, { recursive: true });
  const history = new History(join(directory, "history.ndjson"));
  const names = nemeses.map(({ name }) => name);
  history.append({ t: "begin", seed: random.seed, nemeses: names, journal });
  try {
    const start = journal === "sqlite" ? startSqliteSystem : startPostgresSystem;
    const system = await start(directory, history, needsOf(nemeses), maxRssBytes);
    try {
      const urls = system.nodes.map(({ url }) => url);
      const load = new Load(history, urls, random.fork("load"));
      try {
        await load.start();
        await strikeAll(system, history, options);
        await pause(lastCalmMs, new AbortController().signal);
        await load.finish();
      } finally {
        await load.stop();
      }
    } finally {
      await system.close();
    }
  } catch (error) {
    // What keeps the rig from its end is a finding too: the history up to it is checked.
    const what = error instanceof Error ? (error.stack ?? error.message) : String(error);
    history.append({ t: "found", promise: "a history comes to its end", what });
  } finally {
    history.close();
  }
  return { path: history.path, ...checkHistory(history.entries, { recoveryMs }) };
}

/** What all of them need together. */
function needsOf(nemeses: readonly Nemesis[]): Needs {
  return Object.assign({}, ...nemeses.map(({ needs }) => needs));
}

async function strikeAll(system: System, history: History, options: PlayOptions): Promise<void> {
  const { nemeses, forMs } = options;
  const random = options.random.fork("faults");
  const never = new AbortController().signal;
  const untilMs = performance.now() + forMs;
  // Each once, in any order, and then whichever comes.
  const first = shuffled(nemeses, random);
  do {
    await pause(random.between(calmMs.min, calmMs.max), never);
    const chosen = [first.shift() ?? random.pick(nemeses)];
    const others = nemeses.filter((one) => !one.hits.some((hit) => chosen[0]!.hits.includes(hit)));
    if (random.between(1, togetherOneIn) === 1 && others.length > 0)
      chosen.push(random.pick(others));
    const name = chosen.map((one) => one.name).join(" + ");
    history.append({ t: "fault", name, phase: "begin" });
    const mayEnd = chosen.some((one) => one.mayEnd === true);
    const isCutOff = chosen.some(({ hits }) => hits.includes("network"));
    for (const node of system.nodes) {
      node.mayEnd = mayEnd;
      node.mayFailToStart = isCutOff;
    }
    const strike = strikeOf(history, random, never, chosen.length === 1);
    await inTime(name, Promise.all(chosen.map((one) => strikeOnce(one, system, strike))));
    await Promise.all(system.nodes.map((node) => recover(node, name, history, random)));
    for (const node of system.nodes) node.mayEnd = node.mayFailToStart = false;
    history.append({ t: "fault", name, phase: "end" });
    for (const node of system.nodes) node.noteMemory();
  } while (performance.now() < untilMs || first.length > 0);
}

/** @throws Error where a nemesis does not come to its end */
async function inTime(name: string, striking: Promise<unknown>): Promise<void> {
  const over = new AbortController();
  const late = pause(longestStrikeMs, over.signal).then(() => {
    if (!over.signal.aborted) throw new Error(`${name} is not over after ${longestStrikeMs} ms`);
  });
  try {
    await Promise.race([striking, late]);
  } finally {
    over.abort();
  }
}

function strikeOf(history: History, random: Random, never: AbortSignal, isAlone: boolean): Strike {
  return {
    random,
    isAlone,
    wait: (minMs, maxMs) => pause(random.between(minMs, maxMs), never),
    found: (promise, what) => history.append({ t: "found", promise, what }),
  };
}

function strikeOnce(nemesis: Nemesis, system: System, strike: Strike): Promise<void> {
  switch (nemesis.journal) {
    case "any":
      return nemesis.strike(system, strike);
    case "sqlite":
      if (system.kind === "sqlite") return nemesis.strike(system, strike);
      break;
    case "postgres":
      if (system.kind === "postgres") return nemesis.strike(system, strike);
  }
  throw new Error(`${nemesis.name} is not for ${system.kind}`);
}

/** Waits until a node says that it serves, and takes a run from its start to its end. */
async function recover(
  node: ServerNode,
  fault: string,
  history: History,
  random: Random,
): Promise<void> {
  const beganMs = performance.now();
  const late = new AbortController();
  const timer = setTimeout(() => late.abort(), neverMs);
  try {
    while (!late.signal.aborted && !(await isServing(node.url))) await pause(50, late.signal);
    const ending = late.signal;
    const stage = { history, nodes: [node.url], closing: ending, ending };
    const run = `probe-${history.nowMs}-${node.name}`;
    if (!ending.aborted) {
      await produceRun(stage, { name: "probe", random }, { run, parent: "", events: 5 });
    }
  } finally {
    clearTimeout(timer);
  }
  const tookMs = Math.round(performance.now() - beganMs);
  history.append({ t: "recovered", fault, node: node.name, tookMs });
}

async function isServing(url: string): Promise<boolean> {
  const channel = new Channel(url);
  try {
    const { status } = await channel.unary(Health.method.check, {}, 1_000);
    return status === HealthCheckResponse_ServingStatus.SERVING;
  } catch (error) {
    if (error instanceof CallFailure) return false;
    throw error;
  } finally {
    channel.close();
  }
}

/** Histories one after the other. */
export interface CampaignOptions {
  readonly journal: JournalKind;
  readonly nemeses: readonly Nemesis[];
  readonly random: Random;
  /** Milliseconds of faults, over all histories. */
  readonly forMs: number;
  readonly directory: string;
}

/** Milliseconds of faults of one history, and nemeses of one. */
const historyMs = 25_000;
const nemesesOfHistory = 4;

/** Plays histories with the nemeses in turn until the time is over; at least one. */
export async function campaign(options: CampaignOptions, report: Report): Promise<void> {
  const { journal, random, forMs, directory } = options;
  const possible = options.nemeses.filter(
    ({ needs }) => canMount || needs?.smallDiskMiB === undefined,
  );
  for (const { name } of options.nemeses) {
    if (!possible.some((one) => one.name === name)) console.log(`LEFT OUT: ${name} needs root`);
  }
  const untilMs = performance.now() + forMs;
  let waiting: Nemesis[] = [];
  for (let count = 1; ; count++) {
    const leftMs = untilMs - performance.now();
    if (count > 1 && leftMs < historyMs / 2) return;
    const own: Nemesis[] = [];
    while (own.length < Math.min(nemesesOfHistory, possible.length)) {
      if (waiting.length === 0) waiting = shuffled(possible, random);
      const next = waiting.shift()!;
      if (!own.includes(next)) own.push(next);
    }
    const name = `${journal}-${count}`;
    console.log(`${name}: ${own.map((one) => one.name).join(", ")}`);
    const played = await play({
      journal,
      nemeses: own,
      random: random.fork(name),
      forMs: Math.min(historyMs, Math.max(leftMs, 1)),
      directory: join(directory, name),
    });
    console.log(
      `${name}: ${played.ackedEvents} acknowledged events, ${played.violations.length} violations`,
    );
    report.addHistory(played.path, played);
    // What did not even start would not the next time either.
    if (played.ackedEvents === 0) return;
  }
}

function shuffled<T>(all: readonly T[], random: Random): T[] {
  const left = [...all];
  const order: T[] = [];
  while (left.length > 0) order.push(...left.splice(random.between(0, left.length - 1), 1));
  return order;
}
