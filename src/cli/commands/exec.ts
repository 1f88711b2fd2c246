/** `runlog exec`: a command as a run. */
import { addAbortListener } from "node:events";
import { constants } from "node:os";
import { basename } from "node:path";
import { Command } from "commander";
import { RunState } from "../../../gen/runlog/v1/run_pb.js";
import type { ResultInit } from "../../client/index.ts";
import { type Ended, lookAfter, type Started, startChild } from "../child.ts";
import { ChildToken } from "../child-token.ts";
import { childEnvironment, environmentHelp } from "../env.ts";
import { exitStatus, explain } from "../failure.ts";
import { addRecordFlags, parseDuration, type RecordFlags } from "../flags.ts";
import { endingSignals, notice, type Output } from "../output.ts";
import { exactDurationText } from "../quantities.ts";
import { type RecordedRun, recordRun } from "../record-run.ts";
import { SignalLines } from "../signal-lines.ts";
import { startOnTerminal } from "../terminal.ts";
import { cut, printable } from "../text.ts";

/** Characters of the command line that name the run; the contract takes 256 bytes. */
const maxNameCharacters = 60;
/** Milliseconds from SIGTERM to SIGKILL, unless --grace says otherwise. */
const defaultGraceMs = 10_000;

/** Builds the command; `exit` takes the status. */
export function execCommand(exit: (status: number) => void): Command {
  const command = new Command("exec");
  return addRecordFlags(command)
    .addOption(
      command
        .createOption(
          "--grace <duration>",
          "time from SIGTERM to SIGKILL for a command that does not end",
        )
        .argParser(parseDuration)
        .default(defaultGraceMs, exactDurationText(defaultGraceMs)),
    )
    .addOption(
      command.createOption("--tty", "give the command a terminal of its own").conflicts("signals"),
    )
    .addOption(
      command
        .createOption("--signals <where>", "pass the run's signals to the command (see below)")
        .choices(["stdin"]),
    )
    .option(
      "--signals-when-written",
      "with --signals: a signal counts as handled once it was written to the command",
    )
    .description("Record a command as a run: each line of its output is an event.")
    .argument("<command...>", "the command and its arguments, after --")
    .passThroughOptions()
    .addHelpText("after", help + environmentHelp)
    .action(async (words: string[], flags: ExecFlags) => {
      if (flags.signalsWhenWritten && flags.signals === undefined) {
        command.error("error: --signals-when-written needs --signals");
      }
      exit(await exec(words, flags));
    });
}

const help = `
Each line of the command's output is an event, as for ingest, with the attribute "stream"
(stdout, stderr, or tty). exec records a line, then prints it; if nobody reads the output,
it continues to record. Lines of one stream keep their order; lines of both are in the
order of their arrival, to within a read. With --tty both are one stream in their true
order, and the command sees a terminal: colours, a width, /dev/tty. RUNLOG_RUN_ID tells
the command its run, so that a nested exec or ingest becomes its child.

The command gets a session of its own. Its run ends when the whole process group has
ended, with its background processes. exec passes SIGINT, SIGTERM, SIGHUP and SIGQUIT on
to the group. A second signal asks the group to end (SIGTERM), a third one kills it
(SIGKILL). exec also kills what has not ended within --grace of a SIGTERM.

exec hands its own token or certificate to nobody. If it has one, it makes a token for the
command that may write to this run and below, and read there, in the file that
RUNLOG_TOKEN_FILE names. exec renews it while the command runs.

The command never waits for the server: while the server is away, exec keeps events in
memory, then on disk (--spool), and sends them later.

With --signals stdin the command reads the run's signals from its standard input, a line
of JSON each:
  {"signal_seq":1,"signal_id":"…","type":"approval","data":{"approved":true},"sender":"…"}
and "time", "content_type" and "attributes" where the signal has them. "data" is JSON as it
was sent, or text (text/*); other bytes are in "data_base64". A signal counts as handled,
with those before it, when the command prints a line of JSON with its signal_seq on its
standard output, such as
  {"type":"answer","signal_seq":1,"text":"thank you"}
which is recorded as an event in the same commit. So a command that dies before it answers
gets the signal again when exec continues the run (--run). With --signals-when-written it
counts as handled once it was written: what the command had not read, or not acted on, when
it died is lost. A line such as
  {"type":"question","wait":{"code":"approval","deadline":"2027-01-01T00:00:00Z"}}
lets the run wait: it is WAITING, without a lease, until the command's next line, also where
exec itself has ended. It does not wait if a signal has come that no earlier line answers.
The standard input stays open as long as the command runs and the run takes events.

Result of the run: SUCCEEDED for status 0; FAILED with the code exit-n for status n, or
with the name of the signal that ended the command; CANCELLED if somebody asked the run to
stop (the group then gets SIGTERM).

Exit status: the command's own, or 128+n if signal n ended it; 126 if the command cannot
be run, 127 if it does not exist; 1 if the run could not be recorded (the command still
runs to its end); 2 for wrong usage.

Examples:
  $ runlog exec -- npm test
  $ runlog exec --agent builder --name "build web" -- make -j4 web
  $ runlog exec --tty -- htop
  $ runlog exec --run support-7 --signals stdin -- ./agent     then, from anywhere:
    runlog signal support-7 --type message '{"text": "hello"}'
  $ runlog exec -- sh -c 'runlog exec -- ./step-1 && runlog exec -- ./step-2'
`;

