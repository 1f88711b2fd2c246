/** `runlog ingest`: NDJSON on standard input becomes a run. */
import { addAbortListener } from "node:events";
import { fstatSync } from "node:fs";
import { constants } from "node:os";
import { Command } from "commander";
import { RunState } from "../../../gen/runlog/v1/run_pb.js";
import { startTimer } from "../../timers.ts";
import { environmentHelp } from "../env.ts";
import { CommandError, exitStatus, exitStatusHelp } from "../failure.ts";
import { addRecordFlags, type RecordFlags } from "../flags.ts";
import { endingSignals, notice } from "../output.ts";
import { type RecordedRun, recordRun } from "../record-run.ts";
import { countText, printable } from "../text.ts";

/** Milliseconds that input is read on after a signal: the agent in front of the pipe got it too. */
const afterSignalMs = 2_000;

/** Builds the command; `exit` takes the status. */
export function ingestCommand(exit: (status: number) => void): Command {
  return addRecordFlags(new Command("ingest"))
    .description("Record the lines of standard input as the events of one run.")
    .option(
      "--resume-input",
      "with --run: the input is the same as before, from its beginning; lines that the run has are skipped",
    )
    .addHelpText("after", help + environmentHelp + exitStatusHelp)
    .action(async (flags: IngestFlags, self: Command) => {
      if (flags.resumeInput && flags.run === undefined) {
        self.error("error: --resume-input goes with --run: it goes on with a run");
      }
      exit(await ingest(flags));
    });
}

const help = `
One event a line. The line is the payload, whatever it holds. Its type is the
line's own string field "type" (1 to 128 bytes), else "line"; a line that is
not JSON is text/plain. The end of input finishes the run as SUCCEEDED, SIGINT,
SIGTERM, SIGHUP or SIGQUIT as CANCELLED; a pipe is read for two seconds more, since who
writes to it got the signal too.

A line ends with a newline. One that does not begin as JSON is also ended by a carriage
return alone, as progress bars write it, and by a second without more of it. The
attribute "line-end" (carriage-return, pause, end-of-input) then says so.

The run id goes to standard error first, the number of durable events last.
Nothing is lost: while the server is away, events are kept in memory, then on disk
(--spool), and then input waits. A line that is longer than an event may be is reported,
an event runlog.dropped stands in the log for it, and the exit status is then 1.

With --resume-input line n is event n of the run: after a crash give the same file again,
and nothing comes twice. Then only newlines end a line.

Examples:
  $ my-agent --json | runlog ingest --agent my-agent
  $ runlog ingest --run nightly-7 --parent nightly < events.ndjson
  $ runlog ingest --run nightly-7 --resume-input < events.ndjson
  $ tail -F app.log | runlog ingest --name app
`;

interface IngestFlags extends RecordFlags {
  readonly resumeInput?: true;
}

type Interruption =
  | { readonly t: "none" }
  | { readonly t: "signal"; readonly signal: NodeJS.Signals }
  | { readonly t: "cancelled" };

async function ingest(flags: IngestFlags): Promise<number> {
  // Node reads nothing from it, and says nothing.
  if (fstatSync(process.stdin.fd).isDirectory()) {
    throw new CommandError("standard input is a directory: give a file, or pipe lines in");
  }
  const run = await recordRun(flags, "", flags.resumeInput === true);
  try {
    const interruption = await readInput(run, flags.resumeInput === true);
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
async function readInput(run: RecordedRun, resumes: boolean): Promise<Interruption> {
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
    // Nobody in front of a keyboard has last words that are still on their way.
    state.timer = startTimer(() => input.destroy(), input.isTTY ? 0 : afterSignalMs);
  };
  const onCancelled = () => {
    notice(`asked to stop: ${printable(String(run.cancelled.reason)) || "no reason given"}`);
    state.interruption = { t: "cancelled" };
    input.destroy();
  };
  const onFailed = () => input.destroy();
  for (const signal of endingSignals) process.on(signal, onSignal);
  // Called also where it has happened already: a run may be cancelled before it is opened.
  const cancellation = addAbortListener(run.cancelled, onCancelled);
  const failure = addAbortListener(run.failed, onFailed);
  try {
    const lines = await run.feed.read(input, {
      name: "standard input",
      attributes: {},
      newlinesOnly: resumes,
      skip: resumes ? run.lastRunSeq : 0,
    });
    if (resumes && lines < run.lastRunSeq && state.interruption.t === "none") {
      throw new CommandError(
        `the input has ${countText(lines, "line")}, the run ${countText(run.lastRunSeq, "event")} already: is it the same input?`,
      );
    }
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
