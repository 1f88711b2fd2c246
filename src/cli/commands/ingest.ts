/** `runlog ingest`: NDJSON on standard input becomes a run. */
import { addAbortListener } from "node:events";
import { constants } from "node:os";
import { Command } from "commander";
import { RunState } from "../../../gen/runlog/v1/run_pb.js";
import { startTimer } from "../../timers.ts";
import { environmentHelp } from "../env.ts";
import { exitStatus, exitStatusHelp } from "../failure.ts";
import { addRunFlags, type RunFlags } from "../flags.ts";
import { notice } from "../output.ts";
import { type RecordedRun, recordRun } from "../record-run.ts";

/** Milliseconds that input is read on after a signal: the agent in front of the pipe got it too. */
const afterSignalMs = 2_000;

/** Builds the command; `exit` takes the status. */
export function ingestCommand(exit: (status: number) => void): Command {
  return addRunFlags(new Command("ingest"))
    .description("Record the lines of standard input as the events of one run.")
    .addHelpText("after", help + environmentHelp + exitStatusHelp)
    .action(async (flags: RunFlags) => exit(await ingest(flags)));
}

const help = `
One event a line. The line is the payload, whatever it holds. Its type is the
line's own string field "type" (1 to 128 bytes), else "line"; a line that is
not JSON is text/plain. The end of input finishes the run as SUCCEEDED, SIGINT or
SIGTERM as CANCELLED.

The run id goes to standard error first, the number of durable events last.
Nothing is lost: while the server is away, input waits. A line that is longer
than an event may be is reported, and the exit status is then 1.

Examples:
  $ my-agent --json | runlog ingest --agent my-agent
  $ runlog ingest --run nightly-7 --parent nightly < events.ndjson
  $ tail -F app.log | runlog ingest --name app
`;

type Interruption =
  | { readonly t: "none" }
  | { readonly t: "signal"; readonly signal: NodeJS.Signals }
  | { readonly t: "cancelled" };

async function ingest(flags: RunFlags): Promise<number> {
  const run = await recordRun(flags, "");
  try {
    const interruption = await readInput(run);
    const state = interruption.t === "none" ? RunState.SUCCEEDED : RunState.CANCELLED;
    await run.finish({ state });
    switch (interruption.t) {
      case "signal":
        return exitStatus.signalBase + constants.signals[interruption.signal];
      case "cancelled":
        return exitStatus.failed;
      default:
        return run.feed.dropped > 0 ? exitStatus.failed : exitStatus.ok;
    }
  } finally {
    run.close();
  }
}

/** Reads to the end of input, or until it is cut off. */
async function readInput(run: RecordedRun): Promise<Interruption> {
  const input = process.stdin;
  const state: { interruption: Interruption; timer: NodeJS.Timeout | undefined } = {
    interruption: { t: "none" },
    timer: undefined,
  };
  const onSignal = (signal: NodeJS.Signals) => {
    if (state.interruption.t === "signal") {
      notice("second signal, ending at once; what is not acknowledged may be lost");
      process.exit(exitStatus.signalBase + constants.signals[signal]);
    }
    state.interruption = { t: "signal", signal };
    state.timer = startTimer(() => input.destroy(), afterSignalMs);
  };
  const onCancelled = () => {
    notice(`asked to stop: ${String(run.cancelled.reason) || "no reason given"}`);
    state.interruption = { t: "cancelled" };
    input.destroy();
  };
  const onFailed = () => input.destroy();
  process.on("SIGINT", onSignal).on("SIGTERM", onSignal);
  // Called also where it has happened already: a run may be cancelled before it is opened.
  const cancellation = addAbortListener(run.cancelled, onCancelled);
  const failure = addAbortListener(run.failed, onFailed);
  try {
    await run.feed.read(input, "standard input", {});
  } catch (error) {
    // Cut off by one of the above; otherwise a real failure.
    run.failed.throwIfAborted();
    if (state.interruption.t === "none") {
      throw error;
    }
  } finally {
    clearTimeout(state.timer);
    cancellation[Symbol.dispose]();
    failure[Symbol.dispose]();
  }
  return state.interruption;
}
