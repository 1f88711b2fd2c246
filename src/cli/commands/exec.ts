/** `runlog exec`: a command as a run. */
import { addAbortListener } from "node:events";
import { constants } from "node:os";
import { basename } from "node:path";
import { Command } from "commander";
import { RunState } from "../../../gen/runlog/v1/run_pb.js";
import type { ResultInit } from "../../client/index.ts";
import { type Ended, startChild } from "../child.ts";
import { childEnvironment, environmentHelp } from "../env.ts";
import { exitStatus, explain } from "../failure.ts";
import { addRunFlags, type RunFlags } from "../flags.ts";
import { notice } from "../output.ts";
import { type RecordedRun, recordRun } from "../record-run.ts";
import { cut } from "../text.ts";

/** Characters of the command line that name the run; the contract takes 256 bytes. */
const maxNameCharacters = 60;

/** Builds the command; `exit` takes the status. */
export function execCommand(exit: (status: number) => void): Command {
  return addRunFlags(new Command("exec"))
    .description("Run a command as a run: its output lines are the events.")
    .argument("<command...>", "the command and its arguments, after --")
    .passThroughOptions()
    .addHelpText("after", help + environmentHelp)
    .action(async (command: string[], flags: RunFlags) => exit(await exec(command, flags)));
}

const help = `
Each line of the command's output is an event, as for ingest, with the
attribute "stream" (stdout or stderr); the output is still seen. Signals are
passed on. RUNLOG_RUN_ID tells the command its run, so that a nested exec or
ingest becomes its child.

The result: status 0 SUCCEEDED, n FAILED with the code exit-n, ended by a signal
FAILED with the signal's name, CANCELLED where the run was asked to stop (the
command then gets SIGTERM).

Exit status: the command's own, 128+n where signal n ended it; 126 and 127 where
it cannot be run or does not exist; 1 where the run could not be recorded (the
command still runs to its end) and 2 for wrong usage.

Examples:
  $ runlog exec -- npm test
  $ runlog exec --agent builder --name "build web" -- make -j4 web
  $ runlog exec -- sh -c 'runlog exec -- ./step-1 && runlog exec -- ./step-2'
`;

async function exec(command: readonly string[], flags: RunFlags): Promise<number> {
  const [file = "", ...args] = command;
  const run = await recordRun(flags, cut([basename(file), ...args].join(" "), maxNameCharacters));
  try {
    const { ended, recorded } = await runChild(file, args, run, flags);
    const own = statusOf(ended);
    if (!recorded) {
      return own === exitStatus.ok ? exitStatus.failed : own;
    }
    await run.finish(resultOf(ended, run.cancelled.aborted));
    return own === exitStatus.ok && run.feed.dropped > 0 ? exitStatus.failed : own;
  } finally {
    run.close();
  }
}

interface Outcome {
  readonly ended: Ended;
  /** Whether the run took the output to its end. */
  readonly recorded: boolean;
}

async function runChild(
  file: string,
  args: readonly string[],
  run: RecordedRun,
  flags: RunFlags,
): Promise<Outcome> {
  const { server, namespace } = flags;
  const env = childEnvironment({ server, namespace, runId: run.runId });
  const child = startChild(file, args, env);
  const onCancelled = () => {
    notice(`asked to stop: ${String(run.cancelled.reason) || "no reason given"}`);
    child.kill("SIGTERM");
  };
  // Called also where the request came before the command was there.
  const cancellation = addAbortListener(run.cancelled, onCancelled);
  try {
    const feeds = child.outputs.map(async ({ name, source, seen }) => {
      // A feed that fails leaves the output open, for passOn.
      const chunks = source.iterator({ destroyOnReturn: false });
      try {
        await run.feed.read(chunks, name, { stream: name }, (chunk) => seen.write(chunk));
        return true;
      } catch (error) {
        if (seen.closed.aborted) {
          // Nobody reads on: the command learns it as in any pipeline.
          source.destroy();
          return true;
        }
        if (!run.failed.aborted) {
          throw error;
        }
        // The work goes on, only unrecorded: a log must not stop what it logs.
        await passOn(source, seen);
        return false;
      }
    });
    const recorded = (await Promise.all(feeds)).every(Boolean);
    const ended = await child.ended;
    if (!recorded || run.failed.aborted) {
      notice(`the output was not recorded to its end: ${explain(run.failed.reason)}`);
      return { ended, recorded: false };
    }
    return { ended, recorded: true };
  } finally {
    cancellation[Symbol.dispose]();
    child.dispose();
  }
}

async function passOn(
  source: AsyncIterable<Uint8Array>,
  seen: { write(chunk: Uint8Array): Promise<void> },
): Promise<void> {
  for await (const chunk of source) {
    await seen.write(chunk);
  }
}

function statusOf(ended: Ended): number {
  switch (ended.t) {
    case "exit":
      return ended.code;
    case "signal":
      return exitStatus.signalBase + constants.signals[ended.signal];
    case "not_started":
      return ended.code === "ENOENT" ? exitStatus.notFound : exitStatus.notExecutable;
  }
}

function resultOf(ended: Ended, cancelled: boolean): ResultInit {
  if (cancelled && ended.t !== "not_started") {
    return { state: RunState.CANCELLED };
  }
  switch (ended.t) {
    case "exit":
      return ended.code === 0
        ? { state: RunState.SUCCEEDED }
        : failed(`exit-${ended.code}`, `the command ended with status ${ended.code}`);
    case "signal":
      return failed(ended.signal, `the command was ended by ${ended.signal}`);
    case "not_started":
      return failed(ended.code, ended.message);
  }
}

function failed(code: string, message: string): ResultInit {
  return { state: RunState.FAILED, failure: { code, message } };
}
