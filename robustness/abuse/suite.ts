/**
 * The attacks one after the other on one server, while a canary measures what others
 * notice of it. An attack fails where the server ends, says that it failed, keeps the canary
 * waiting, refuses it something, or takes memory without bound.
 */
import { type ChildProcess, fork } from "node:child_process";
import { once } from "node:events";
import { mkdir } from "node:fs/promises";
import { join } from "node:path";
import { IngestService } from "../../gen/runlog/v1/ingest_pb.js";
import { checkSurroundings } from "../history/check-surroundings.ts";
import { History } from "../history/history.ts";
import type { Violation } from "../history/violation.ts";
import { pause } from "../load/actor.ts";
import { Channel } from "../load/channel.ts";
import type { Random } from "../random.ts";
import type { AttackResult, Report } from "../report.ts";
import { peakRssBytes, ServerNode } from "../system/server-node.ts";
import type { Attack, Target } from "./attack.ts";
import { type CanaryReport, waits } from "./canary.ts";

/** What a suite runs. */
export interface AbuseOptions {
  readonly attacks: readonly Attack[];
  readonly random: Random;
  readonly directory: string;
  /** Milliseconds of each attack, unless it is over before. */
  readonly attackMs: number;
}

/**
 * Bytes that the server may have resident, and milliseconds that the canary may wait: for a
 * call, and for a connection. One that finds the port's queue full is tried again by the
 * kernel after 1, 3, 7 and 15 s.
 */
const bounds = { rssBytes: 1024 * 2 ** 20, waitMs: 10_000, connectMs: 20_000 } as const;
/** Milliseconds after an attack in which the canary still measures. */
const afterMs = 500;
/** Milliseconds after which an attack that does not end is left alone. */
const stuckMs = 20_000;
/** Milliseconds for the canary to be well before the next attack. */
const wellMs = 15_000;
const largeRun = "large";
const large = { appends: 60, eventsEach: 200, eventBytes: 1_500 } as const;
const setUpMs = 20_000;

/** Runs the attacks, and adds what they came to. */
export async function runAbuse(options: AbuseOptions, report: Report): Promise<void> {
  const directory = join(options.directory, "abuse");
  await mkdir(directory);
  const history = new History(join(directory, "history.ndjson"));
  const server = new ServerNode({
    name: "server",
    journal: `sqlite:${join(directory, "journal.db")}`,
    history,
    directory,
    maxRssBytes: bounds.rssBytes,
  });
  await server.start();
  let canary: Canary | undefined;
  try {
    await fill(server.url);
    canary = await Canary.start(server.url);
    for (const attack of options.attacks) {
      const result = await runAttack(attack, server, canary, history, options);
      report.addAttack(result);
      const worst = Math.round(Math.max(...Object.values(result.worstWaitMs)));
      console.log(
        `${attack.name}: worst wait ${worst} ms, ${Math.round(result.peakRssBytes / 2 ** 20)} MiB`,
      );
    }
  } finally {
    canary?.close();
    await server.close();
    history.close();
  }
}

async function runAttack(
  attack: Attack,
  server: ServerNode,
  canary: Canary,
  history: History,
  { random, attackMs }: AbuseOptions,
): Promise<AttackResult> {
  await canary.becomeWell(wellMs);
  peakRssBytes(server.pid);
  const firstEntry = history.entries.length;
  history.append({ t: "fault", name: attack.name, phase: "begin" });
  const own: Violation[] = [];
  const over = new AbortController();
  const { hostname: host, port } = new URL(server.url);
  const target: Target = {
    host,
    port: Number(port),
    url: server.url,
    random: random.fork(attack.name),
    over: over.signal,
    largeRun,
    found: (what) => own.push({ promise: "refusals are expected", what }),
  };
  const timer = setTimeout(() => over.abort(), attackMs);
  const stuck = new AbortController();
  await Promise.race([attack.run(target), pause(stuckMs, stuck.signal)]);
  clearTimeout(timer);
  stuck.abort();
  over.abort();
  await pause(afterMs, new AbortController().signal);
  const { worstWaitMs, failures } = await canary.report();
  history.append({ t: "fault", name: attack.name, phase: "end" });
  const peakRss = server.noteMemory();
  for (const [what, ms] of Object.entries(worstWaitMs)) {
    if (ms <= (what === "connect" ? bounds.connectMs : bounds.waitMs)) continue;
    own.push({
      promise: "serving again",
      what: `the canary waited ${Math.round(ms)} ms for ${what}`,
    });
  }
  for (const failure of failures)
    own.push({ promise: "refusals are expected", what: `canary: ${failure}` });
  const seen = checkSurroundings(history.entries.slice(firstEntry), { recoveryMs: 0 });
  // A server that hangs is ended, or nothing would be known of the attacks that follow.
  const isHanging = Math.max(worstWaitMs.health, worstWaitMs.GetRun) > bounds.waitMs;
  if (isHanging && !(await canary.becomeWell(wellMs))) {
    own.push({ promise: "serving again", what: `not within ${wellMs} ms` });
    await server.end("SIGKILL");
    await server.start();
  }
  // What it does not give back must not be counted against the attacks that follow.
  if (peakRss > bounds.rssBytes) {
    await server.end("SIGKILL");
    await server.start();
  }
  return { name: attack.name, worstWaitMs, peakRssBytes: peakRss, violations: [...own, ...seen] };
}

/** A run that takes long to be read. */
async function fill(url: string): Promise<void> {
  const channel = new Channel(url);
  try {
    const payload = Buffer.alloc(large.eventBytes, "x");
    const { appendEvents } = IngestService.method;
    const request = { runId: largeRun, create: {} };
    let { epoch } = await channel.unary(appendEvents, request, setUpMs);
    for (let count = 0; count < large.appends; count++) {
      const events = Array.from({ length: large.eventsEach }, () => ({ type: "x", data: payload }));
      const firstRunSeq = BigInt(count * large.eventsEach + 1);
      const answer = await channel.unary(
        appendEvents,
        { runId: largeRun, epoch, firstRunSeq, events },
        setUpMs,
      );
      epoch = answer.epoch;
    }
  } finally {
    channel.close();
  }
}

/** The canary's process, from outside. */
class Canary {
  readonly #child: ChildProcess;

  private constructor(child: ChildProcess) {
    this.#child = child;
  }

  static async start(url: string): Promise<Canary> {
    const child = fork(join(import.meta.dirname, "canary.ts"), [url]);
    process.once("exit", () => child.kill("SIGKILL"));
    const canary = new Canary(child);
    if (!(await canary.becomeWell(wellMs)))
      throw new Error("the canary is not well before any attack");
    return canary;
  }

  /** What it has seen since it was last asked. */
  async report(): Promise<CanaryReport> {
    const answer = once(this.#child, "message");
    this.#child.send({});
    const [report] = (await answer) as [CanaryReport];
    return report;
  }

  /** Waits until it gets everything at once; false where it does not. */
  async becomeWell(timeoutMs: number): Promise<boolean> {
    const untilMs = performance.now() + timeoutMs;
    const never = new AbortController().signal;
    await this.report();
    while (performance.now() < untilMs) {
      await pause(300, never);
      const { worstWaitMs, failures } = await this.report();
      const isServed = waits.every((what) => worstWaitMs[what] > 0 && worstWaitMs[what] < 1_000);
      if (isServed && failures.length === 0) return true;
    }
    return false;
  }

  close(): void {
    this.#child.kill("SIGKILL");
  }
}
