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
    .description("Record standard input as a run: each line is an event.")
    .option(
      "--resume-input",
      "with --run: repeat the same input from its beginning, and skip the lines that the run has",
    )
    .addHelpText("after", help + environmentHelp + exitStatusHelp)
    .action(async (flags: IngestFlags, self: Command) => {
      if (flags.resumeInput && flags.run === undefined) {
        self.error("error: --resume-input needs --run: name the run to continue");
      }
      exit(await ingest(flags));
    });
}

const help = `
Each line is an event, and its payload. The event's type is the line's own string field
"type" (1 to 128 bytes), else "line". A line that is not JSON is text/plain. The end of
the input finishes the run as SUCCEEDED; SIGINT, SIGTERM, SIGHUP and SIGQUIT finish it as
CANCELLED. After a signal ingest reads a pipe for two more seconds, because the program
that writes to it got the signal too.

A newline ends a line. If a line does not begin as JSON, a carriage return alone, as in
progress bars, and a pause of one second end it too; the event then has the attribute
"line-end" (carriage-return, pause, end-of-input).

ingest first prints the run id on standard error, and last the number of durable events.
It loses nothing: while the server is away, it keeps events in memory, then on disk
(--spool), and then stops reading. If a line is longer than the limit of an event, ingest
reports it, records an event runlog.dropped instead, and exits with status 1.

With --resume-input, line n is event n of the run: repeat the same file after a crash, and
nothing comes twice. Only newlines end a line then.

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
    throw new CommandError("standard input is a directory: use a file, or a pipe");
  }
  const run = await recordRun(flags, "", { mayHaveEnded: flags.resumeInput === true });
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
      notice("second signal: ending at once, events that are not acknowledged may be lost");
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
        `the input has ${countText(lines, "line")}, the run ${countText(run.lastRunSeq, "event")} already: repeat the same input, or omit --resume-input`,
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
