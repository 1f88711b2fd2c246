/**
 * The demo: a tree of processes writes one journal, the server and a worker
 * are killed in the middle, one stream shows it all, and a check recounts. With
 * --cluster three servers share a PostgreSQL, and that is killed as well.
 *
 * Exits with 0 only if the check holds. Everything lives in a temporary
 * directory that is removed at the end; where no record comes for 90 s it fails.
 */
import { type ChildProcess, fork, spawn } from "node:child_process";
import { existsSync, mkdirSync, mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { setTimeout as sleep } from "node:timers/promises";
import pc from "picocolors";
import { v7 as uuidv7 } from "uuid";
import type { SequencedEvent } from "../gen/runlog/v1/record_pb.js";
import { StopPolicy } from "../gen/runlog/v1/subscribe_pb.js";
import { type FollowRequest, type FollowState, follow } from "../src/client/index.ts";
import { connectTo } from "../src/client/node/index.ts";
import { type CheckResult, check, fingerprint } from "./check.ts";
import { Screen } from "./screen.ts";
import { runlogPath } from "./server-process.ts";
import { clusterSetting, embeddedSetting } from "./settings.ts";
import { demoBackoff, type Task, workerRunId } from "./tasks.ts";
import { ended } from "./workers.ts";

const repository = join(import.meta.dirname, "..");
/** Directories that get a worker each, where they exist. */
const directories = ["src", "test", "gen", "proto", "demo"];
/** The worker that is killed: it has the most workers of its own. */
const victim = "src";
/** Milliseconds over which every worker spreads its work. */
const paceMs = 8_000;
/** Records that are seen before the first fault: by then most workers are at work. */
const recordsBeforeFaults = 250;
/** Milliseconds between the faults. */
const betweenFaultsMs = 700;
/** Milliseconds without a new record, after which the demo hangs: it must end on a slow machine too. */
const silenceMs = 90_000;

const screen = new Screen();
const directory = mkdtempSync(join(tmpdir(), "runlog-demo-"));
const over = new AbortController();
const silence = setTimeout(
  () => over.abort(new Error(`no record has come for ${silenceMs / 1000} s`)),
  silenceMs,
);
process.once("SIGINT", () => over.abort(new Error("interrupted")));
process.once("SIGTERM", () => over.abort(new Error("interrupted")));
const isCluster = process.argv.includes("--cluster");
const setting = isCluster ? clusterSetting(screen) : embeddedSetting(screen, directory);
let orchestrator: ChildProcess | undefined;
try {
  process.exitCode = (await demo(over.signal)) ? 0 : 1;
} catch (error) {
  screen.say(pc.red(`the demo failed: ${error instanceof Error ? error.message : String(error)}`));
  process.exitCode = 1;
} finally {
  clearTimeout(silence);
  over.abort(new Error("over"));
  // Its workers end with it.
  orchestrator?.kill("SIGKILL");
  await setting.end();
  rmSync(directory, { recursive: true, force: true });
}

async function demo(signal: AbortSignal): Promise<boolean> {
  const startedMs = performance.now();
  const url = await setting.start(signal);
  const sentDirectory = join(directory, "sent");
  mkdirSync(sentDirectory);
  const rootRunId = uuidv7();
  const areas = directories.filter((name) => existsSync(join(repository, name)));
  const task: Task = {
    server: url,
    rootRunId,
    runId: rootRunId,
    parentRunId: "",
    name: "orchestrator",
    repository,
    directory: areas.join(","),
    sentDirectory,
    paceMs,
  };
  orchestrator = fork(join(import.meta.dirname, "orchestrator.ts"), [JSON.stringify(task)]);
  const orchestratorEnd = ended(orchestrator);
  screen.act(
    `orchestrator started (pid ${orchestrator.pid}): a worker each for ${areas.join(", ")}`,
  );

  const connection = connectTo(url);
  try {
    const { live, connections } = await followWithFaults(connection, task, orchestrator, signal);
    const status = await orchestratorEnd;
    screen.say();
    await runlog(["runs", "--tree", "--ancestor", rootRunId, "--server", url], signal);
    const replay = await replayAll(connection, signal);
    const result = check(sentDirectory, live, replay);
    report(result, replay.length, connections, performance.now() - startedMs);
    if (status !== 0) {
      screen.say(pc.red(`the orchestrator ended with ${status}`));
    }
    return result.mistakes.length === 0 && status === 0;
  } finally {
    connection.close();
  }
}

/** Follows the family to its end; meanwhile kills the server and a worker. */
async function followWithFaults(
  connection: ReturnType<typeof connectTo>,
  task: Task,
  root: ChildProcess,
  signal: AbortSignal,
): Promise<{ readonly live: string[]; readonly connections: number }> {
  const live: string[] = [];
  let connections = 0;
  const onState = (state: FollowState) => {
    if (state.t === "following" && ++connections > 1) {
      screen.act("the follower is back and resumes from its cursor");
    }
  };
  const request: FollowRequest = {
    filter: {
      scope: { case: "ancestor", value: { ancestorRunId: task.rootRunId, includeSelf: true } },
    },
    after: 0n,
    stop: StopPolicy.FINISHED,
    allowMissing: true,
  };
  const options = { signal, onState, backoff: demoBackoff };
  const victimRunId = workerRunId(task.rootRunId, victim);
  let victimSeen = false;
  let faults: Promise<void> | undefined;
  for await (const item of follow(connection.transport, request, options)) {
    for (const record of item.t === "records" ? item.records : []) {
      silence.refresh();
      live.push(fingerprint(record));
      screen.show(record);
      victimSeen ||= record.runId === victimRunId;
      if (victimSeen && live.length >= recordsBeforeFaults && faults === undefined) {
        faults = makeFaults(root, signal);
        // Awaited below; until then its failure must not count as unhandled.
        faults.catch(() => undefined);
      }
    }
  }
  if (faults === undefined) {
    throw new Error(`the family ended before the worker ${victim} could be killed`);
  }
  await faults;
  return { live, connections };
}

/**
 * The server first, then the worker: what the worker has sent and nobody has
 * acknowledged dies with it, and its successor has to send it again.
 */
async function makeFaults(root: ChildProcess, signal: AbortSignal): Promise<void> {
  await setting.breakDown();
  await sleep(betweenFaultsMs, undefined, { signal });
  const answer = new Promise<unknown>((resolve) => root.once("message", resolve));
  root.send({ kill: victim });
  const { killed } = (await answer) as { readonly killed: boolean };
  if (!killed) {
    throw new Error(`the worker ${victim} was not running when it should have been killed`);
  }
  screen.act(`kill -9 of the worker ${victim}; its own workers end with it`);
  await sleep(betweenFaultsMs, undefined, { signal });
  await setting.repair(signal);
}

/** Reads the whole journal from the beginning. */
async function replayAll(
  connection: ReturnType<typeof connectTo>,
  signal: AbortSignal,
): Promise<SequencedEvent[]> {
  const request: FollowRequest = {
    filter: { scope: { case: "all", value: {} } },
    after: 0n,
    stop: StopPolicy.CAUGHT_UP,
  };
  const records: SequencedEvent[] = [];
  for await (const item of follow(connection.transport, request, { signal })) {
    if (item.t === "records") {
      silence.refresh();
      records.push(...item.records);
    }
  }
  return records;
}

/** Runs the command line as a user would. */
async function runlog(args: readonly string[], signal: AbortSignal): Promise<void> {
  const child = spawn(process.execPath, [runlogPath, ...args], { stdio: "inherit", signal });
  const status = await ended(child);
  if (status !== 0) {
    throw new Error(`runlog ${args[0]} ended with ${status}`);
  }
}

function report(result: CheckResult, records: number, connections: number, tookMs: number): void {
  const holds = result.mistakes.length === 0;
  const lines = [
    `${result.runs} runs, written by ${result.processes} processes`,
    `${result.events} events recorded, ${records} records in all: seq 1 to ${records}, dense`,
    `the follower saw them all, once, in order, over ${connections} connections`,
    `senders reconnected ${result.reconnects} times and sent ${result.resent} events again;`,
    `restarted workers repeated ${result.sentTwice} events that were not durable yet`,
  ];
  screen.say(pc.bold("\nThe check: what each process says it sent, against the journal"));
  for (const line of holds ? lines : result.mistakes.slice(0, 20)) {
    screen.say(`  ${line}`);
  }
  const took = `${(tookMs / 1000).toFixed(1)} s`;
  screen.say(
    holds
      ? pc.green(pc.bold(`\nNothing lost, nothing doubled. (${took})`))
      : pc.red(pc.bold(`\n${result.mistakes.length} mistakes. (${took})`)),
  );
}