interface ExecFlags extends RecordFlags {
  /** Milliseconds. */
  readonly grace: number;
  readonly tty?: true;
  readonly signals?: "stdin";
  readonly signalsWhenWritten?: true;
}

async function exec(command: readonly string[], flags: ExecFlags): Promise<number> {
  const [file = "", ...args] = command;
  const name = cut([basename(file), ...args].join(" "), maxNameCharacters);
  const run = await recordRun(flags, name, { receiveSignals: flags.signals !== undefined });
  try {
    const { ended, recorded } = await runChild(file, args, run, flags);
    const own = statusOf(ended);
    if (!recorded) {
      return own === exitStatus.ok ? exitStatus.failed : own;
    }
    await finish(run, resultOf(ended, run.cancelled.aborted));
    return own === exitStatus.ok && run.feed.dropped > 0 ? exitStatus.failed : own;
  } finally {
    run.close();
  }
}

/** Makes all events durable and ends the run; a second signal gives up those that are not durable yet. */
async function finish(run: RecordedRun, result: ResultInit): Promise<void> {
  let signals = 0;
  const onSignal = (signal: NodeJS.Signals) => {
    if (++signals > 1) process.exit(exitStatus.signalBase + constants.signals[signal]);
    notice("sending the rest of the output; a second signal discards what is not durable");
  };
  for (const signal of endingSignals) process.on(signal, onSignal);
  try {
    await run.finish(result);
  } finally {
    for (const signal of endingSignals) process.off(signal, onSignal);
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
  flags: ExecFlags,
): Promise<Outcome> {
  const { server, namespace, ca, grace } = flags;
  const { runId } = run;
  // Not the command's doing, such as a TMPDIR that is not there: the run must not stay RUNNING.
  const onNotStarted = async (error: unknown): Promise<never> => {
    await run.finish(failed("not-started", explain(error)));
    throw error;
  };
  const token = await ChildToken.make(run, flags).catch(onNotStarted);
  const env = childEnvironment({ server, namespace, ca, runId, tokenFile: token?.file });
  const started = await start(file, args, env, flags).catch(async (error: unknown) => {
    token?.remove();
    return onNotStarted(error);
  });
  const child = lookAfter(started, grace);
  if (started.input !== undefined) {
    const signals = new SignalLines(run, flags.signalsWhenWritten ?? false);
    run.feed.emitBy(signals.emit);
    void signals.write(started.input);
  }
  const onCancelled = () => {
    notice(`asked to stop: ${printable(String(run.cancelled.reason)) || "no reason given"}`);
    child.terminate();
  };
  // Called also where the request came before the command was there.
  const cancellation = addAbortListener(run.cancelled, onCancelled);
  try {
    const feeds = child.outputs.map(async ({ name, source, seen }) => {
      // A feed that fails leaves the output open, for passOn.
      const chunks = source.iterator({ destroyOnReturn: false });
      const show = viewerOf(name, seen);
      try {
        await run.feed.read(chunks, { name, attributes: { stream: name } }, show);
        return true;
      } catch (error) {
        if (!run.failed.aborted) throw error;
        // The work goes on, only unrecorded: a log must not stop what it logs.
        await passOn(source, show);
        return false;
      }
    });
    const recorded = (await Promise.all(feeds)).every(Boolean);
    const ended = await child.ended;
    if (!recorded || run.failed.aborted) {
      notice(`the rest of the output was not recorded: ${explain(run.failed.reason)}`);
      return { ended, recorded: false };
    }
    return { ended, recorded: true };
  } finally {
    cancellation[Symbol.dispose]();
    child.dispose();
    token?.remove();
  }
}

async function start(
  file: string,
  args: readonly string[],
  env: NodeJS.ProcessEnv,
  { tty, signals }: ExecFlags,
): Promise<Started> {
  if (tty) return startOnTerminal(file, args, env);
  return startChild(file, args, env, signals === undefined ? "inherit" : "pipe");
}

/** Shows chunks while the terminal takes them; recording goes on without it. */
function viewerOf(name: string, seen: Output): (chunk: Uint8Array) => Promise<void> {
  let looks = true;
  return async (chunk) => {
    if (!looks) return;
    try {
      await seen.write(chunk);
    } catch (error) {
      looks = false;
      if (name !== "stderr") notice(`${explain(error)}; recording continues`);
    }
  };
}

async function passOn(
  source: AsyncIterable<Uint8Array>,
  show: (chunk: Uint8Array) => Promise<void>,
): Promise<void> {
  for await (const chunk of source) await show(chunk);
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
      return failed(ended.signal, `signal ${ended.signal} ended the command`);
    case "not_started":
      return failed(ended.code, ended.message);
  }
}

function failed(code: string, message: string): ResultInit {
  return { state: RunState.FAILED, failure: { code, message } };
}
